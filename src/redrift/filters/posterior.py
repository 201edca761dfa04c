"""Results of a filter over a record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from redrift._core.rng import Generators
from redrift.filters.law import Law
from redrift.filters.space import moments
from redrift.filters.statespace import StateSpace


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """Hold the laws of a filter that knows means and covariances.

    Attributes:
        times: (T,).
        mean: (..., T, d); the leading axis is there if y had it.
        cov: (..., T, d, d).
        log_evidence: (...).
        gains: what `smoothed` needs: predicted means and covariances, and cross-covariances.
    """

    times: Tensor
    mean: Tensor
    cov: Tensor
    log_evidence: Tensor
    gains: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def std(self) -> Tensor:
        """Return standard deviations (..., T, d)."""
        return self.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()

    def quantile(self, q: float) -> Tensor:
        """Return the q-quantile of each coordinate (..., T, d), for a normal law."""
        at = torch.special.ndtri(torch.tensor(float(q), dtype=self.mean.dtype))
        return self.mean + at * self.std

    def smoothed(self, lag: int | None = None) -> tuple[Tensor, Tensor]:
        """Return means and covariances given later data too: Rauch, Tung and Striebel.

        Args:
            lag: use data up to `lag` measurements later only; all of them if None.

        Raises:
            ValueError: if the filter kept no gains.
        """
        if self.gains is None:
            raise ValueError("this filter does not smooth: use filters.kalman.")
        T = len(self.times)
        if lag is None:
            return self._sweep(0, T - 1)
        pairs = [self._sweep(k, min(k + lag, T - 1)) for k in range(T)]
        return (
            torch.stack([m[..., 0, :] for m, _ in pairs], -2),
            torch.stack([c[..., 0, :, :] for _, c in pairs], -3),
        )

    def _sweep(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return smoothed laws of the times first to last, given data up to last."""
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
    """Hold the laws of a particle filter, one per time.

    Everything is computed when asked for. The leading axis B is there if y had it.

    Attributes:
        model: the model.
        laws: one per time.
        data: the times and measurements that were filtered, (K,) and (B, K, p).
        path: the last window's paths (..., N, W + 1, *point), with `path_times`.
        single: whether y came without a batch axis.
    """

    model: StateSpace
    laws: tuple[Law, ...]
    data: tuple[Tensor, Tensor]
    path: Tensor
    path_times: Tensor
    single: bool

    def _stack(self, values: list[Tensor]) -> Tensor:
        stacked = torch.stack(values, 1)
        return stacked[0] if self.single else stacked

    @cached_property
    def times(self) -> Tensor:
        """Return the times of the laws (T,)."""
        return torch.tensor([law.time for law in self.laws], dtype=torch.float64)

    @cached_property
    def particles(self) -> Tensor:
        """Return the particles (..., T, N, *point)."""
        return self._stack([law.particles for law in self.laws])

    @cached_property
    def log_weights(self) -> Tensor:
        """Return normalised log-weights (..., T, N)."""
        return self._stack([law.log_weights for law in self.laws])

    @cached_property
    def mean(self) -> Tensor:
        """Return filter means (..., T, *point)."""
        return self._stack([law.mean for law in self.laws])

    @cached_property
    def cov(self) -> Tensor:
        """Return filter covariances (..., T, d, d)."""
        return self._stack([law.cov for law in self.laws])

    @property
    def std(self) -> Tensor:
        """Return standard deviations (..., T, d)."""
        return self.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()

    def quantile(self, q: float) -> Tensor:
        """Return the weighted q-quantile of each coordinate (..., T, d), see `Law.quantile`."""
        return self._stack([law.quantile(q) for law in self.laws])

    @property
    def log_evidence(self) -> Tensor:
        """Return log p(y) (...): its exponential is unbiased."""
        value = self.laws[-1].log_evidence
        return value[0] if self.single else value

    @cached_property
    def log_evidences(self) -> Tensor:
        """Return log p of the data up to each time (..., T)."""
        return self._stack([law.log_evidence for law in self.laws])

    @cached_property
    def ess(self) -> Tensor:
        """Return effective sample sizes (..., T) as fractions of N."""
        return self._stack([law.ess for law in self.laws])

    @cached_property
    def start_ess(self) -> Tensor:
        """Return the look-ahead's effective sample sizes (..., T): low means a short window."""
        return self._stack([law.start_ess for law in self.laws])

    @cached_property
    def ancestors(self) -> Tensor:
        """Return how many different ancestors each law's particles have (..., T)."""
        return self._stack([law.unique for law in self.laws])

    @property
    def lost(self) -> int:
        """Return how many particles were not finite, over all times."""
        return sum(law.lost for law in self.laws)

    def smoothed(self, lag: float | None = None) -> tuple[Tensor, Tensor]:
        """Return smoothed means and variances.

        Args:
            lag: in model time, at most the window: the law at each time s given data up to
                s + lag, for the times s that the laws' grids hold; (..., T', d) with T' of
                them. None gives the last window's path (..., W + 1, d), at `path_times`.

        Raises:
            ValueError: if laws were kept without lags, or the lag is longer than the window.
        """
        if lag is None:
            w = self.laws[-1].log_weights.exp()
            w = (w[0] if self.single else w).unsqueeze(-2)
            space = self.model.space
            path = self.path.transpose(-2 - space.axes, -1 - space.axes)
            return moments(space, path, w.expand(path.shape[: path.ndim - space.axes]))
        means, variances = [], []
        for law in self.laws:
            if law.lags is None:
                raise ValueError("no lags were kept: call particle_filter(..., smooth=True).")
            at = [i for i, t in enumerate(law.lag_times) if abs(law.time - lag - t) < 1e-9]
            if at:
                means.append(law.lags[0][at[0]])
                variances.append(law.lags[1][at[0]])
        if not means:
            raise ValueError(f"lag={lag:g} is longer than the window, or no grid time.")
        return self._stack(means), self._stack(variances)

    def innovations(self, *, generator: Generators = None) -> tuple[Tensor, Tensor]:
        """Return y - E[y | earlier data] and its standard deviation, at each law's time but the first.

        The mean and spread come from the last law's particles pushed by the model; sensor noise
        is added for Gaussian sensors. For a well-specified model the ratio has mean square 1.

        Returns:
            Two tensors (..., T - 1, p); NaN where y is.
        """
        from redrift.filters.diagnostics import innovations

        return innovations(self, generator)

    def plot(self, path: str | None = None, *, coordinate: int | None = None) -> Any:  # noqa: ANN401
        """Draw means, 90 % bands, measurements' evidence and ESS of the first data set.

        Args:
            path: file to write; the figure is returned if None.
            coordinate: one coordinate; all (six at most) if None.

        Raises:
            ImportError: without matplotlib.
        """
        from redrift.filters.diagnostics import draw

        return draw(self, path, coordinate)

    def to_arviz(self) -> Any:  # noqa: ANN401
        """Return equally weighted draws of the filter laws as an arviz object, variable "x".

        Raises:
            ImportError: without arviz (extra "arviz").
        """
        from redrift.filters.diagnostics import to_arviz

        return to_arviz(self)
