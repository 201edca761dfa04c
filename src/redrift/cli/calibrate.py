"""The `calibrate` command: a plan fitted to one model, and what it gained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from redrift._core.files import write_atomically
from redrift._core.optional import need
from redrift.calibration import Calibration
from redrift.calibration import calibrate as fit
from redrift.cli.budget import Evaluations, NoSteps
from redrift.cli.report import Device, Json, Model, Report, Seed, Threads, plainly
from redrift.cli.sampling import open_model
from redrift.solvers import plan_for


@plainly
def calibrate(
    model: Model,
    evaluations: Evaluations = 8,
    steps: NoSteps = None,
    solver: Annotated[
        str | None, typer.Option(help="Solver to start from; rd.best_plan's choice if absent.")
    ] = None,
    order: Annotated[int | None, typer.Option(help="Its order.")] = None,
    samples: Annotated[
        int, typer.Option(help="Trajectories: half to fit, a quarter to stop, a quarter to judge.")
    ] = 64,
    budget: Annotated[
        int | None,
        typer.Option(help="Evaluations to spend on each; 100 runs of the plan if absent."),
    ] = None,
    coefficients: Annotated[
        bool, typer.Option("--coefficients", help="Also fit one coefficient per multistep row.")
    ] = False,
    label: Annotated[int | None, typer.Option(help="Class; all in turn if absent.")] = None,
    out: Annotated[Path, typer.Option(help="JSON file of the plan.")] = Path("plan.json"),
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the errors and grids, before and after.")
    ] = None,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Fit a plan's time grid to a model, and judge it on trajectories that took no part.

    Example: redrift calibrate digits --evaluations 6 --out plan.json && redrift sample digits --plan
    plan.json --out grid.png
    """
    if plot is not None:
        need("matplotlib", "plots")
    report = Report(json, seed, threads, device, (out, plot))
    net = open_model(model)
    net.to(report.device)
    plan = plan_for(net.process, evaluations, solver=solver, order=order)
    classes, cond = net.card.get("classes"), {}
    if classes:
        labels = (
            torch.arange(samples) % classes if label is None else torch.full((samples,), label)
        )
        cond = {"label": labels.to(report.device)}
    found = fit(
        net, plan, shape=net.card["shape"], samples=samples, budget=budget, cond=cond,
        coefficients=coefficients, progress=report.console.is_terminal,
        generator=torch.Generator().manual_seed(report.seed),
    )  # fmt: skip
    _print(report, found)
    found.plan.save(str(out))
    report.print(f"wrote {out}")
    if plot is not None:
        write_atomically(plot, lambda target: _draw(plan, found, target))
        report.print(f"wrote {plot}")
    report.finish(
        model=model, plan=str(found.plan), evaluations=found.plan.evaluations,
        before=dataclasses.asdict(found.before), after=dataclasses.asdict(found.after),
        gained=found.gained, iterations=found.iterations, held_out=found.held_out,
        evaluations_spent=found.evaluations, times=found.plan.times.tolist(),
    )  # fmt: skip


def _print(report: Report, found: Calibration) -> None:
    report.print(f"{found.plan}\nerrors of {found.held_out} held-out trajectories")
    report.print(f"{'':8s}{'median':>10s}{'p90':>10s}{'mean':>10s}{'elsewhere':>11s}")
    for name, row in (("before", found.before), ("after", found.after)):
        report.print(
            f"{name:8s}{row.median:10.2e}{row.p90:10.2e}{row.mean:10.2e}{row.flips:11.1%}"
        )
    if not found.gained:
        report.print("no gain on held-out trajectories: the plan is the one it started from")


def _draw(before: Any, found: Calibration, path: str) -> None:  # noqa: ANN401
    """Draw where the network is asked, and the errors, before and after."""
    pyplot: Any = need("matplotlib.pyplot", "plots")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    for row, (name, plan) in enumerate((("before", before), ("after", found.plan))):
        clock = [float(plan.process.clock(t)) for t in plan.times if float(t) >= 0]
        left.plot(clock, [row] * len(clock), "o", label=name)
    left.set(xlabel="half log-SNR", yticks=[0, 1], yticklabels=["before", "after"], ylim=(-1, 2))
    left.set_title("where the network is asked", fontsize=10)
    names = ("median", "p90", "mean")
    for shift, (name, row) in zip(
        (-0.2, 0.2), (("before", found.before), ("after", found.after)), strict=True
    ):
        places = [i + shift for i in range(len(names))]
        right.bar(places, [getattr(row, n) for n in names], 0.4, label=name)
    right.set_xticks(range(len(names)), names)
    right.set_title("error on held-out trajectories", fontsize=10)
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)
