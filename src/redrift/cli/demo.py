"""The `demo` command: what ten evaluations buy, in a picture per model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from redrift.cli import demo_collage, demo_guide
from redrift.cli.pictures import grid, save_picture, stack
from redrift.cli.report import Report
from redrift.cli.sampling import defects
from redrift.pretrained import names, pretrained
from redrift.sampling import sample
from redrift.solvers import plan_for

_MODELS = {"digits": 100, "cifar10": 20}  # samples of each
_BUDGET, _REFERENCE, _AMPLIFY = 10, {"digits": 200, "cifar10": 90}, 10
_PLANS: dict[str, dict[str, Any]] = {
    "best": {},
    "DEIS": {"solver": "deis", "order": 3},
    "RES": {"solver": "res", "order": 2},
    "DDIM": {"solver": "ddim"},
}


def run(report: Report, out: Path, *, quick: bool) -> None:
    """Sample the models under three solvers and a reference from the same noise.

    Args:
        report: of the command.
        out: folder for one picture per model.
        quick: fewer samples.
    """
    errors = {}
    for name in (model for model in _MODELS if model in names()):
        started = time.perf_counter()
        n = 10 if quick else _MODELS[name]
        errors[name] = _compare(report, name, n, out / f"{name}.png")
        report.print(f"{name}: {time.perf_counter() - started:.1f} s\n")
    collage = demo_collage.run(report, out, quick=quick)
    guide = demo_guide.run(report, out, quick=quick)
    report.finish(
        model=list(errors), evaluations=_BUDGET, plan=list(_PLANS), errors=errors, collage=collage,
        guide=guide,
    )  # fmt: skip


def _compare(report: Report, name: str, n: int, path: Path) -> dict[str, dict[str, float]]:
    """Print each solver's distance to the reference and draw samples and differences."""
    model = pretrained(name)
    label = torch.arange(n) % model.card["classes"]
    options: dict[str, Any] = {"shape": (n, *model.card["shape"]), "cond": {"label": label}}
    fine = plan_for(model.process, _REFERENCE[name], solver="res", order=3)
    exact = sample(model, fine, generator=report.generators(n), **options)
    strips = [(f"reference\n{fine.evaluations} evaluations", grid(exact[:10], columns=10))]
    report.print(f"{name:10s} evaluations   error: median   90th percentile")
    errors: dict[str, dict[str, float]] = {}
    for solver, choice in _PLANS.items():
        plan = plan_for(model.process, _BUDGET, **choice)
        x = sample(model, plan, generator=report.generators(n), **options)
        defect = defects(x, exact)
        middle, tail = float(defect.median()), float(defect.quantile(0.9))
        report.print(f"{solver:10s} {plan.evaluations:11d} {middle:15.4f} {tail:17.4f}")
        errors[solver] = {"evaluations": plan.evaluations, "defect": middle, "defect_p90": tail}
        strips.append((f"{solver}\n{plan.evaluations} evaluations", grid(x[:10], columns=10)))
        difference = (_AMPLIFY * (x - exact).abs()).clamp(0, 2) - 1
        strips.append(
            (f"distance x {_AMPLIFY}\nerror {middle:.4f}", grid(difference[:10], columns=10))
        )
    save_picture(stack(strips), path)
    report.print(f"wrote {path}")
    return errors
