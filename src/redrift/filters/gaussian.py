"""Results of filters that know means and covariances."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from redrift.statespace.dataset import Dataset
from redrift.statespace.space import Euclidean, Space


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
