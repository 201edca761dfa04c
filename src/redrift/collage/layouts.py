"""Layouts: how windows cover a canvas. Each returns a `Graph`.

A piece is (channels, *sites): chain and ring run along one axis of sites, grid and torus along all
of them. Music and motion are (C, L), pictures (C, H, W), volumes (C, D, H, W).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift.collage.counting import Region
from redrift.collage.graph import Graph, _times

Overlaps = int | Sequence[int]


def chain(
    piece: Sequence[int],
    count: int,
    overlap: Overlaps,
    *,
    axis: int = -1,
    counting: str = "kikuchi",
) -> Graph:
    """Lay pieces in a row: a canvas of count * w - (count - 1) * overlap along the axis.

    Args:
        piece: (C, *sites) of a piece.
        count: number of pieces, >= 1.
        overlap: sites shared by neighbours, 0 to w - 1, odd or even; or one for each of the
            count - 1 meetings.
        axis: of the piece's axes, not the first.
        counting: scheme of the weights; see `redrift.collage.counting`.

    Raises:
        ValueError: if the overlap is not below the window, or the axis is the channels'.

    Example:
        >>> print(chain((3, 64, 64), count=12, overlap=32))  # doctest: +ELLIPSIS
        chain | canvas 3x64x416 | kikuchi | tree: exact as the noise vanishes, ...
          12 pieces 64x64 (+1), 11 overlaps 64x32 (-1) | 2.69 canvases of sites per step
    """
    channels, sites = _piece(piece)
    axis = _axis(axis, len(sites))
    whole("count", count)
    overlaps = _overlaps(overlap, count - 1, sites[axis])
    begins = [0, *itertools.accumulate(sites[axis] - o for o in overlaps)]
    starts = [[b if a == axis else 0 for a in range(len(sites))] for b in begins]
    canvas = list(sites)
    canvas[axis] = begins[-1] + sites[axis]
    return _boxes("chain", channels, sites, canvas, starts, (False,) * len(sites), counting)


def ring(
    piece: Sequence[int],
    count: int,
    overlap: int,
    *,
    axis: int = -1,
    counting: str = "kikuchi",
) -> Graph:
    """Lay pieces in a circle: a canvas of count * (w - overlap) along the axis, without ends.

    Not a tree: even without noise its error is of the size of the correlation once around.

    Args:
        piece: (C, *sites) of a piece.
        count: number of pieces; at least three for overlaps up to half a window.
        overlap: sites shared by neighbours, 0 to w - 1.
        axis: of the piece's axes, not the first.
        counting: scheme of the weights.

    Raises:
        ValueError: if two windows would meet at both their ends; it names the least count.

    Example:
        >>> ring((3, 64, 64), count=8, overlap=32).shape
        (3, 64, 256)
    """
    channels, sites = _piece(piece)
    axis = _axis(axis, len(sites))
    counts = [count if a == axis else 1 for a in range(len(sites))]
    overlaps = [overlap if a == axis else 0 for a in range(len(sites))]
    wrap = tuple(a == axis for a in range(len(sites)))
    return _lattice("ring", channels, sites, counts, overlaps, wrap, counting)


def grid(
    piece: Sequence[int],
    count: Sequence[int],
    overlap: Overlaps,
    *,
    counting: str = "kikuchi",
) -> Graph:
    """Lay pieces in rows and columns (and layers): any number of axes.

    With Kikuchi's numbers a piece counts +1, an edge strip -1 and a corner +1. Exact as the noise
    vanishes on separable Markov fields; elsewhere the smallest error of the schemes.

    Args:
        piece: (C, *sites) of a piece.
        count: pieces along each axis of sites.
        overlap: sites shared along each axis, or one number for all.
        counting: scheme of the weights.

    Raises:
        ValueError: if an overlap is not below the window.

    Example:
        >>> grid((3, 32, 32), count=(2, 3), overlap=16).shape
        (3, 48, 64)
    """
    channels, sites = _piece(piece)
    overlaps = [overlap] * len(sites) if isinstance(overlap, int) else list(overlap)
    return _lattice("grid", channels, sites, count, overlaps, (False,) * len(sites), counting)


def torus(
    piece: Sequence[int],
    count: Sequence[int],
    overlap: Overlaps,
    *,
    counting: str = "kikuchi",
) -> Graph:
    """Lay pieces on a torus: a tile that repeats without a seam along every axis.

    Args:
        piece: (C, *sites) of a piece.
        count: pieces along each axis of sites.
        overlap: sites shared along each axis, or one number for all.
        counting: scheme of the weights.

    Raises:
        ValueError: if two windows would meet at both their ends.

    Example:
        >>> torus((3, 32, 32), count=(3, 4), overlap=16).shape
        (3, 48, 64)
    """
    channels, sites = _piece(piece)
    overlaps = [overlap] * len(sites) if isinstance(overlap, int) else list(overlap)
    return _lattice("torus", channels, sites, count, overlaps, (True,) * len(sites), counting)


def windows(
    piece: Sequence[int],
    canvas: Sequence[int],
    starts: Sequence[Sequence[int]],
    *,
    wrap: bool = False,
    counting: str = "kikuchi",
) -> Graph:
    """Lay equal pieces where you say.

    Args:
        piece: (C, *sites) of a piece.
        canvas: shape of the sites of the canvas.
        starts: (N, axes) first corner of each window.
        wrap: whether windows may run over an end of the canvas and on from the other.
        counting: scheme of the weights.

    Raises:
        ValueError: if a window leaves the canvas or a site is not covered.

    Example:
        >>> windows((1, 8), (20,), [[0], [5], [12]]).pieces
        3
    """
    channels, sites = _piece(piece)
    return _boxes("windows", channels, sites, canvas, starts, (wrap,) * len(sites), counting)


def tree(
    edges: Sequence[Sequence[int]],
    *,
    channels: int = 1,
    counting: str = "kikuchi",
) -> Graph:
    """Lay pieces on groups of variables that form a junction tree, such as a tree's edges.

    Args:
        edges: groups of variables 0..n - 1; a pair is an edge, more make a clique. Each group is a
            piece of shape (channels, its size), in the order given.
        channels: of each variable.
        counting: scheme of the weights.

    Raises:
        ValueError: if the groups are no junction tree, or leave out a variable.

    Example:
        >>> print(tree([(0, 1), (1, 2), (1, 3)]))  # doctest: +ELLIPSIS
        tree | canvas 1x4 | kikuchi | tree: exact as the noise vanishes, ...
          3 pieces 2 (+1), 1 overlap 1 (-2) | 1.75 canvases of sites per step
    """
    groups = [tuple(whole("edges", i, least=0) for i in group) for group in edges]
    if not groups or not all(groups):
        raise ValueError(f"edges must hold at least one group of variables, got {edges!r}.")
    found = [
        Region(torch.tensor(group), (len(group),), 1.0, (i,), i) for i, group in enumerate(groups)
    ]
    sites = 1 + max(map(max, groups))
    graph = Graph.build(channels, (sites,), found, counting=counting, name="tree")
    if not graph.is_tree:
        raise ValueError(
            "the groups close a loop: no order of them has each meet the ones before in a single "
            "group; remove an edge, or join the groups of the loop into one."
        )
    return graph


def _piece(piece: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Return channels and sites of a piece."""
    sizes = tuple(whole("piece", n) for n in piece)
    if len(sizes) < 2:
        raise ValueError(f"a piece is (channels, *sites), at least two numbers; got {sizes}.")
    return sizes[0], sizes[1:]


def _axis(axis: int, rank: int) -> int:
    """Return the axis of sites meant by an axis of the piece."""
    found = axis + rank if axis < 0 else axis - 1
    if not 0 <= found < rank:
        raise ValueError(
            f"axis={axis} is no axis of sites: a piece has channels at axis 0 and sites at 1 to "
            f"{rank}."
        )
    return found


def _overlaps(overlap: Overlaps, meetings: int, window: int) -> list[int]:
    """Return one overlap for each meeting, each below the window."""
    overlaps = [overlap] * meetings if isinstance(overlap, int) else list(overlap)
    if len(overlaps) != meetings:
        raise ValueError(
            f"overlap has {len(overlaps)} numbers, expected one for each of the {meetings} meetings of "
            "neighbours."
        )
    for size in [*overlaps, *([overlap] if isinstance(overlap, int) else [])]:
        if not 0 <= size < window:
            raise ValueError(
                f"overlap={size} must be at least 0 and below the window of {window}; the nearest "
                f"is {min(max(size, 0), window - 1)}."
            )
    return overlaps


def _lattice(
    name: str,
    channels: int,
    sites: tuple[int, ...],
    count: Sequence[int],
    overlaps: Sequence[int],
    wrap: tuple[bool, ...],
    counting: str,
) -> Graph:
    """Lay the product of a chain or ring along each axis."""
    if len(count) != len(sites) or len(overlaps) != len(sites):
        raise ValueError(
            f"count={tuple(count)} and overlap={tuple(overlaps)} must have one number for each of the "
            f"{len(sites)} axes of sites."
        )
    canvas: list[int] = []
    lines: list[list[int]] = []
    for n, w, o, closed in zip(count, sites, overlaps, wrap, strict=True):
        whole("count", n)
        _overlaps(o, n - 1, w)
        if closed and (n > 1 or o):
            least = 2 * math.ceil(w / (w - o)) - 1
            if n < least:
                raise ValueError(
                    f"a ring of {n} windows of {w} with overlap {o} has {n * (w - o)} sites, and "
                    f"two windows meet at both their ends; use at least {least} windows, or an "
                    "overlap of 0."
                )
        canvas.append(n * (w - o) if closed else n * w - (n - 1) * o)
        lines.append([i * (w - o) for i in range(n)])
    starts = list(itertools.product(*lines))
    return _boxes(name, channels, sites, canvas, starts, wrap, counting)


def _boxes(
    name: str,
    channels: int,
    sites: tuple[int, ...],
    canvas: Sequence[int],
    starts: Sequence[Sequence[int]],
    wrap: tuple[bool, ...],
    counting: str,
) -> Graph:
    """Lay equal boxes at the starts."""
    canvas = tuple(whole("canvas", n) for n in canvas)
    if len(canvas) != len(sites):
        raise ValueError(
            f"the canvas {canvas} must have one size for each of the {len(sites)} axes of sites."
        )
    found: list[Region] = []
    for i, start in enumerate(starts):
        if len(start) != len(sites):
            raise ValueError(f"starts[{i}] = {tuple(start)} must have {len(sites)} numbers.")
        for s, w, n, closed in zip(start, sites, canvas, wrap, strict=True):
            if w > n:
                raise ValueError(
                    f"a window of {_times(sites)} is larger than the canvas of {_times(canvas)}; "
                    "the canvas must be at least as large."
                )
            if not 0 <= s < n if closed else not 0 <= s <= n - w:
                last = n - 1 if closed else n - w
                raise ValueError(
                    f"window {i} starts at {s} and ends beyond the canvas of {_times(canvas)}; "
                    f"the nearest valid start is {min(max(s, 0), last)}."
                )
        index = box(canvas, start, sites)
        found.append(Region(index, sites, 1.0, (i,), i))
    return Graph.build(channels, canvas, found, counting=counting, name=name, closed=wrap)


def box(canvas: Sequence[int], start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return the flat sites of a box, (prod(size),), row-major, going around where it must."""
    index = torch.zeros(1, dtype=torch.long)
    for n, s, w in zip(canvas, start, size, strict=True):
        line = (s + torch.arange(w)) % n
        index = (index[:, None] * n + line).reshape(-1)
    return index
