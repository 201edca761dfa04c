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
from redrift.guidance.loss import Loss, Waiting


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

    def submit(self, loss: Loss, x: Tensor) -> Waiting:
        """Begin to evaluate each segment's loss (rows, S), on the segment alone."""
        index = [(..., *(slice(a, b) for a, b in box)) for box in self.boxes]
        waiting = [loss.submit(x[i].contiguous()) for i in index]
        return lambda: torch.stack([wait() for wait in waiting], 1)


@dataclass(frozen=True, eq=False)
class Masks:
    """Segments of any form, by masks that partition the last axes of the data.

    A segment's loss is that of the sample with everything else set to the background.

    Attributes:
        sites: (S, *last axes), bool; each site is True in exactly one.
        background: value outside the segment.

    Raises:
        ValueError: if a site is in no mask or in several.

    Example:
        >>> from redrift.guidance import as_loss
        >>> left = torch.arange(4) < 2
        >>> Masks(torch.stack((left, ~left))).submit(as_loss(lambda x: x.sum(1)), torch.ones(1, 4))()
        tensor([[0., 0.]], dtype=torch.float64)
    """

    sites: Tensor
    background: float = -1.0

    def __post_init__(self) -> None:
        if self.sites.dtype != torch.bool or self.sites.ndim < 2:
            raise ValueError(
                f"sites must be bool (S, *last axes), got {self.sites.dtype} of shape "
                f"{tuple(self.sites.shape)}."
            )
        if not bool((self.sites.sum(0) == 1).all()):
            raise ValueError("the masks do not cover each site exactly once.")

    def masks(self, shape: Sequence[int]) -> Tensor:
        """Return the masks.

        Raises:
            ValueError: if the data does not end in their axes.
        """
        sites = tuple(self.sites.shape[1:])
        if tuple(shape[len(shape) - len(sites) :]) != sites:
            raise ValueError(f"the masks are of {sites} sites, the data is {tuple(shape)}.")
        return self.sites

    def submit(self, loss: Loss, x: Tensor) -> Waiting:
        """Begin to evaluate each segment's loss (rows, S)."""
        waiting = [
            loss.submit(torch.where(mask, x, torch.full_like(x, self.background)))
            for mask in self.sites.to(x.device)
        ]
        return lambda: torch.stack([wait() for wait in waiting], 1)


def equal_segments(shape: Sequence[int], count: int, axis: int = -1) -> Segments:
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
