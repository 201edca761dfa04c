"""The `density` command: samples, weights and log Z of an unnormalised density."""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.files import write_atomically
from redrift._core.optional import need
from redrift.cli.functions import find_function
from redrift.cli.report import Device, Json, Report, Seed, Threads, plainly
from redrift.control import PIS, Buffer, Checkpoint, TrustWarning, anneal, sample_smc
from redrift.control.density import as_target, checked
from redrift.measure import Weights
from redrift.process import Brownian
from redrift.targets import TARGETS, Target, pines

_METHODS = ("pis", "pis+smc", "smc", "ais")
_SHOWN = 6  # coordinates of a corner plot


@plainly
def density(
    target: Annotated[
        str,
        typer.Argument(help=f"module:function, cox, or one of {', '.join(TARGETS)}."),
    ],
    dim: Annotated[int | None, typer.Option(help="Length of x, for module:function.")] = None,
    data: Annotated[Path | None, typer.Option(help="CSV of the pines' places, for cox.")] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(_METHODS)}.")] = "pis",
    fit_seconds: Annotated[
        float | None, typer.Option(help="Processor time to train for; 60 if nothing is given.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Iterations to train for instead: reproducible.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="kl, kl-stl, lv, tb, am, bm, mixed; commas for phases.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of a path, or temperatures of ais.")] = 100,
    variance: Annotated[
        float | None, typer.Option(help="Variance of the reference's end; measured if absent.")
    ] = None,
    start: Annotated[
        float | None, typer.Option(help="Standard deviation that covers the target.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Measure a whole covariance: for correlated targets.")
    ] = False,
    particles: Annotated[
        int, typer.Option(help="Annealed particles that training starts from.")
    ] = 10_000,
    n: Annotated[int, typer.Option(help="Samples to draw.")] = 5000,
    out: Annotated[
        Path | None, typer.Option(help="npz file for x and log_weight (unnormalised).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Corner plot of the weighted samples.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="File of the sampler: written, or read with --no-fit.")
    ] = None,
    fit: Annotated[bool, typer.Option(help="Train; --no-fit samples --model.")] = True,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File for the state of training, every 500 iterations.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint.")] = False,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Sample an unnormalised density and estimate its log Z, with a warning when neither is sound.

    Example: redrift density funnel --fit-seconds 60 --n 5000 --out samples.npz --plot corner.png
    """
    report = Report(json, seed, threads, device, (out, plot, model, checkpoint))
    choose("method", method, _METHODS)
    whole("n", n, least=2)
    if report.device.type != "cpu":
        raise ValueError("density runs on the CPU: its chains are made of small steps.")
    for path, ending in ((out, ".npz"), (plot, ".png")):
        if path is not None and path.suffix != ending:
            raise ValueError(f"{path} must end in {ending}.")
    density = _find(target, dim, data)
    g = torch.Generator().manual_seed(report.seed)
    figures: dict[str, Any] = {"target": density.name, "dim": density.dim, "method": method}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)  # said below, once
        if method in ("smc", "ais"):
            x, weights, concern = _annealed(density, method, n, start, steps, g)
        else:
            pis = _sampler(density, steps, variance, model, full=full, fit=fit)
            if fit:
                history = pis.fit(
                    iterations, seconds=_seconds(fit_seconds, iterations),
                    buffer=Buffer(particles=whole("particles", particles, least=2), start=start),
                    loss=None if loss is None else loss.split(","), check=False,
                    checkpoint=None if checkpoint is None else Checkpoint(checkpoint, resume),
                    generator=g,
                    progress=json != "-" and sys.stderr.isatty(),
                )  # fmt: skip
                figures |= {"iterations": history.iterations, "fit_seconds": history.seconds}
                figures["measured"] = history.measured
                if model is not None:
                    pis.save(model)
            # streams of their own: a resumed fit ends in the same samples
            judge, g = (torch.Generator().manual_seed(report.seed + i) for i in (1, 2))
            verdict = pis.check(n=min(n, 4000), generator=judge)
            if method == "pis":
                x, weights = pis.sample(n, generator=g)
            else:
                x, weights = sample_smc(pis, n, generator=g)
            figures["check"] = asdict(verdict)
            concern = verdict.concern or weights.concern
    if out is not None:
        _write(out, x, weights)
    if plot is not None:
        write_atomically(plot, lambda path: corner(x, weights, path))
    _finish(report, density, weights, concern, figures, method)


def _seconds(fit_seconds: float | None, iterations: int | None) -> float | None:
    if fit_seconds is not None and iterations is not None:
        raise ValueError("give --fit-seconds or --iterations, not both.")
    return 60.0 if fit_seconds is None and iterations is None else fit_seconds


def _find(name: str, dim: int | None, data: Path | None) -> Target:
    """Return the target of a name, or a user's function."""
    if ":" not in name:
        if name == "cox":
            if data is None:
                raise ValueError("cox needs the pines' places: give --data FILE.csv.")
            return pines(data).whitened()
        found = TARGETS[choose("target", name, [*TARGETS, "cox"])]()
        if dim is not None and dim != found.dim:
            raise ValueError(f"{name} has dim {found.dim}, --dim is for module:function.")
        return found
    return as_target(find_function(name), dim, None)


def _sampler(
    target: Target,
    steps: int,
    variance: float | None,
    model: Path | None,
    *,
    full: bool,
    fit: bool,
) -> PIS:
    if not fit:
        if model is None:
            raise ValueError("--no-fit needs --model FILE to read.")
        return PIS.load(model, target)
    if target.name == "cox" and variance is None:
        variance = 1.0  # its coordinates are white
    reference = None if variance is None else Brownian(variance)
    return PIS(target, reference=reference, steps=steps, full=full)


def _annealed(
    target: Target, method: str, n: int, start: float | None, steps: int, g: torch.Generator
) -> tuple[Tensor, Weights, str | None]:
    options: dict[str, Any] = {"scale": 4.0 if start is None else start, "generator": g}
    if method == "ais":
        options |= {"temperatures": whole("steps", steps), "ess_threshold": 0.0}
    run = anneal(checked(target.log_prob, target.dim), target.score, target.dim, n, **options)
    concern = run.weights.concern
    if concern is None and run.survivors < 0.05 * n:
        concern = f"{n} particles descend from {run.survivors} only: use more"
    return run.x, run.weights, concern


def _write(path: Path, x: Tensor, weights: Weights) -> None:
    arrays = {"x": x.numpy(), "log_weight": weights.log_w.numpy()}

    def write(target: str) -> None:
        with open(target, "wb") as file:
            np.savez(file, **arrays)  # pyright: ignore

    write_atomically(path, write)


def _finish(
    report: Report,
    target: Target,
    weights: Weights,
    concern: str | None,
    figures: dict[str, Any],
    method: str,
) -> None:
    values: dict[str, Any] = {
        "log_z": float(weights.log_z),
        "log_z_se": float(weights.log_z_se),
        "ess": float(weights.ess),
        "k_hat": float(weights.k_hat),
        "elbo": float(weights.log_w.mean()) if method == "pis" else None,
        "log_z_reference": target.log_z,
        "warning": concern,
    }
    values = {k: _plain(v) for k, v in (figures | values).items()}
    known = "" if target.log_z is None else f"  (reference {target.log_z:.4f})"
    report.print(
        f"[bold]{target.name}[/] in {target.dim} dimensions, {method}, {len(weights)} samples"
    )
    report.print(f"  log Z  {float(weights.log_z):.4f} +- {float(weights.log_z_se):.4f}{known}")
    report.print(f"  ESS    {float(weights.ess):.1%}    k-hat  {float(weights.k_hat):.2f}")
    if values["elbo"] is not None:
        report.print(f"  ELBO   {float(weights.log_w.mean()):.4f}")
    if concern:
        report.print(f"[yellow]warning[/] {concern}")
    report.finish(**values)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a value that JSON knows: infinities become None."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def corner(x: Tensor, weights: Weights, path: str) -> None:
    """Draw the weighted samples' first coordinates, alone and in pairs.

    Raises:
        ImportError: without matplotlib.
    """
    figure_type = need("matplotlib.figure", "plots").Figure
    x = weights.resample(x, min(len(x), 20_000), generator=torch.Generator().manual_seed(0))
    shown = min(x.shape[1], _SHOWN)
    columns = [x[:, i].double().numpy() for i in range(shown)]
    limits = [np.quantile(c, (0.002, 0.998)) for c in columns]
    ranges = [(a - 0.05 * (b - a) - 1e-9, b + 0.05 * (b - a) + 1e-9) for a, b in limits]
    figure = figure_type(figsize=(1 + 1.7 * shown, 1 + 1.7 * shown))
    axes = figure.subplots(shown, shown, squeeze=False)
    for i in range(shown):
        for j in range(shown):
            axis = axes[i][j]
            if j > i:
                axis.set_visible(False)
                continue
            if i == j:
                axis.hist(columns[i], bins=60, range=ranges[i], color="#30638e")
                axis.set_yticks([])
            else:
                axis.hist2d(
                    columns[j], columns[i], bins=60, range=(ranges[j], ranges[i]), cmap="Blues"
                )
            if i == shown - 1:
                axis.set_xlabel(f"x{j}")
            else:
                axis.set_xticklabels([])
            if j == 0 and i > 0:
                axis.set_ylabel(f"x{i}")
            elif i != j:
                axis.set_yticklabels([])
    figure.tight_layout()
    figure.savefig(path, dpi=110)
