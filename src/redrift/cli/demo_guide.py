"""The demo's guidance: digits under rules without a gradient, by optimising and by sampling."""

from __future__ import annotations

import time
from pathlib import Path

from PIL import Image

from redrift.cli.guide import guided, noisy_plan
from redrift.cli.pictures import grid, save_picture, stack
from redrift.cli.report import Report
from redrift.cli.sampling import condition
from redrift.guidance import rules
from redrift.pretrained import names, pretrained

_MODEL = "digits"
# digits have a dark ground, so a pixel is bright above the middle
_RULES = {"symmetry": rules.symmetry(0.0), "components": rules.components(2, 0.0)}
_METHODS = {"unguided": "best-of-n", "best of n": "best-of-n", "SCG": "scg", "FK": "fk"}


def run(report: Report, out: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """Draw digits without a rule and under each rule; return the mean losses.

    Args:
        report: of the command.
        out: folder for guide.png.
        quick: fewer steps and candidates.
    """
    if _MODEL not in names():
        return {}
    started = time.perf_counter()
    model, n = pretrained(_MODEL), 16
    plan = noisy_plan(model.process, 12 if quick else 30)
    sampled = {"shape": (n, *model.card["shape"]), "cond": condition(model, n, None)}
    losses: dict[str, dict[str, float]] = {}
    strips: list[tuple[str, Image.Image]] = []
    for name, rule in _RULES.items():
        row = losses[name] = {}
        for title, method in _METHODS.items():
            candidates = 1 if title == "unguided" else 4 if quick else 8
            x, found = guided(
                model, plan, method, rule, candidates, 30.0, {}, sampled, report.generators(n)
            )
            row[title] = float(found.loss.mean())
            report.print(
                f"{name:10s} {title:10s} {found.evaluations:5d} evaluations   loss {row[title]:.4f}"
            )
            strips.append((f"{name}, {title}\nloss {row[title]:.3f}", grid(x, columns=16)))
    save_picture(stack(strips), out / "guide.png")
    report.print(f"wrote {out / 'guide.png'}")
    report.print(f"guidance: {time.perf_counter() - started:.1f} s\n")
    return losses
