r"""One step of a particle filter: what it keeps, what a proposal is, and what all proposals do.

A filter hands its state and the measurements since the last cloud to a proposal, which moves the
particles to the newest measurement and weighs them. `Bootstrap` is one, `PathIntegral` another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from redrift._core.errors import NumericalError
from redrift._core.rng import Generators, normal
from redrift.measure import adaptive_resample
from redrift.statespace.cloud import ParticleCloud, select
from redrift.statespace.model import StateSpace
from redrift.statespace.observation import Observation


class FilterState(NamedTuple):
    """Hold what a filter needs to go on; pickles, and never grows with time.

    Attributes:
        grid: times from the window's start to now.
        batch: number of data sets.
        last: time of the last cloud.
        data: measurements after the window's start.
        x: particles of the last cloud (B, N, *point), if no path ends in them.
        log_w: normalised log-weights (B, N).
        log_z: log-evidence (B,).
        path: particles on the grid up to the last cloud, (w + 1, B, N, *point), if these are kept.
        increments: log-increments of the steps between these times, (w, B, N).
        archive: earlier clouds (time, particles, log-weights, log-evidence), for mode="archive".
        checked: whether a window was found long enough to see the state.
    """

    grid: tuple[float, ...]
    batch: int
    last: float
    data: tuple[Observation, ...] = ()
    x: Tensor | None = None
    log_w: Tensor | None = None
    log_z: Tensor | None = None
    path: Tensor | None = None
    increments: Tensor | None = None
    archive: tuple[tuple[float, Tensor, Tensor, Tensor], ...] = ()
    checked: bool = False

    @property
    def time(self) -> float:
        """Return the time of the last measurement."""
        return self.grid[-1]


class Setup(NamedTuple):
    """Hold what a proposal is told of its filter; `like` is an empty tensor of its dtype and device."""

    model: StateSpace
    particles: int
    smooth: bool
    like: Tensor


class Proposal(Protocol):
    """Describe how particles reach the newest measurement."""

    @property
    def stride(self) -> float | None:
        """Return the least time between clouds; None gives one per measurement."""
        ...

    def step(
        self, setup: Setup, state: FilterState, generator: Generators, /
    ) -> tuple[FilterState, ParticleCloud]:
        """Return the state and the particles at the end of state.grid."""
        ...


def resample_below(
    x: Tensor, log_w: Tensor, ess_threshold: float, method: str, generator: Generators
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Resample the data sets whose effective sample size is below a share of N, to equal weights.

    Returns:
        States, normalised log-weights, and ancestors (None: nothing was done).
    """
    after = adaptive_resample(log_w, ess_threshold, method, generator, normalised=True)
    index = after.ancestors
    return x if index is None else select(x, index), after.log_w, index


def draw_noise(
    model: StateSpace, times: Sequence[float], x: Tensor, generator: Generators
) -> Tensor:
    """Return standard normal numbers (W, m, B, N) for the W steps between some times."""
    m = model.noise_size(x, times[0], times[1] - times[0])
    B, N, W = *x.shape[:2], len(times) - 1
    if B == 1:
        return normal((W, m, B, N), generator, dtype=x.dtype, device=x.device)
    z = normal((B, W, m, N), generator, dtype=x.dtype, device=x.device)
    return z.permute(1, 2, 0, 3).contiguous()


def normalise(
    x: Tensor, log_w: Tensor, log_z: Tensor, time: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Normalise weights. States that are not finite are counted, and get weight 0 and another's place.

    Raises:
        NumericalError: if all weights of a data set are 0.
    """
    normed, lost = log_w.log_softmax(-1), 0
    # the difference at the largest weight; where two round alike its gradient may mistake them
    total = log_w.logsumexp(-1) if log_w.requires_grad else log_w.amax(-1) - normed.amax(-1)
    if not math.isfinite(x.sum().item() + sum(total.tolist())):
        fine = torch.isfinite(x).flatten(2).all(-1) & ~log_w.isnan() & (log_w != torch.inf)
        lost = int((~fine).sum())
        log_w = torch.where(fine, log_w, torch.full_like(log_w, -torch.inf))
        other = select(x, log_w.argmax(-1, keepdim=True))  # a point of the space, too
        x = torch.where(fine.reshape(*fine.shape, *[1] * (x.ndim - 2)), x, other)
        normed, total = log_w.log_softmax(-1), log_w.logsumexp(-1)
        bad = (~torch.isfinite(total)).nonzero().flatten().tolist()
        if bad:
            raise NumericalError(
                f"at time {time:g} every particle has weight 0 in data sets {bad[:8]}: no "
                "particle reached the measurement. Use more particles, a guided proposal, a longer "
                "window, or a sensor with heavy tails (nu=4).",
                step=-1, time=time,
            )  # fmt: skip
    return x, normed, log_z + total, lost
