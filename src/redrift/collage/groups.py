"""Regions grouped for the network: one call for each model and shape, with the conditions of its rows."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from redrift.collage.counting import Region
from redrift.denoise import Denoiser

OverlapCond = Literal["mean", "first", "last", "null"]
OVERLAP_CONDS = ("mean", "first", "last", "null")
_Cond = dict[str, Tensor]


class Cover(Protocol):
    """What a collage reads of its `Graph`; see there."""

    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def canvas(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def regions(self) -> tuple[Region, ...]: ...  # noqa: D102
    @property
    def pieces(self) -> int: ...  # noqa: D102


@dataclass(eq=False)
class Group:
    """Regions of one shape and one model: one network call.

    Attributes:
        model: their denoiser.
        shape: their box.
        index: (K, P) sites.
        weight: (K, 1), or (K, P) where weights differ by site; float64.
        cond: conditions by name, (K, ...).
    """

    model: Denoiser
    shape: tuple[int, ...]
    index: Tensor
    weight: Tensor
    cond: _Cond


def grouped(
    graph: Cover,
    piece: Denoiser,
    overlap: Denoiser,
    cond: _Cond,
    rule: str,
    null: dict[str, Any],
) -> Generator[Group, None, None]:
    """Group the regions by model and shape, with the conditions of each.

    Args:
        graph: of the canvas.
        piece: denoiser of the pieces.
        overlap: denoiser of the overlaps.
        cond: tables of conditions by name, one row per piece or region.
        rule: of `OVERLAP_CONDS`: whose conditions an overlap takes.
        null: conditions that stand for none.
    """
    asked = _calls(graph, cond, rule, null)
    members: dict[Any, list[tuple[Region, float, _Cond]]] = {}
    for region, calls in zip(graph.regions, asked, strict=True):
        model = overlap if region.window is None else piece
        modes = model.process.modes
        if modes and modes != region.shape[-len(modes) :]:
            what = "overlap" if region.window is None else "piece"
            raise ValueError(
                f"the {what}'s process has modes {modes}, but a region is {region.shape}; give a "
                "denoiser of that size."
            )
        key = (id(model), region.shape)
        members.setdefault(key, []).extend((region, share, row) for share, row in calls)
    models = {id(model): model for model in (piece, overlap)}
    for (key, shape), rows in members.items():
        index = torch.stack([region.index for region, _, _ in rows])
        flat = all(isinstance(region.weight, float) for region, _, _ in rows)
        weight = torch.stack(
            [
                share
                * torch.as_tensor(region.weight, dtype=torch.float64).expand(
                    1 if flat else len(region.index)
                )
                for region, share, _ in rows
            ]
        )
        tables = {name: torch.stack([row[name] for _, _, row in rows]) for name in cond}
        yield Group(models[key], shape, index, weight, tables)


def _calls(
    graph: Cover, cond: _Cond, rule: str, null: dict[str, Any]
) -> list[list[tuple[float, _Cond]]]:
    """Return, for each region, the calls it takes: a share of its weight, and its conditions.

    Raises:
        ValueError: if a table has neither one row per piece nor one per region.
    """
    sizes = {name: len(torch.as_tensor(table)) for name, table in cond.items()}
    for name, rows in sizes.items():
        if rows not in (graph.pieces, len(graph.regions)) or len(set(sizes.values())) > 1:
            raise ValueError(
                f"the conditions have {sizes} rows, expected one per piece, {graph.pieces}, or one "
                f"per region, {len(graph.regions)}, for every name (here {name!r})."
            )
        if rule == "null" and name not in null:
            raise ValueError(
                f"overlap_cond='null' needs the value of {name!r} that stands for no condition: "
                f"null={{{name!r}: ...}}."
            )
    if not cond or next(iter(sizes.values())) == len(graph.regions) != graph.pieces:
        return [
            [(1.0, {name: table[i] for name, table in cond.items()})]
            for i in range(len(graph.regions))
        ]
    pick: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
        "first": lambda held: held[:1],
        "last": lambda held: held[-1:],
        "mean": lambda held: held,
        "null": lambda held: (),
    }
    none = {
        name: torch.as_tensor(null[name], dtype=table.dtype, device=table.device).expand(
            table.shape[1:]
        )
        for name, table in cond.items()
        if rule == "null"
    }
    out: list[list[tuple[float, _Cond]]] = []
    for region in graph.regions:
        asked = region.owners if region.window is not None else pick[rule](region.owners)
        out.append(_merged([{n: table[i] for n, table in cond.items()} for i in asked] or [none]))
    return out


def _merged(rows: list[_Cond]) -> list[tuple[float, _Cond]]:
    """Return the different rows with their share of the mean."""
    found: list[tuple[float, _Cond]] = []
    for row in rows:
        for i, (share, other) in enumerate(found):
            if all(torch.equal(row[name], other[name]) for name in row):
                found[i] = (share + 1 / len(rows), other)
                break
        else:
            found.append((1 / len(rows), row))
    return found
