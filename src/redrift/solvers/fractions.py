r"""Grids as step fractions of a warped time between two ends.

The coordinate is the square root of the linear VP schedule's time at the same noise level, in which
equal fractions are the quadratic grid; for processes without a single noise level, the square root of
their own time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redrift.process import Process, ScalarProcess
from redrift.process.grids import vp_time
from redrift.process.vp import VP

_REFERENCE = VP()


def grid_of_fractions(process: Process, fractions: Tensor, ends: tuple[float, float]) -> Tensor:
    """Return the grid whose steps take the given fractions of the coordinate.

    Args:
        process: whose time it is.
        fractions: (steps,) positive; normalised to sum to one.
        ends: first and last time.

    Returns:
        (steps + 1,) float64 times, differentiable in the fractions; the ends are exact.
    """
    pair = torch.tensor(ends, dtype=torch.float64)
    scalar = isinstance(process, ScalarProcess)
    roots = (vp_time(process.clock(pair)) if scalar else pair).sqrt()
    covered = torch.cumsum(fractions / fractions.sum(), 0)[:-1]
    inner = (roots[0] + covered * (roots[1] - roots[0])) ** 2
    times = process.unclock(_REFERENCE.clock(inner)) if scalar else inner
    return torch.cat((pair[:1], times, pair[1:]))
