r"""The rotation that turns a Cholesky factor into gDDIM's root, for k = 2.

Write R = L O with O orthogonal. From $R' = F R + \tfrac12 G G^\top R^{-\top}$ follows $O' = B O$ with
$B = L^{-1}(F L + \tfrac12 G G^\top L^{-\top} - L')$ antisymmetric. $L^{-1} L'$ is lower triangular, so the
upper entry of B needs no derivative of L, and for k = 2 one scalar quadrature of it gives the angle.
The angle is counted from the horizon; a constant rotation changes no sample.

Paper: gDDIM, arXiv:2206.05564 (R_t); the reduction to one angle is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from redrift._core.linalg import inverse
from redrift._core.quadrature import gauss_legendre

Table = Callable[[Tensor], Tensor]
_PANELS, _NODES = 8, 16


class SDE(Protocol):
    """What the angle needs of a process."""

    k: int
    modes: tuple[int, ...]
    cov: Table
    drift: Table
    diffusion: Table
    clock: Table
    unclock: Table
    clock_rate: Table

    @property
    def horizon(self) -> float:
        """Return the largest time."""
        ...


def angle_rate(process: SDE, t: Tensor) -> Tensor:
    """Return the upper entry of B at times t, any shape."""
    lower = torch.linalg.cholesky(process.cov(t))
    undo, noise = inverse(lower), process.diffusion(t)
    pushed = undo @ noise
    return (undo @ process.drift(t) @ lower + pushed @ pushed.mT / 2)[..., 0, 1]


def rotation(process: SDE, t: Tensor) -> Tensor:
    """Return O(t), shape (..., 2, 2), by composite Gauss-Legendre in the clock from the horizon.

    Cost: 128 evaluations of the process's tables per time, vectorised.
    """
    if process.k != 2 or process.modes:
        raise NotImplementedError("a generic R root exists for k = 2 without modes; override root")
    start = process.clock(torch.as_tensor(process.horizon, dtype=t.dtype))
    width = (process.clock(t) - start) / _PANELS
    nodes, weights = gauss_legendre(_NODES)
    offsets = (torch.arange(_PANELS, dtype=t.dtype)[:, None] + nodes).reshape(-1)
    times = process.unclock(start + width[..., None] * offsets)
    rate = angle_rate(process, times) / process.clock_rate(times)
    angle = width * (rate * weights.repeat(_PANELS)).sum(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((torch.stack((cos, sin), -1), torch.stack((-sin, cos), -1)), -2)
