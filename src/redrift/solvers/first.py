"""A first evaluation further down than the start of the run.

At sigma / alpha = 150 a network's prediction of the clean sample is hardly more than its class mean and
rough, and it would steer the whole first step. A run from pure noise may ask within the first step
instead, at a state that is scaled as noise is. This one is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.process import Level, Process
from redrift.process.base import Wants
from redrift.process.convert import mix
from redrift.solvers.coefficients import constant, require_scalar
from redrift.solvers.layers import Layer, core
from redrift.solvers.registry import register
from redrift.solvers.row import Row, Rule


@register
@dataclass(frozen=True)
class FirstEvaluation(Layer):
    """Rule: a first step of order 1 that asks within it, then another's steps.

    The state is asked at as the exact flow of standard normal data would scale it (by one under VP); the
    clean sample that is predicted there is held over the step.

    Attributes:
        rule: of the other steps, and of a first step that does not cross the level.
        sigma: noise level sigma / alpha of the evaluation.
    """

    rule: Rule
    sigma: float

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's rows."""
        if past:
            return self.rule(process, past, t, next_t, left=left)
        start, end = process.level(t), process.level(next_t)
        if not end.sigma < self.sigma < start.sigma:
            return self.rule(process, past, t, next_t, left=left)
        depth = torch.tensor(-math.log(self.sigma), dtype=torch.float64)
        at = process.level(require_scalar(process, "first_sigma").unclock(depth))
        scale = _size(at) / _size(start)
        A, C = constant(process, "x0", start, end)
        P, Q = mix(process, at, core(self.rule).wants, "x0")  # x0 = P z + Q e at that level
        A, C = A + C * P * scale, C * Q
        return (Row(start, end, (at,), (scale, A), ((), (C,)), keep=(0,), fresh=False),)

    def describe(self, rows: Sequence[Row]) -> str:
        """Say where the first evaluation is, if it is not at the start."""
        row = rows[0]
        skips = row.asks and row.asks[0].t != row.start.t
        return f"the first at t={float(row.asks[0].t):.3g}" if skips else ""


def _size(level: Level) -> Tensor:
    """Return the standard deviation of the state of standard normal data."""
    return (level.signal**2 + level.root**2).sqrt()


def check_first_sigma(process: Process, sigma: float, startup: bool, wants: Wants) -> float:
    """Return the noise level of the first evaluation.

    Raises:
        ValueError: if it is not positive, the process has no single noise level, the plan is on eps or
            has a start-up.
    """
    require_scalar(process, "first_sigma")
    if not 0 < sigma < math.inf:
        raise ValueError(
            f"first_sigma={sigma} must be a noise level sigma / alpha, such as 15, or None."
        )
    if wants == "eps":
        raise ValueError(
            f"first_sigma={sigma:g} needs wants='v' or 'x0': the noise that is predicted at a state off the "
            "path is not the path's."
        )
    if startup:
        raise ValueError(
            f"first_sigma={sigma:g} and the start-up both say where the first step asks: give startup=False."
        )
    return float(sigma)
