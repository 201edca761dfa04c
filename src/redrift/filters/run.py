"""`particle_filter`: a filter over a record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from redrift._core.rng import Generators
from redrift.filters.particle import Bootstrap, ParticleFilter, Proposal
from redrift.filters.posterior import Posterior
from redrift.filters.record import Data, read
from redrift.filters.statespace import StateSpace


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
    """Filter a record with particles.

    Args:
        model: the state space.
        y: measurements (K, p) or (B, K, p), B data sets at once; NaN where missing, whole or in
            part. Or one (times, values) per sensor, each on its own clock.
        times: (K,), increasing, after model.start; start + dt, start + 2 dt, ... if None.
        particles: N.
        proposal: `Bootstrap()` if None, `Guided()`, `Auxiliary()` or `PathIntegral(window)`.
        smooth: keep fixed-lag means and variances, for `.smoothed(lag)`.
        progress: show a bar.
        generator: one, one per data set, or None.

    Returns:
        The laws, one per time of the proposal's stride: mean, cov, quantile, particles,
        log_weights, log_evidence, ess, start_ess, ancestors, smoothed, innovations, plot.

    Raises:
        ValueError: if data and model do not fit.
        NumericalError: if all weights are 0 at some time.

    Cost:
        See the proposal; float64 whatever y is. Memory: N states per law and data set.

    Example:
        >>> from redrift.filters import Gaussian, PathIntegral, Sensor
        >>> prior = Gaussian(torch.zeros(1), torch.eye(1))
        >>> model = StateSpace(prior, -torch.eye(1), sensors=Sensor(torch.eye(1), 0.1))
        >>> post = particle_filter(model, torch.ones(5, 1), proposal=PathIntegral(3.0))
        >>> post.mean.shape
        torch.Size([5, 1])
    """
    record = read(model, y, times)
    filter = ParticleFilter(
        model, particles, Bootstrap() if proposal is None else proposal, smooth, record.y.device
    )
    steps = zip(record.clock, record.y.unbind(1), record.whole(), strict=True)
    if progress:
        from tqdm import tqdm

        steps = tqdm(steps, unit="obs", total=len(record.clock))
    state, laws, end = filter.init(record.batch), [], record.clock[-1]
    for t, y, full in steps:
        state, law = filter.take(state, t, y, full, flush=t == end, generator=generator)
        if law is not None:
            laws.append(law)
    path = state.path
    if path is None:
        path = laws[-1].particles.unsqueeze(0)
    path = path.movedim(0, 2)
    held = torch.tensor(state.grid[: path.shape[2]], dtype=torch.float64)
    data = (torch.tensor(record.clock, dtype=torch.float64), record.y)
    single = record.single
    return Posterior(model, tuple(laws), data, path[0] if single else path, held, single)
