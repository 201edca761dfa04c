r"""Particle filters as a fold: state, measurement -> state, particles.

`ParticleFilter.update` takes one measurement and keeps what the next one needs, so memory is
constant in time; `particle_filter` folds a dataset. A proposal says how particles are moved to the
time of the newest measurement: `Bootstrap` here, the path-integral family in `redrift.pathintegral`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.rng import Generators
from redrift.filters.posterior import Posterior
from redrift.statespace.cloud import ParticleCloud
from redrift.statespace.dataset import Data, read_dataset
from redrift.statespace.model import StateSpace
from redrift.statespace.observation import Observation
from redrift.statespace.recursion import (
    FilterState,
    Proposal,
    Setup,
    draw_noise,
    normalise,
    resample_below,
)


@dataclass(frozen=True)
class Bootstrap:
    """Move particles by the model alone, weigh by the sensors, resample when weights degenerate.

    Args:
        ess_threshold: resample below this effective sample size, a share of N.
        resampling: method, see `redrift.measure.resample`.
        stride: least time between clouds; None gives one per measurement.

    Paper: Gordon, Salmond and Smith (1993).
    """

    ess_threshold: float = 0.5
    resampling: str = "systematic"
    stride: float | None = None

    def step(
        self, setup: Setup, state: FilterState, generator: Generators, /
    ) -> tuple[FilterState, ParticleCloud]:
        """Return the state and the particles at the end of state.grid."""
        model, n, index = setup.model, setup.particles, None
        if state.x is None or state.log_w is None or state.log_z is None:
            x = model.draw(state.batch, n, generator, setup.like)
            log_w = x.new_full((state.batch, n), -math.log(n))
            log_z = x.new_zeros(state.batch)
            first = x.new_zeros(state.batch, 1)
        else:
            first, log_z = state.log_w, state.log_z
            x, log_w, index = resample_below(
                state.x, first, self.ess_threshold, self.resampling, generator
            )
        before, data = state.grid[0], {d.time: d for d in state.data}
        noise = draw_noise(model, state.grid, x, generator).unbind()  # (m, B, N) each
        for t, z in zip(state.grid[1:], noise, strict=True):
            x, before = model.step(x, before, t - before, z), t
            if t in data:
                log_w = log_w + model.log_likelihood(data[t].batch(), x)
        x, log_w, log_z, lost = normalise(x, log_w, log_z, state.time)
        state = FilterState(state.grid[-1:], state.batch, state.time, (), x, log_w, log_z)
        cloud = ParticleCloud(
            state.time, x, log_w, log_z, first, index, lost=lost, space=model.space
        )
        return state, cloud


@dataclass(frozen=True, eq=False)
class ParticleFilter:
    """Filter a stream.

    Args:
        model: the state space.
        particles: N.
        proposal: `Bootstrap()`, or a member of the path-integral family.
        smooth: keep fixed-lag means and variances with every cloud.
        device: of the computation.

    Cost:
        Memory of N states per grid point of the window and data set; computed in float64.

    Example:
        >>> from redrift.filters import GaussianPrior, Sensor
        >>> prior = GaussianPrior(torch.zeros(1), torch.eye(1))
        >>> f = ParticleFilter(StateSpace(prior, -torch.eye(1), sensors=Sensor(torch.eye(1))), 10)
        >>> state, cloud = f.update(f.init(), 0.5, torch.tensor([[0.3]]))
    """

    model: StateSpace
    particles: int = 64
    proposal: Proposal = field(default_factory=Bootstrap)
    smooth: bool = False
    device: torch.device | str = "cpu"
    setup: Setup = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check, and hold what proposals are told."""
        n, like = whole("particles", self.particles), torch.empty(0, device=self.device).double()
        object.__setattr__(self, "setup", Setup(self.model, n, self.smooth, like))

    def init(self, batch: int = 1) -> FilterState:
        """Return the state before any measurement, for a number of data sets."""
        start = float(self.model.start)
        return FilterState((start,), whole("batch", batch), start)

    def update(
        self,
        state: FilterState,
        t: float,
        y: Tensor,
        *,
        flush: bool = False,
        generator: Generators = None,
    ) -> tuple[FilterState, ParticleCloud | None]:
        """Take one measurement.

        Args:
            state: from `init` or the last update; not changed.
            t: its time, after the last one.
            y: (B, p), or (p,) for one data set; NaN where missing.
            flush: give a cloud even before the proposal's stride is over.
            generator: one, one per data set, or None.

        Returns:
            The new state, and the particles, or None before the stride is over.

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
        y = torch.as_tensor(y).to(self.setup.like)
        y = y.unsqueeze(0) if y.ndim == 1 else y
        if y.shape != (state.batch, self.model.measured):
            raise ValueError(
                f"y has shape {tuple(y.shape)} at time {t:g}, expected ({state.batch}, "
                f"{self.model.measured}): one row per data set, one number per measured value "
                "(NaN where missing)."
            )
        fully = math.isfinite(y.sum().item())
        if not fully and bool(y.isinf().any()):
            raise ValueError(f"y is infinite at time {t:g}: mark missing values by NaN.")
        return self._observe(state, t, y, fully, flush, generator)

    def _observe(
        self,
        state: FilterState,
        t: float,
        y: Tensor,
        fully: bool,
        flush: bool,
        generator: Generators,
    ) -> tuple[FilterState, ParticleCloud | None]:
        """Take one measurement that is known to be sound; `fully` says that nothing is missing."""
        data = state.data
        if fully or not bool(y.isnan().all()):
            before = data[-1].time if data else state.time
            data = (*data, Observation(t, y, t - before, fully))
        grid = (*state.grid, *self.model.grid(state.time, t))
        state = state._replace(grid=grid, data=data)
        stride = self.proposal.stride
        if not flush and stride is not None and t - state.last < stride - 1e-9:
            return state, None
        return self.proposal.step(self.setup, state, generator)


def particle_filter(
    model: StateSpace,
    y: Data,
    *,
    times: Tensor | Sequence[float] | None = None,
    particles: int = 64,
    proposal: Proposal | None = None,
    smooth: bool = False,
    progress: bool = False,
    generator: Generators = None,
) -> Posterior:
    """Filter a series of measurements with particles.

    Args:
        model: the state space.
        y: measurements (K, p) or (B, K, p), B data sets at once; NaN where missing, whole or in
            part. Or one (times, values) per sensor, each on its own clock.
        times: (K,), increasing, after model.start; start + dt, start + 2 dt, ... if None.
        particles: N.
        proposal: `Bootstrap()` if None, `GuidedProposal()`, `AuxiliaryProposal()` or
            `PathIntegral(window)`.
        smooth: keep fixed-lag means and variances, for `.smoothed(lag)`.
        progress: show a bar.
        generator: one, one per data set, or None.

    Returns:
        The filtering distributions, one per time of the proposal's stride: mean, cov, quantile,
        particles, log_weights, log_evidence, ess, look_ahead_ess, smoothed, innovations.

    Raises:
        ValueError: if data and model do not fit.
        NumericalError: if all weights are 0 at some time.

    Cost:
        See the proposal; float64 whatever y is. Memory: N states per time and data set.

    Example:
        >>> from redrift.filters import GaussianPrior, PathIntegral, Sensor
        >>> prior = GaussianPrior(torch.zeros(1), torch.eye(1))
        >>> model = StateSpace(prior, -torch.eye(1), sensors=Sensor(torch.eye(1), 0.1))
        >>> post = particle_filter(model, torch.ones(5, 1), proposal=PathIntegral(3.0))
        >>> post.mean.shape
        torch.Size([5, 1])
    """
    data = read_dataset(model, y, times)
    filter = ParticleFilter(
        model, particles, Bootstrap() if proposal is None else proposal, smooth, data.y.device
    )
    steps = zip(data.times, data.y.unbind(1), data.fully_observed(), strict=True)
    if progress:
        from tqdm import tqdm

        steps = tqdm(steps, unit="obs", total=len(data.times))
    state, clouds, end = filter.init(data.batch), [], data.times[-1]
    for t, y, fully in steps:
        state, cloud = filter._observe(state, t, y, fully, t == end, generator)
        if cloud is not None:
            clouds.append(cloud)
    path = state.path
    if path is None:
        path = clouds[-1].particles.unsqueeze(0)
    path = path.movedim(0, 2)
    held = torch.tensor(state.grid[: path.shape[2]], dtype=torch.float64)
    path = path[0] if data.single else path
    return Posterior(model, tuple(clouds), data, path, held)
