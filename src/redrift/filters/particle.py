r"""Particle filters as a fold: state, measurement -> state, law.

`ParticleFilter.update` takes one measurement and keeps what the next one needs, so memory is
constant in time; `particle_filter` folds a record. A proposal says how particles are moved to the
time of the newest measurement: `Bootstrap` here, the path-integral family in `pathintegral`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from redrift._core.errors import NumericalError, whole
from redrift._core.rng import Generators, normal
from redrift.filters.guide import Window
from redrift.filters.law import Law, select
from redrift.filters.sensors import Reading
from redrift.filters.statespace import StateSpace
from redrift.measure import resample
from redrift.measure.resampling import comb, shifts


class Datum(NamedTuple):
    """Hold one measurement: y (B, p) at a grid time, the time since the last one, its fullness."""

    time: float
    y: Tensor
    gap: float
    full: bool

    def reading(self) -> Reading:
        """Return it in the form that sensors read."""
        return Reading(self.y.unsqueeze(1), self.time, self.gap, self.full)


class State(NamedTuple):
    """Hold what a filter needs to go on; pickles, and never grows with time.

    Attributes:
        grid: times from the window's start to now.
        batch: number of data sets.
        last: time of the last law.
        data: measurements after the window's start.
        x: particles of the last law (B, N, *point), if no path ends in them.
        log_w: normalised log-weights (B, N).
        log_z: log-evidence (B,).
        path: particles on the grid up to the last law, (w + 1, B, N, *point), if these are kept.
        gain: log-increments of the steps between these times, (w, B, N).
        archive: earlier laws (time, particles, log-weights, log-evidence), for mode="archive".
    """

    grid: tuple[float, ...]
    batch: int
    last: float
    data: tuple[Datum, ...] = ()
    x: Tensor | None = None
    log_w: Tensor | None = None
    log_z: Tensor | None = None
    path: Tensor | None = None
    gain: Tensor | None = None
    archive: tuple[tuple[float, Tensor, Tensor, Tensor], ...] = ()

    @property
    def time(self) -> float:
        """Return the time of the last measurement."""
        return self.grid[-1]


class Proposal(Protocol):
    """Describe how particles reach the newest measurement."""

    @property
    def stride(self) -> float | None:
        """Return the least time between laws; None gives one per measurement."""
        ...

    def emit(
        self, filter: ParticleFilter, state: State, generator: Generators, /
    ) -> tuple[State, Law]:
        """Return the state and the law at the end of state.grid."""
        ...


@dataclass(frozen=True)
class Bootstrap:
    """Move particles by the model alone, weigh by the sensors, resample when weights degenerate.

    Args:
        threshold: effective share of particles below which they are resampled.
        scheme: of resampling, see `redrift.measure.resample`.

    Paper: Gordon, Salmond and Smith (1993).
    """

    threshold: float = 0.5
    scheme: str = "systematic"
    stride: float | None = None

    def emit(
        self, filter: ParticleFilter, state: State, generator: Generators, /
    ) -> tuple[State, Law]:
        """Return the state and the law at the end of state.grid."""
        model, n, index = filter.model, filter.particles, None
        if state.x is None or state.log_w is None or state.log_z is None:
            x = model.draw(state.batch, n, generator, filter.like)
            log_w = x.new_full((state.batch, n), -math.log(n))
            log_z = x.new_zeros(state.batch)
            start = x.new_zeros(state.batch, 1)
        else:
            start, log_z = state.log_w, state.log_z
            x, log_w, index = renew(state.x, start, self.threshold, self.scheme, generator)
        before, data = state.grid[0], {d.time: d for d in state.data}
        noise = draw_noise(model, state.grid, x, generator).unbind()  # (m, B, N) each
        for t, z in zip(state.grid[1:], noise, strict=True):
            x, before = model.step(x, before, t - before, z), t
            if t in data:
                log_w = log_w + model.log_likelihood(data[t].reading(), x)
        x, log_w, log_z, lost = settle(x, log_w, log_z, state.time)
        state = State(state.grid[-1:], state.batch, state.time, (), x, log_w, log_z)
        law = Law(state.time, x, log_w, log_z, start, index, lost=lost, space=model.space)
        return state, law


def renew(
    x: Tensor, log_w: Tensor, threshold: float, scheme: str, generator: Generators
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Resample the data sets whose effective share is below a threshold, to equal weights.

    Returns:
        States, normalised log-weights, and ancestors (None: nothing was done).
    """
    w, n = log_w.exp(), log_w.shape[-1]
    # the effective share is 1 / (N |w|^2)
    enough = 1 / math.sqrt(n * threshold) if threshold > 0 else math.inf
    norm = torch.linalg.vector_norm(w, dim=-1)
    norms = norm.tolist()
    if max(norms) <= enough:
        return x, log_w, None
    index = ancestors(w, n, scheme, generator)
    flat = torch.full_like(log_w, -math.log(n))
    if min(norms) <= enough:
        low = (norm > enough).unsqueeze(-1)
        index = torch.where(low, index, torch.arange(n, device=index.device))
        flat = torch.where(low, flat, log_w)
    return select(x, index), flat, index


def ancestors(w: Tensor, n: int, scheme: str, generator: Generators) -> Tensor:
    """Draw n ancestors (B, n) by weights (B, N) that are known to be sound."""
    if scheme == "systematic":
        return comb(w, n, shifts(w.shape[0], n, w, generator))
    return resample(w.log(), n, scheme, generator)


def draw_noise(
    model: StateSpace, times: Sequence[float], x: Tensor, generator: Generators
) -> Tensor:
    """Return standard normal numbers (W, m, B, N) for the W steps between some times."""
    m = model.root(x, times[0], times[1] - times[0]).shape[-1]
    B, N, W = *x.shape[:2], len(times) - 1
    if B == 1:
        return normal((W, m, B, N), generator, dtype=x.dtype, device=x.device)
    z = normal((B, W, m, N), generator, dtype=x.dtype, device=x.device)
    return z.permute(1, 2, 0, 3).contiguous()


def make_window(
    model: StateSpace, grid: Sequence[float], data: Sequence[Datum], like: Tensor
) -> Window:
    """Return the window of a grid, with those data that lie inside it."""
    at = {t: i for i, t in enumerate(grid)}
    inside = [d for d in data if d.time in at and at[d.time] > 0]
    if not inside:
        return Window(model, tuple(grid), (), None)
    places = tuple(at[d.time] for d in inside)
    if len(inside) == 1:
        (d,), one = inside, (1, 1, 1, 1)
        reading = Reading(
            d.y[None, :, None], like.new_full(one, d.time), like.new_full(one, d.gap), d.full
        )
        return Window(model, tuple(grid), places, reading)
    y = torch.stack([d.y for d in inside]).unsqueeze(2)
    facts = like.new_tensor([[d.time for d in inside], [d.gap for d in inside]])
    t, gap = facts.view(2, -1, 1, 1, 1).unbind()
    reading = Reading(y, t, gap, all(d.full for d in inside))
    return Window(model, tuple(grid), places, reading)


def settle(
    x: Tensor, log_w: Tensor, log_z: Tensor, time: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Normalise weights, with those of states that are not finite set to 0, and count these.

    Raises:
        NumericalError: if all weights of a data set are 0.
    """
    normed, lost = log_w.log_softmax(-1), 0
    # the difference at the largest weight; where two round alike its gradient may mistake them
    total = log_w.logsumexp(-1) if log_w.requires_grad else log_w.amax(-1) - normed.amax(-1)
    if not math.isfinite(x.sum().item() + sum(total.tolist())):
        fine = torch.isfinite(x).flatten(2).all(-1) & ~log_w.isnan() & (log_w != torch.inf)
        lost = int((~fine).sum())
        x = torch.where(fine.reshape(*fine.shape, *[1] * (x.ndim - 2)), x, torch.zeros_like(x))
        log_w = torch.where(fine, log_w, torch.full_like(log_w, -torch.inf))
        normed, total = log_w.log_softmax(-1), log_w.logsumexp(-1)
        bad = (~torch.isfinite(total)).nonzero().flatten().tolist()
        if bad:
            raise NumericalError(
                f"at time {time:g} every particle has weight 0 in data sets {bad[:8]}: no "
                "particle reached the measurement. Use more particles, a guide, a longer window, "
                "or a sensor with heavy tails (nu=4).",
                step=-1, time=time,
            )  # fmt: skip
    return x, normed, log_z + total, lost


@dataclass(frozen=True, eq=False)
class ParticleFilter:
    """Filter a stream.

    Args:
        model: the state space.
        particles: N.
        proposal: `Bootstrap()`, or a member of the path-integral family.
        smooth: keep fixed-lag means and variances with every law.

    Cost:
        Memory of N states per grid point of the window and data set; computed in float64.

    Example:
        >>> from redrift.filters import Gaussian, Sensor
        >>> prior = Gaussian(torch.zeros(1), torch.eye(1))
        >>> f = ParticleFilter(StateSpace(prior, -torch.eye(1), sensors=Sensor(torch.eye(1))), 10)
        >>> state, law = f.update(f.init(), 0.5, torch.tensor([[0.3]]))
    """

    model: StateSpace
    particles: int = 64
    proposal: Proposal = field(default_factory=Bootstrap)
    smooth: bool = False
    device: torch.device | str = "cpu"
    cache: dict[str, bool] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check."""
        whole("particles", self.particles)

    @cached_property
    def like(self) -> Tensor:
        """Return an empty tensor of the dtype and device in use."""
        return torch.empty(0, dtype=torch.float64, device=self.device)

    def init(self, batch: int = 1) -> State:
        """Return the state before any measurement, for a number of data sets."""
        start = float(self.model.start)
        return State((start,), whole("batch", batch), start)

    def update(
        self,
        state: State,
        t: float,
        y: Tensor,
        *,
        flush: bool = False,
        generator: Generators = None,
    ) -> tuple[State, Law | None]:
        """Take one measurement.

        Args:
            state: from `init` or the last update; not changed.
            t: its time, after the last one.
            y: (B, p), or (p,) for one data set; NaN where missing.
            flush: give a law even before the proposal's stride is over.
            generator: one, one per data set, or None.

        Returns:
            The new state, and the law, or None before the stride is over.

        Raises:
            ValueError: if t does not increase, or y has changed its shape or is infinite.
            NumericalError: if all particles have weight 0, with the time.
        """
        t = float(t)
        if not t > state.time + 1e-12 or not math.isfinite(t):
            raise ValueError(
                f"time {t!r} does not come after {state.time!r}: times must be finite, increase, "
                f"and lie after the model's start ({self.model.start:g})."
            )
        y = torch.as_tensor(y).to(self.like)
        y = y.unsqueeze(0) if y.ndim == 1 else y
        if y.shape != (state.batch, self.model.measured):
            raise ValueError(
                f"y has shape {tuple(y.shape)} at time {t:g}, expected ({state.batch}, "
                f"{self.model.measured}): one row per data set, one number per measured value "
                "(NaN where missing)."
            )
        full = math.isfinite(y.sum().item())
        if not full and bool(y.isinf().any()):
            raise ValueError(f"y is infinite at time {t:g}: mark missing values by NaN.")
        return self.take(state, t, y, full, flush=flush, generator=generator)

    def take(
        self, state: State, t: float, y: Tensor, full: bool, *, flush: bool, generator: Generators
    ) -> tuple[State, Law | None]:
        """Take one measurement that is known to be sound; `full` says that nothing is missing."""
        data = state.data
        if full or not bool(y.isnan().all()):
            before = data[-1].time if data else state.time
            data = (*data, Datum(t, y, t - before, full))
        grid = (*state.grid, *self.model.grid(state.time, t))
        state = state._replace(grid=grid, data=data)
        stride = self.proposal.stride
        if not flush and stride is not None and t - state.last < stride - 1e-9:
            return state, None
        return self.proposal.emit(self, state, generator)
