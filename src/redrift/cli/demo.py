"""The `demo` command: what ten evaluations buy, in a picture."""

from __future__ import annotations

from pathlib import Path

import torch

from redrift.cli.pictures import grid, save_picture, stack
from redrift.cli.report import Report
from redrift.cli.sampling import defects
from redrift.pretrained import pretrained
from redrift.sampling import sample
from redrift.solvers import plan_for

_BUDGET, _REFERENCE = 10, 200
_PLANS = {
    "RES, single-step": {"solver": "res", "order": 2},
    "DEIS": {"solver": "deis", "order": 3},
    "DDIM": {"solver": "ddim"},
}


def run(report: Report, out: Path, *, quick: bool) -> None:
    """Sample digits under three solvers and a reference from the same noise.

    Args:
        report: of the command.
        out: folder for `solvers.png`.
        quick: 40 samples instead of 200.
    """
    model = pretrained("digits")
    n = 40 if quick else 200
    label = torch.arange(n) % model.card["classes"]
    options = {"shape": (n, *model.card["shape"]), "cond": {"label": label}}
    fine = plan_for(model.process, _REFERENCE, solver="res", order=3)
    exact = sample(model, fine, generator=report.generators(n), **options)
    shown = slice(0, 20)
    strips = [(f"reference\n{fine.evaluations} evaluations", grid(exact[shown], columns=10))]
    report.print(f"{'solver':18s} evaluations  error (median)  90th percentile")
    errors: dict[str, dict[str, float]] = {}
    for name, choice in _PLANS.items():
        plan = plan_for(model.process, _BUDGET, **choice)
        x = sample(model, plan, generator=report.generators(n), **options)
        defect = defects(x, exact)
        middle, tail = float(defect.median()), float(defect.quantile(0.9))
        report.print(f"{name:18s} {plan.evaluations:11d}  {middle:14.4f}  {tail:15.4f}")
        errors[name] = {"evaluations": plan.evaluations, "defect": middle, "defect_p90": tail}
        label_text = f"{name}\n{plan.evaluations} evaluations\nerror {middle:.3f}"
        strips.append((label_text, grid(x[shown], columns=10)))
    save_picture(stack(strips), out / "solvers.png")
    report.print(f"wrote {out / 'solvers.png'}")
    report.finish(
        model="digits", evaluations=_BUDGET, plan=[str(plan_for(model.process, _BUDGET, **c))
        for c in _PLANS.values()], errors=errors,
    )  # fmt: skip
