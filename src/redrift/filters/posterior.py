"""Results of a filter over a series of measurements: Gaussians, or particle clouds."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from redrift._core.rng import Generators, normal
from redrift.statespace.cloud import ParticleCloud
from redrift.statespace.columns import scale_noise
from redrift.statespace.dataset import Dataset
from redrift.statespace.model import StateSpace
from redrift.statespace.space import Euclidean, Space, mean_and_variance


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """Hold the filtering distributions of a filter that knows means and covariances.

    Attributes:
        times: (T,).
        mean: (..., T, *point); the leading axis is there if y had it.
        cov: (..., T, d, d), in coordinates around the mean.
        log_evidence: (...).
        gains: what `smoothed` needs: predicted means and covariances, and cross-covariances.
        space: where the state lives.
    """

    times: Tensor
    mean: Tensor
    cov: Tensor
    log_evidence: Tensor
    gains: tuple[Tensor, ...] | None = None
    space: Space = field(default_factory=Euclidean)

    @classmethod
    def of(
        cls,
        data: Dataset,
        mean: Tensor,
        cov: Tensor,
        log_z: Tensor,
        gains: tuple[Tensor, ...] | None = None,
        space: Space | None = None,
    ) -> GaussianPosterior:
        """Return the results for a dataset, without the batch axis if its y had none."""
        if data.single:
            mean, cov, log_z = mean[0], cov[0], log_z[0]
            gains = None if gains is None else tuple(g[0] for g in gains)
        times = torch.tensor(data.times, dtype=torch.float64)
        return cls(times, mean, cov, log_z, gains, space or Euclidean())

    @property
    def std(self) -> Tensor:
        """Return standard deviations (..., T, d)."""
        return self.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()

    def quantile(self, q: float) -> Tensor:
        """Return the q-quantile of each coordinate (..., T, d), of a normal distribution.

        On a curved space the coordinates are those around the mean.
        """
        away = torch.special.ndtri(torch.tensor(float(q), dtype=self.mean.dtype)) * self.std
        return self.mean + away if self.space.flat else away

    def smoothed(self, lag: int | None = None) -> tuple[Tensor, Tensor]:
        """Return means and covariances given later data too: Rauch, Tung and Striebel.

        Args:
            lag: use data up to `lag` measurements later only; all of them if None.

        Raises:
            ValueError: if the filter kept no gains, or the space is curved.
        """
        if self.gains is None:
            raise ValueError("this filter does not smooth: use filters.kalman.")
        if not self.space.flat:
            raise ValueError(
                "smoothing adds means, but the space is curved: use "
                "particle_filter(..., proposal=PathIntegral(window), smooth=True).smoothed(lag)."
            )
        T = len(self.times)
        if lag is None:
            return self._sweep(0, T - 1)
        pairs = [self._sweep(k, min(k + lag, T - 1)) for k in range(T)]
        return (
            torch.stack([m[..., 0, :] for m, _ in pairs], -2),
            torch.stack([c[..., 0, :, :] for _, c in pairs], -3),
        )

    def _sweep(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return smoothed means and covariances of the times first to last, given data up to last."""
        if self.gains is None:
            raise AssertionError
        ahead, spread, cross = self.gains
        means, covs = [self.mean[..., last, :]], [self.cov[..., last, :, :]]
        for k in range(last - 1, first - 1, -1):
            P = spread[..., k + 1, :, :]
            gain = torch.linalg.solve(P, cross[..., k + 1, :, :].mT).mT
            move = (gain @ (means[-1] - ahead[..., k + 1, :]).unsqueeze(-1)).squeeze(-1)
            means.append(self.mean[..., k, :] + move)
            covs.append(self.cov[..., k, :, :] + gain @ (covs[-1] - P) @ gain.mT)
        return torch.stack(means[::-1], -2), torch.stack(covs[::-1], -3)


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
            return mean_and_variance(space, path, w.expand(path.shape[: path.ndim - space.axes]))
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
