"""The `guide` command: samples that keep a rule, which needs no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from redrift._core.errors import choose, whole
from redrift._core.files import write_atomically
from redrift.cli.budget import NoSteps
from redrift.cli.functions import find_function
from redrift.cli.pictures import grid, save_picture, stack
from redrift.cli.report import Device, Json, Model, Report, Seed, Threads, plainly
from redrift.cli.sampling import condition, open_model
from redrift.denoise import Denoiser
from redrift.guidance import (
    SCG,
    SVDD,
    BestOfN,
    FKSteering,
    Guidance,
    Particles,
    TreeG,
    TreeGSD,
    rules,
)
from redrift.guidance.loss import Function
from redrift.measure import Weights
from redrift.process import Process
from redrift.sampling import sample
from redrift.solvers import SOLVERS, Plan, plan_for

METHODS = ("scg", "svdd", "fk", "treeg", "treeg-sd", "best-of-n")
RULES: dict[str, Callable[..., Function]] = {
    "symmetry": rules.symmetry,
    "components": rules.components,
    "jpeg_size": rules.jpeg_size,
    "brightness": rules.brightness,
}
_TILT = 4.0  # default inverse temperature, over the standard deviation of the unguided loss
_TARGETS: dict[str, type] = {"components": int, "jpeg_size": int, "brightness": float}


@plainly
def guide(
    model: Model,
    rule: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(RULES)}, or module:function of (B, C, H, W) in [-1, 1] to (B,)."
        ),
    ] = "symmetry",
    target: Annotated[
        float | None,
        typer.Option(help="What the rule wants: regions, bytes of a JPEG, mean brightness."),
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "scg",
    candidates: Annotated[
        int,
        typer.Option(
            help="Draws judged a step for each sample: proposals, particles (fk), beams x "
            "proposals (treeg), perturbed predictions (treeg-sd), or whole runs (best-of-n)."
        ),
    ] = 16,
    evaluations: Annotated[
        int,
        typer.Option(help="Evaluations of the stochastic plan, those of guidance not counted."),
    ] = 50,
    steps: NoSteps = None,
    inverse_temperature: Annotated[
        float | None,
        typer.Option(
            help="lambda of the tilt exp(-lambda loss), for svdd and fk; 4 over the standard "
            "deviation of the unguided loss if absent."
        ),
    ] = None,
    active: Annotated[
        float | None,
        typer.Option(help="Guide below this fraction of the horizon; the method's if absent."),
    ] = None,
    every: Annotated[int, typer.Option(help="Guide every so many steps.")] = 1,
    solver: Annotated[
        str | None,
        typer.Option(help="A plan with noise; ddpm, or gddim for CLD and Blur, if absent."),
    ] = None,
    n: Annotated[int, typer.Option(help="Number of samples.")] = 16,
    label: Annotated[int | None, typer.Option(help="Class to sample; any if absent.")] = None,
    max_batch: Annotated[int, typer.Option(help="Most rows of one network call.")] = 256,
    out: Annotated[
        Path | None, typer.Option(help="Picture of unguided and guided samples to write.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Safetensors file for the samples in [-1, 1].")
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Sample under a rule that needs no gradient, beside the same seeds without it.

    Example: redrift guide digits --rule symmetry --candidates 16 --evaluations 50 --n 16 --out grid.png
    """
    report = Report(json, seed, threads, device, (out, save))
    choose("method", method, METHODS)
    whole("n", n)
    loss = find_rule(rule, target)
    made = open_model(model)
    made.to(report.device)
    plan = noisy_plan(made.process, evaluations, solver)
    if not plan.stochastic:
        raise ValueError(
            f"guidance chooses among draws of a step's noise, and {plan.name!r} has none: leave --solver "
            "out, or use ddpm or exponential_sde."
        )
    whole("candidates", candidates)
    options = {
        "every": every, "max_batch": whole("max_batch", max_batch),
        **({} if active is None else {"active": (active, 0.0)}),
    }  # fmt: skip
    policy(
        method, loss, candidates, inverse_temperature or 1.0, **options
    )  # a mistake is told before work
    if inverse_temperature is not None and not inverse_temperature > 0:
        raise ValueError(f"inverse_temperature must be positive, got {inverse_temperature}.")
    report.print(str(plan))
    shape = made.card.get("shape")
    if shape is None:
        raise ValueError("the model's card lacks the shape of its data; save it with one.")
    run: dict[str, Any] = {
        "shape": (n, *shape),
        "cond": {k: v.to(report.device) for k, v in condition(made, n, label).items()},
    }
    plain = sample(made, plan, generator=report.generators(n), **run)
    before = BestOfN(loss, 1).loss(plain)
    if inverse_temperature is None:
        spread = float(before.std()) if n > 1 else 0.0
        inverse_temperature = _TILT / spread if spread > 0 else 1.0
    x, found = guided(
        made, plan, method, loss, candidates, inverse_temperature, options, run,
        report.generators(n), show=report.console.is_terminal,
    )  # fmt: skip
    figures = _figures(report, before, found, plain, x)
    if out is not None:
        strips = [
            (f"unguided\nloss {figures['unguided_loss']:.3g}", grid(plain)),
            (f"{method}\nloss {figures['loss']:.3g}", grid(x)),
        ]
        save_picture(stack(strips, margin=150), out)
        report.print(f"wrote {out}")
    if save is not None:
        data = {"samples": x.cpu().contiguous()}
        write_atomically(save, lambda to: save_file(data, to))
        report.print(f"wrote {save}")
    report.finish(
        model=model, plan=str(plan), rule=rule, method=method, candidates=candidates,
        inverse_temperature=inverse_temperature, **figures,
    )  # fmt: skip


def find_rule(name: str, target: float | None = None) -> Function:
    """Return a rule for pictures by name, or a user's function.

    Raises:
        ValueError: if there is none, or it takes no such target.
    """
    if ":" in name:
        if target is not None:
            raise ValueError("--target is for the named rules; put it into your function.")
        return _guarded(name, find_function(name))
    make = RULES[choose("rule", name, RULES)]
    if target is None:
        return make(0.0) if name == "brightness" else make()
    if name not in _TARGETS:
        raise ValueError(f"the rule {name!r} takes no --target.")
    if _TARGETS[name] is int and target != int(target):
        raise ValueError(f"--target of {name!r} must be a whole number, got {target:g}.")
    if name == "brightness" and not -1 <= target <= 1:
        raise ValueError(f"--target of 'brightness' must lie in [-1, 1], got {target:g}.")
    return make(_TARGETS[name](target))


def _guarded(name: str, function: Function) -> Function:
    """Return a user's rule whose failures name it."""
    if not callable(function):
        raise ValueError(f"{name} is no function, but {type(function).__name__}.")

    def rule(x: Tensor) -> Any:  # noqa: ANN401
        try:
            return function(x)
        except Exception as error:
            raise ValueError(
                f"the rule {name} failed with {type(error).__name__}: {error}"
            ) from error

    rule.__name__ = name
    return rule


def noisy_plan(process: Process, steps: int, solver: str | None = None) -> Plan:
    """Return a stochastic plan for any process."""
    if solver is not None:
        return plan_for(process, steps, solver=choose("solver", solver, SOLVERS))
    if process.k == 1 and process.modes == ():
        return plan_for(process, steps, solver="ddpm")
    return plan_for(process, steps, solver="gddim", order=1, stochasticity=1.0)


def policy(
    method: str,
    loss: Function,
    candidates: int,
    inverse_temperature: float,
    **options: Any,  # noqa: ANN401
) -> Particles:
    """Return a method that judges `candidates` draws at each step of each sample."""
    if method == "scg":
        return SCG(loss, candidates=candidates, **options)
    if method == "svdd":
        return SVDD(
            loss, candidates=candidates, inverse_temperature=inverse_temperature, **options
        )
    if method == "fk":
        return FKSteering(
            loss, particles=candidates, inverse_temperature=inverse_temperature, **options
        )
    if method == "treeg-sd":
        return TreeGSD(loss, candidates=candidates, **options)
    if method == "best-of-n":
        run = {name: value for name, value in options.items() if name not in ("active", "every")}
        return BestOfN(loss, candidates, inverse_temperature=inverse_temperature, **run)
    beams = max(k for k in range(1, math.isqrt(candidates) + 1) if candidates % k == 0)
    return TreeG(loss, beams=beams, candidates=candidates // beams, **options)


def guided(
    model: Denoiser,
    plan: Plan,
    method: str,
    loss: Function,
    candidates: int,
    inverse_temperature: float,
    options: dict[str, Any],
    run: dict[str, Any],
    generators: list[torch.Generator],
    *,
    show: bool = False,
) -> tuple[Tensor, Guidance]:
    """Sample under a rule, with a bar that shows the loss of what is kept at each step."""
    with tqdm(total=len(plan.rows), unit="step", disable=not show) as bar:

        def watch(step: int, kept: Tensor) -> None:
            bar.set_postfix_str(f"loss {float(kept.mean()):.4g}", refresh=False)

        def stepped(index: int, time: float, state: Tensor) -> None:
            bar.update()

        act = policy(method, loss, candidates, inverse_temperature, watch=watch, **options)
        x = sample(
            model, plan, policy=act, generator=generators,
            callback=stepped, **run,
        )  # fmt: skip
    return x, act.results[-1]


def spread(x: Tensor) -> float:
    """Return how far samples are from their mean: the root mean square over samples and pixels."""
    return float((x.double() - x.double().mean(0)).square().mean().sqrt())


def _figures(
    report: Report, before: Tensor, found: Guidance, plain: Tensor, x: Tensor
) -> dict[str, Any]:
    """Print and return what the run gave."""
    figures: dict[str, Any] = {
        "loss": float(found.loss.mean()), "unguided_loss": float(before.mean()),
        "evaluations": found.evaluations, "ess": None, "log_z": None,
        "spread": spread(x), "unguided_spread": spread(plain),
    }  # fmt: skip
    report.print(f"loss      {figures['loss']:.4g}   unguided {figures['unguided_loss']:.4g}")
    report.print(f"spread    {figures['spread']:.3f}   unguided {figures['unguided_spread']:.3f}")
    report.print(f"network   {found.evaluations} evaluations a sample")
    if found.weights is not None:
        log_w = found.weights.log_w
        own = Weights(log_w if log_w.shape[1] > 1 else log_w.T)
        figures["ess"] = float(own.ess.mean())
        figures["log_z"] = float(Weights(log_w.flatten()).log_z)
        report.print(f"log Z     {figures['log_z']:.4g}   ESS {figures['ess']:.1%}")
    return figures


__all__ = ["METHODS", "RULES", "find_rule", "guide", "noisy_plan", "policy", "spread"]
