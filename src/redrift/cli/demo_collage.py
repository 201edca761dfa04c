"""The demo's collages: a panorama and a closed ring three ways, and one of several textures."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from redrift.cli.pictures import save_picture, stack, to_image
from redrift.cli.report import Report
from redrift.collage import Graph, chain, ring, seam_ratio
from redrift.denoise import Denoiser
from redrift.pretrained import names, pretrained
from redrift.sampling import sample
from redrift.solvers import plan_for

_MODEL, _PANORAMA, _RING = "textures", "tissue", "gravel"
_BLEND = ("gravel", "grass", "tissue", "stars")


def run(report: Report, out: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """Draw a panorama and a ring from the textures model; return their seam statistics.

    Args:
        report: of the command.
        out: folder for collage.png.
        quick: fewer pieces and steps.
    """
    if _MODEL not in names():
        return {}
    started = time.perf_counter()
    model = pretrained(_MODEL)
    known: list[str] = model.card["labels"]
    piece, half = tuple(model.card["shape"]), model.card["shape"][-1] // 2
    steps = 8 if quick else 30
    panorama, closed = chain(piece, 3 if quick else 12, half), ring(piece, 3 if quick else 8, half)
    many = torch.full((panorama.pieces,), known.index(_PANORAMA))
    around = torch.full((closed.pieces,), known.index(_RING))
    blend = torch.tensor([known.index(name) for name in _BLEND])
    blend = blend[torch.arange(panorama.pieces) * len(blend) // panorama.pieces]
    strips: list[tuple[str, Image.Image]] = []
    seams: dict[str, dict[str, float]] = {"panorama": {}, "ring": {}}
    for title, graph, label in (("panorama", panorama, many), ("ring", closed, around)):
        for scheme in ("independent", "average", "kikuchi"):
            x = _draw(report, model, graph.recount(scheme), label, steps)
            ratio = float(seam_ratio(x, graph))
            seams[title][scheme] = ratio
            report.print(f"{title:10s} {scheme:12s} jumps across borders x {ratio:.2f}")
            turned = x if title == "panorama" else torch.cat((x, x), -1)  # twice around
            strips.append((f"{title}, {scheme}\nseams {ratio:.2f}", _wide(turned)))
    x = _draw(report, model, panorama, blend, steps)
    strips.append(("one condition a piece,\nkikuchi", _wide(x)))
    save_picture(stack(strips), out / "collage.png")
    report.print(f"wrote {out / 'collage.png'}")
    report.print(f"collage: {time.perf_counter() - started:.1f} s\n")
    return seams


def _draw(report: Report, model: Denoiser, graph: Graph, label: Tensor, steps: int) -> Tensor:
    """Sample one canvas."""
    plan = plan_for(model.process, steps)
    collage = graph.denoiser(model, cond={"label": label})
    return sample(collage, plan, shape=(1, *graph.shape), generator=report.generators(1))


def _wide(x: Tensor) -> Image.Image:
    """Return a picture at three times its size."""
    image = to_image(x[0])
    return image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST)
