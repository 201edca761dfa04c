"""Measurements as filters hand them to sensors: one at a time, or a window's side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class ObservationBatch(NamedTuple):
    """Hold measurements at J points of time, or at one, then without the axis J.

    Attributes:
        y: (J, B, 1, p), NaN where missing.
        t: times (J, 1, 1, 1), or a number.
        interval: time since the measurement before, likewise.
        fully_observed: whether nothing is missing.
    """

    y: Tensor
    t: Tensor | float
    interval: Tensor | float
    fully_observed: bool

    @property
    def times(self) -> Tensor:
        """Return the times as a tensor that broadcasts against one number per state, (..., 1)."""
        return as_time(self.t, self.y)


class Observation(NamedTuple):
    """Hold one measurement: y (B, p) at a grid time, the time since the last one, if all is there."""

    time: float
    y: Tensor
    interval: float
    fully_observed: bool

    def batch(self) -> ObservationBatch:
        """Return it in the form that sensors read."""
        return ObservationBatch(self.y.unsqueeze(1), self.time, self.interval, self.fully_observed)


class Quadratic(NamedTuple):
    """Hold l(retract(x, xi)) ~ value + slope' xi - xi' curvature xi / 2, curvature >= 0."""

    curvature: Tensor
    slope: Tensor
    value: Tensor


def stacked(data: Sequence[Observation], like: Tensor) -> ObservationBatch:
    """Return observations side by side, (J, B, 1, p)."""
    if len(data) == 1:
        (d,), one = data, (1, 1, 1, 1)
        t, interval = like.new_full(one, d.time), like.new_full(one, d.interval)
        return ObservationBatch(d.y[None, :, None], t, interval, d.fully_observed)
    y = torch.stack([d.y for d in data]).unsqueeze(2)
    facts = like.new_tensor([[d.time for d in data], [d.interval for d in data]])
    t, interval = facts.view(2, -1, 1, 1, 1).unbind()
    return ObservationBatch(y, t, interval, all(d.fully_observed for d in data))


def as_time(value: Tensor | float, like: Tensor) -> Tensor:
    """Return a time as it is, or a number as a tensor of as many axes as `like`."""
    return value if isinstance(value, Tensor) else like.new_full((1,) * like.ndim, value)
