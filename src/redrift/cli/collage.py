"""The `collage` command: one picture of any shape from a model of small ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from redrift import collage as collages
from redrift._core.errors import choose, whole
from redrift._core.files import write_atomically
from redrift.cli.budget import NoSteps
from redrift.cli.pictures import save_picture, stack, to_image
from redrift.cli.report import Device, Json, Model, Report, Seed, Threads, plainly
from redrift.cli.sampling import open_model
from redrift.collage import COUNTINGS, Graph
from redrift.denoise import Denoiser, Guided
from redrift.sampling import sample
from redrift.solvers import SOLVERS, langevin_corrected, plan_for

_COUNTS = {"chain": "12", "ring": "8", "grid": "6x3", "torus": "6x3"}
LAYOUTS = (*_COUNTS, "cubemap")


@plainly
def collage(
    model: Model,
    layout: Annotated[str, typer.Option(help=f"One of {', '.join(LAYOUTS)}.")] = "chain",
    count: Annotated[
        str | None, typer.Option(help="Pieces: a number, or WxH for grid and torus.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that neighbours share; half a piece if absent.")
    ] = None,
    evaluations: Annotated[
        int, typer.Option(help="Budget of evaluations, correctors not counted.")
    ] = 30,
    steps: NoSteps = None,
    solver: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(SOLVERS)}; rd.best_plan's choice if absent."),
    ] = None,
    order: Annotated[int | None, typer.Option(help="Order of the solver.")] = None,
    counting: Annotated[str, typer.Option(help=f"One of {', '.join(COUNTINGS)}.")] = "kikuchi",
    correctors: Annotated[
        int, typer.Option(help="Langevin steps at each level: they repair the flow's errors.")
    ] = 0,
    label: Annotated[
        str | None,
        typer.Option(help="Class, by number or name; several with commas spread over the pieces."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance scale; 1 is none.")
    ] = 1.0,
    max_batch: Annotated[
        int | None, typer.Option(help="Pieces in one network call; all if absent.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also sample without overlaps' care, side by side.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, unscaled, such as panorama.png.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Safetensors file for the sample in [-1, 1].")
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Sample one picture larger than the model's, or closed.

    Example: redrift collage textures --layout ring --count 8 --label gravel --out ring.png
    """
    report = Report(json, seed, threads, device, (out, save))
    made = open_model(model)
    made.to(report.device)
    plan = plan_for(made.process, evaluations, solver=solver, order=order)
    if correctors:
        plan = langevin_corrected(plan, correctors)
    graph = lay(layout, made, count, overlap, counting)
    piece, cond = conditions(made, graph, label, guidance)
    report.print(str(plan))
    report.print(str(graph))

    def draw(which: Graph) -> Tensor:
        collaged = which.denoiser(piece, cond=cond, max_batch=max_batch)
        return sample(
            collaged, plan, shape=(1, *which.shape), progress=report.console.is_terminal,
            generator=report.generators(1),
        )  # fmt: skip

    schemes = ["independent", "average"] * compare + [counting]
    found = {name: draw(graph if name == counting else graph.recount(name)) for name in schemes}
    x = found[counting]
    figures = _seams(report, found, graph)
    if out is not None:
        strips = [(_caption(name, figures), picture(y, graph)) for name, y in found.items()]
        save_picture(stack(strips) if compare else strips[0][1], out)
        report.print(f"wrote {out}")
    if save is not None:
        data = {"samples": x.cpu().contiguous()}
        write_atomically(save, lambda target: save_file(data, target))
        report.print(f"wrote {save}")
    report.finish(
        model=model, plan=str(plan), evaluations=plan.evaluations, layout=layout,
        pieces=graph.pieces, overlaps=len(graph.overlaps), shape=list(graph.shape),
        counting=counting, seam_ratio=figures,
    )  # fmt: skip


def lay(
    layout: str, model: Denoiser, count: str | None, overlap: int | None, counting: str
) -> Graph:
    """Build the graph of a model's pieces.

    Raises:
        ValueError: if the model makes no pictures, or the layout or count is none.
    """
    choose("layout", layout, LAYOUTS)
    piece = tuple(model.card.get("shape", ()))
    if len(piece) != 3:
        raise ValueError(f"a collage of pictures needs a model of (C, H, W), got {piece}.")
    shared = piece[-1] // 2 if overlap is None else overlap
    if layout == "cubemap":
        if count is not None:
            raise ValueError("a cubemap has six faces and takes no --count.")
        return collages.cubemap(piece, overlap=shared, counting=counting)
    text = _COUNTS[layout] if count is None else count
    numbers = text.lower().split("x")
    wanted = 1 if layout in ("chain", "ring") else 2
    if len(numbers) != wanted or not all(n.isdigit() for n in numbers):
        form = "a number, such as 12" if wanted == 1 else "columns x rows, such as 6x3"
        raise ValueError(f"count={text!r} for a {layout} must be {form}.")
    counts = [int(n) for n in numbers]
    if wanted == 1:
        line: Callable[..., Graph] = collages.chain if layout == "chain" else collages.ring
        return line(piece, counts[0], shared, counting=counting)
    plane: Callable[..., Graph] = collages.grid if layout == "grid" else collages.torus
    return plane(piece, counts[::-1], shared, counting=counting)


def conditions(
    model: Denoiser, graph: Graph, label: str | None, guidance: float
) -> tuple[Denoiser, dict[str, Tensor] | None]:
    """Return the piece's denoiser and a class for each piece: the ones given, in equal parts.

    Raises:
        ValueError: if the model has no such class.
    """
    classes = model.card.get("classes")
    if not classes:
        if label is not None or guidance != 1:
            raise ValueError("this model has no classes; leave --label and --guidance out.")
        return model, None
    if label is None:
        if guidance != 1:
            raise ValueError("guidance sharpens a class: give --label too.")
        return model, {"label": torch.full((graph.pieces,), classes)}
    names: list[str] = model.card.get("labels", [])
    numbers: list[int] = []
    for part in label.split(","):
        if part.isdigit():
            numbers.append(whole("label", int(part), least=0, most=classes - 1))
        else:
            numbers.append(names.index(choose("label", part, names)))
    spread = torch.arange(graph.pieces) * len(numbers) // graph.pieces
    if guidance != 1:
        model = Guided(model, guidance, null={"label": classes})
    return model, {"label": torch.tensor(numbers)[spread]}


def picture(x: Tensor, graph: Graph) -> Image.Image:
    """Return one sample as a picture; a cubemap is unrolled."""
    return to_image(collages.to_equirectangular(x)[0] if graph.name == "cubemap" else x[0])


def _seams(report: Report, found: dict[str, Tensor], graph: Graph) -> dict[str, float]:
    """Print and return the seam statistic of each sample."""
    figures: dict[str, float] = {}
    if graph.name == "cubemap" or graph.pieces == 1:
        return figures
    for name, x in found.items():
        figures[name] = round(float(collages.seam_ratio(x, graph)), 4)
        report.print(f"{name:12s} jumps across borders {figures[name]:.3f} times those elsewhere")
    return figures


def _caption(name: str, figures: dict[str, float]) -> str:
    return f"{name}\nseams {figures[name]:.2f}" if name in figures else name


__all__ = ["LAYOUTS", "collage", "conditions", "lay", "picture"]
