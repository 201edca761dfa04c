"""Segments: parts of a canvas that are guided on their own.

With n candidates and S segments a step chooses among n^S canvases for n evaluations. The choice is
exact only where segments do not depend on each other given the present state; on a collage they do
where pieces overlap, so this is a heuristic there, as in the original code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift.guidance.loss import Loss


@dataclass(frozen=True)
class Segments:
    """Boxes that partition the last axes of the data.

    Attributes:
        boxes: for each segment (start, stop) along each of the last axes.
    """

    boxes: tuple[tuple[tuple[int, int], ...], ...]

    def masks(self, shape: Sequence[int]) -> Tensor:
        """Return which sites belong to which segment, (S, *last axes), bool.

        Raises:
            ValueError: if the boxes do not cover each site of the shape exactly once.
        """
        rank = len(self.boxes[0])
        sites = tuple(shape[len(shape) - rank :])
        masks = torch.zeros((len(self.boxes), *sites), dtype=torch.bool)
        for mask, box in zip(masks, self.boxes, strict=True):
            mask[tuple(slice(a, b) for a, b in box)] = True
        if not bool((masks.sum(0) == 1).all()):
            raise ValueError(
                f"the segments {self.boxes} do not cover each site of {sites} exactly once."
            )
        return masks

    def losses(self, loss: Loss, x: Tensor) -> Tensor:
        """Return each segment's loss (rows, S), evaluated on the segment alone."""
        parts = []
        for box in self.boxes:
            index = (..., *(slice(a, b) for a, b in box))
            parts.append(loss(x[index].contiguous()))
        return torch.stack(parts, 1)


def split(shape: Sequence[int], count: int, axis: int = -1) -> Segments:
    """Cut a canvas into segments of equal length along one axis.

    Args:
        shape: of the data or canvas.
        count: of the segments; must divide the axis.
        axis: one of the last two.

    Raises:
        ValueError: if count does not divide the axis.
    """
    whole("count", count)
    rank = min(len(shape), 2)
    sites = tuple(shape[len(shape) - rank :])
    axis = axis % rank if axis < 0 else axis - (len(shape) - rank)
    if not 0 <= axis < rank or sites[axis] % count:
        near = math.gcd(sites[axis % rank], count)
        raise ValueError(
            f"count={count} segments do not divide the {sites[axis % rank]} sites of the axis; try {near}."
        )
    size = sites[axis] // count
    boxes = [
        tuple((i * size, (i + 1) * size) if a == axis else (0, sites[a]) for a in range(rank))
        for i in range(count)
    ]
    return Segments(tuple(boxes))
