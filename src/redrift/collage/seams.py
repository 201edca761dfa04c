"""What shows where pieces meet: jumps across borders, and windows centred on and off them."""

from __future__ import annotations

import torch
from torch import Tensor

from redrift.collage.graph import Graph


def borders(graph: Graph, axis: int) -> Tensor:
    """Return where the first window of a site is not that of the next site along an axis.

    Args:
        graph: whose windows are meant; the weights play no part.
        axis: of the canvas.

    Returns:
        canvas-shaped, true at the site before a border; false at the end of an open axis.
    """
    first = torch.full((graph.weights().numel(),), -1)
    for i, window in reversed(list(enumerate(graph.windows))):
        first[window.index] = i
    first = first.reshape(graph.canvas)
    here = first != first.roll(-1, axis)
    return here & _inner(graph, axis)


def seam_ratio(x: Tensor, graph: Graph) -> Tensor:
    """Return how much larger squared jumps are across borders of windows than elsewhere.

    One for a field without seams, up to chance; larger where pieces do not fit.

    Args:
        x: (B, *graph.shape).
        graph: of the canvas.

    Returns:
        (B,), float64.

    Raises:
        ValueError: if x is not of the graph, or no border is found.

    Example:
        >>> from redrift.collage import chain
        >>> steps = torch.tensor([0.0, 1.0, 0.0, 1.0, 9.0, 8.0, 9.0, 8.0])
        >>> seam_ratio(steps.reshape(1, 1, 8), chain((1, 4), 2, 0))
        tensor([64.], dtype=torch.float64)
    """
    if tuple(x.shape[1:]) != graph.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, *{graph.shape}).")
    rank = len(graph.canvas)
    at, off = x.new_zeros(len(x), dtype=torch.float64), x.new_zeros(len(x), dtype=torch.float64)
    seams, others = 0, 0
    for axis in range(rank):
        border = borders(graph, axis).to(x.device)
        rest = (~border) & _inner(graph, axis).to(x.device)
        jump = (x.roll(-1, axis - rank) - x).double().square().sum(1)
        at += (jump * border).flatten(1).sum(1)
        seams += int(border.sum())
        if border.any():  # along this axis only
            off += (jump * rest).flatten(1).sum(1)
            others += int(rest.sum())
    if not seams or not others:
        raise ValueError("the graph has no border between windows, so there is no seam to see.")
    return (at / seams) / (off / others)


def _inner(graph: Graph, axis: int) -> Tensor:
    """Return the sites that have a next one along the axis."""
    inner = torch.ones(graph.canvas, dtype=torch.bool)
    if not (graph.closed and graph.closed[axis]):
        inner.select(axis, -1).fill_(False)
    return inner
