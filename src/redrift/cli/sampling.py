"""The `sample` command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.files import write_atomically
from redrift.cli.pictures import grid, save_picture
from redrift.cli.report import Report
from redrift.denoise import Denoiser, Guided, Wrapper, load
from redrift.pretrained import names, pretrained
from redrift.process import Level, Process, timegrid
from redrift.sampling import sample
from redrift.solvers import Plan, plan_for, res


def open_model(name: str) -> Denoiser:
    """Open a shipped model by name, or a file of `save`.

    Raises:
        ValueError: if it is neither; the shipped names are listed.
    """
    if Path(name).suffix or "/" in name:
        return load(name)
    if name not in names() and Path(name).is_file():
        return load(name)
    return pretrained(name)


def defects(x: Tensor, reference: Tensor) -> Tensor:
    """Return the root mean square difference of each sample."""
    return (x.double() - reference.double()).flatten(1).pow(2).mean(1).sqrt()


def condition(model: Denoiser, n: int, label: int | None) -> dict[str, Tensor]:
    """Return the labels of n samples: one class, or the null label.

    Raises:
        ValueError: if the model has no classes, or not that one.
    """
    classes = model.card.get("classes")
    if not classes:
        if label is not None:
            raise ValueError("this model has no classes; leave --label out.")
        return {}
    if label is not None:
        whole("label", label, least=0, most=classes - 1)
    return {"label": torch.full((n,), classes if label is None else label)}


class _Counter(Wrapper):
    """A model that counts how often it is asked, over all batches."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__(model)
        self.count = [0]

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Count and predict."""
        self.count[0] += 1
        return self.model.predict(z, level)


def _plan(
    process: Process,
    file: Path | None,
    evaluations: int,
    solver: str | None,
    order: int | None,
    spacing: str | None,
    tol: float | None,
) -> Plan:
    """Return the plan that the options ask for; under a tolerance, the one that gives its ends."""
    if file is not None:
        if solver or order or spacing or tol is not None:
            raise ValueError("--plan brings its own solver and grid: leave the others out.")
        return Plan.load(str(file))
    if tol is not None:
        return res(process, timegrid(process, 12, spacing), order=3)
    return plan_for(process, evaluations, solver=solver, order=order, spacing=spacing)


def run(
    report: Report,
    name: str,
    *,
    evaluations: int,
    solver: str | None,
    order: int | None,
    spacing: str | None,
    n: int,
    label: int | None,
    guidance: float,
    batch_size: int | None,
    tol: float | None,
    plan_file: Path | None,
    reference: int | None,
    out: Path | None,
    save: Path | None,
) -> None:
    """Sample a model and write what was asked for."""
    whole("n", n)
    model = open_model(name)
    model.to(report.device)
    cond = {key: value.to(report.device) for key, value in condition(model, n, label).items()}
    if guidance != 1:
        if label is None:
            raise ValueError("guidance sharpens a class: give --label too.")
        model = Guided(model, guidance, null={"label": model.card["classes"]})
    plan = _plan(model.process, plan_file, evaluations, solver, order, spacing, tol)
    if tol is None:
        report.print(str(plan))
    shape = (n, *model.card["shape"])
    options: dict[str, Any] = {"shape": shape, "cond": cond, "batch_size": batch_size}
    show = report.console.is_terminal
    asked = _Counter(model)
    x = sample(asked, plan, progress=show, tol=tol, generator=report.generators(n), **options)
    evaluations = round(asked.count[0] / math.ceil(n / (batch_size or n)))
    if tol is not None:
        report.print(f"tolerance {tol:g} | {evaluations} evaluations")
    figures: dict[str, object] = {"model": name, "plan": str(plan), "evaluations": evaluations}
    if reference is not None:
        if plan.stochastic:
            raise ValueError("a stochastic plan has no reference from the same noise.")
        fine = plan_for(model.process, whole("reference", reference), solver="res", order=3)
        exact = sample(model, fine, progress=show, generator=report.generators(n), **options)
        defect = float(defects(x, exact).median())
        report.print(f"defect {defect:.4f} (median distance to {fine.evaluations} evaluations)")
        figures["defect"] = defect
    if out is not None:
        save_picture(grid(x), out)
        report.print(f"wrote {out}")
    if save is not None:
        data = {"samples": x.cpu().contiguous()}
        write_atomically(save, lambda target: save_file(data, target))
        report.print(f"wrote {save}")
    report.finish(**figures)
