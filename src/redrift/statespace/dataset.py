"""Measurements of a whole series: checked, with several sensors' series merged on one clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.statespace.model import StateSpace
from redrift.statespace.observation import Observation

Data = Tensor | Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Hold measurements (B, K, p) at K times; NaN is missing.

    Attributes:
        times: K of them, increasing, after `start`.
        y: (B, K, p), float64.
        single: whether y came without a batch axis.
        start: the time of the model's first state.
    """

    times: tuple[float, ...]
    y: Tensor
    single: bool
    start: float

    @property
    def batch(self) -> int:
        """Return B."""
        return len(self.y)

    def observed(self, k: int) -> Tensor:
        """Return which numbers of a measurement are there, (B, p)."""
        return ~self.y[:, k].isnan()

    def fully_observed(self) -> list[bool]:
        """Return for each measurement whether nothing is missing in any data set."""
        return (~self.y.isnan()).all(-1).all(0).tolist()

    def interval(self, k: int) -> float:
        """Return the time since the measurement before."""
        return self.times[k] - (self.times[k - 1] if k else self.start)

    def observation(self, k: int) -> Observation:
        """Return measurement k of all data sets."""
        fully = bool(self.observed(k).all())
        return Observation(self.times[k], self.y[:, k], self.interval(k), fully)


def read_dataset(model: StateSpace, y: Data, times: Tensor | Sequence[float] | None) -> Dataset:
    """Check measurements and put them on one clock.

    Args:
        model: says how many numbers a measurement has, and when time starts.
        y: (K, p) or (B, K, p), or one (times, values) per sensor, values (K_i, p_i) or
            (B, K_i, p_i), each on its own clock.
        times: (K,); start + dt, start + 2 dt, ... if None.

    Raises:
        ValueError: if times do not increase or do not come after the start, shapes do not fit,
            or a value is infinite.
        TypeError: if y is neither a tensor nor pairs.
    """
    if not isinstance(y, Tensor):
        y, times = _merge(model, y)
    if not y.is_floating_point():
        y = y.double()
    single = y.ndim == 2
    if y.ndim == 1 and model.measured == 1:
        y, single = y.unsqueeze(-1), True
    y = y.unsqueeze(0) if single else y
    if y.ndim != 3 or y.shape[-1] != model.measured or y.shape[1] == 0 or len(y) == 0:
        raise ValueError(
            f"y has shape {tuple(y.shape)}, expected (K, {model.measured}) or (B, K, "
            f"{model.measured}): the model's sensors give {model.measured} numbers."
        )
    K = y.shape[1]
    if times is None:
        clock = [model.start + model.dt * (k + 1) for k in range(K)]
    else:
        clock = [float(t) for t in times]
    if len(clock) != K:
        raise ValueError(f"times has {len(clock)} entries and y {K} measurements.")
    last = model.start
    for k, t in enumerate(clock):
        if not t > last or t == float("inf"):
            where = "the model's start" if k == 0 else f"times[{k - 1}]"
            raise ValueError(
                f"times[{k}] = {t:g} does not come after {where} = {last:g}: times must be "
                "finite, increase, and lie after the start."
            )
        last = t
    if bool(y.isinf().any()):
        at = int(y.isinf().any(-1).any(0).nonzero()[0])
        raise ValueError(f"y is infinite at time {clock[at]:g}: mark missing values by NaN.")
    return Dataset(tuple(clock), y.double(), single, float(model.start))


def _merge(
    model: StateSpace, series: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[float]]:
    """Put series with clocks of their own side by side, NaN where a sensor is silent."""
    sizes = [s.size or 1 for s in model.parts]
    if not isinstance(series, Sequence) or len(series) != len(sizes):
        raise TypeError(
            f"y must be a tensor, or {len(sizes)} pairs (times, values), one a sensor."
        )
    pairs = [
        ([round(float(t), 12) for t in times], torch.as_tensor(v).double()) for times, v in series
    ]
    clock = sorted({t for times, _ in pairs for t in times})
    at = {t: i for i, t in enumerate(clock)}
    columns = []
    for (times, values), size in zip(pairs, sizes, strict=True):
        values = values.unsqueeze(-1) if values.ndim == 1 else values
        if values.shape[-2:] != (len(times), size):
            raise ValueError(
                f"a series of {len(times)} times has values {tuple(values.shape)}, expected "
                f"(..., {len(times)}, {size})."
            )
        wide = values.new_full((*values.shape[:-2], len(clock), size), torch.nan)
        wide[..., [at[t] for t in times], :] = values
        columns.append(wide)
    lead = torch.broadcast_shapes(*(c.shape[:-2] for c in columns))
    return torch.cat([c.expand(*lead, *c.shape[-2:]) for c in columns], -1), clock
