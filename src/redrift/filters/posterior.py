"""Results of a particle filter over a series of measurements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from redrift._core.rng import Generators, normal
from redrift.statespace.cloud import ParticleCloud
from redrift.statespace.columns import scale_noise
from redrift.statespace.dataset import Dataset
from redrift.statespace.model import StateSpace
from redrift.statespace.space import moments


@dataclass(frozen=True, eq=False)
class Posterior:
    """Hold the filtering distributions of a particle filter, one cloud per time.

    Everything is computed when asked for. The leading axis B is there if y had it.

    Attributes:
        model: the model.
        clouds: one per time.
        data: the measurements that were filtered.
        path: the last window's paths (..., N, W + 1, *point), with `path_times`.
    """

    model: StateSpace
    clouds: tuple[ParticleCloud, ...]
    data: Dataset
    path: Tensor
    path_times: Tensor

    def _stack(self, values: list[Tensor]) -> Tensor:
        stacked = torch.stack(values, 1)
        return stacked[0] if self.data.single else stacked

    @cached_property
    def times(self) -> Tensor:
        """Return the times of the clouds (T,)."""
        return torch.tensor([cloud.time for cloud in self.clouds], dtype=torch.float64)

    @cached_property
    def particles(self) -> Tensor:
        """Return the particles (..., T, N, *point)."""
        return self._stack([cloud.particles for cloud in self.clouds])

    @cached_property
    def log_weights(self) -> Tensor:
        """Return normalised log-weights (..., T, N)."""
        return self._stack([cloud.log_weights for cloud in self.clouds])

    @cached_property
    def mean(self) -> Tensor:
        """Return filter means (..., T, *point)."""
        return self._stack([cloud.mean for cloud in self.clouds])

    @cached_property
    def cov(self) -> Tensor:
        """Return filter covariances (..., T, d, d)."""
        return self._stack([cloud.cov for cloud in self.clouds])

    @property
    def std(self) -> Tensor:
        """Return standard deviations (..., T, d)."""
        return self.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()

    def quantile(self, q: float) -> Tensor:
        """Return the weighted q-quantile of each coordinate (..., T, d), see `ParticleCloud.quantile`."""
        return self._stack([cloud.quantile(q) for cloud in self.clouds])

    @property
    def log_evidence(self) -> Tensor:
        """Return log p(y) (...): its exponential is unbiased."""
        value = self.clouds[-1].log_evidence
        return value[0] if self.data.single else value

    @cached_property
    def log_evidences(self) -> Tensor:
        """Return log p of the data up to each time (..., T)."""
        return self._stack([cloud.log_evidence for cloud in self.clouds])

    @cached_property
    def ess(self) -> Tensor:
        """Return effective sample sizes (..., T) as fractions of N."""
        return self._stack([cloud.ess for cloud in self.clouds])

    @cached_property
    def look_ahead_ess(self) -> Tensor:
        """Return the look-ahead's effective sample sizes (..., T): low means a short window."""
        return self._stack([cloud.look_ahead_ess for cloud in self.clouds])

    @cached_property
    def distinct_ancestors(self) -> Tensor:
        """Return how many different ancestors each cloud's particles have (..., T)."""
        return self._stack([cloud.distinct_ancestors for cloud in self.clouds])

    @property
    def lost(self) -> int:
        """Return how many particles were not finite, over all times."""
        return sum(cloud.lost for cloud in self.clouds)

    def smoothed(self, lag: float | None = None) -> tuple[Tensor, Tensor]:
        """Return smoothed means and variances.

        Args:
            lag: in model time, at most the window: the moments at each time s given data up to
                s + lag, for the times s that the clouds' grids hold; (..., T', d) with T' of
                them. None gives the last window's path (..., W + 1, d), at `path_times`.

        Raises:
            ValueError: if clouds were kept without lags, or the lag is longer than the window.
        """
        if lag is None:
            w = self.clouds[-1].log_weights.exp()
            w = (w[0] if self.data.single else w).unsqueeze(-2)
            space = self.model.space
            path = self.path.transpose(-2 - space.axes, -1 - space.axes)
            return moments(space, path, w.expand(path.shape[: path.ndim - space.axes]))
        means, variances = [], []
        for cloud in self.clouds:
            if cloud.lags is None:
                raise ValueError("no lags were kept: call particle_filter(..., smooth=True).")
            at = [i for i, t in enumerate(cloud.lag_times) if abs(cloud.time - lag - t) < 1e-9]
            if at:
                means.append(cloud.lags[0][at[0]])
                variances.append(cloud.lags[1][at[0]])
        if not means:
            raise ValueError(f"lag={lag:g} is longer than the window, or no grid time.")
        return self._stack(means), self._stack(variances)

    def innovations(self, *, generator: Generators = None) -> tuple[Tensor, Tensor]:
        """Return y - E[y | earlier data] and its standard deviation, at each cloud's time but the first.

        The mean and spread come from the last cloud's particles pushed by the model; sensor noise
        is added for Gaussian sensors. For a well-specified model the ratio has mean square 1.

        Returns:
            Two tensors (..., T - 1, p); NaN where y is.
        """
        model, data, rest, spread = self.model, self.data, [], []
        for cloud, then in zip(self.clouds, self.clouds[1:], strict=False):
            x, now = cloud.particles, cloud.time
            for until in model.grid(now, then.time):
                G = model.root(x, now, until - now)
                z = normal((*x.shape[:2], G.shape[-1]), generator, dtype=x.dtype, device=x.device)
                x = model.space.retract(model.advance(x, now, until - now), scale_noise(G, z))
                now = until
            k = min(range(len(data.times)), key=lambda k: abs(data.times[k] - now))
            interval = data.interval(k)
            t, values, noise = x.new_tensor(now), [], []
            for s in model.parts:
                unit = interval if s.kind == "increment" else 1.0
                values.append(s.predict(x, t) * unit)
                noise.append(s.R().to(x).diagonal(dim1=-2, dim2=-1) * unit)
            w, seen = cloud.log_weights.exp().unsqueeze(-1), torch.cat(values, -1)
            mean = (w * seen).sum(-2)
            inner = (w * (seen - mean.unsqueeze(-2)) ** 2).sum(-2)
            rest.append(data.y[:, k] - mean)
            spread.append((inner + torch.cat(noise, -1)).sqrt())
        return self._stack(rest), self._stack(spread)
