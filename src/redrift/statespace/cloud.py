"""What a filter says at one time: weighted particles, and what follows from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from redrift.measure import effective_share
from redrift.statespace.space import Euclidean, Space, covariance


class ParticleCloud(NamedTuple):
    """Hold the filtering distribution at one time: N weighted particles for each of B data sets.

    Attributes:
        time: when.
        particles: (B, N, *point).
        log_weights: normalised, (B, N).
        log_evidence: log p of all measurements so far (B,).
        first_stage: log-weights in the look-ahead (B, n), of which `look_ahead_ess` is made.
        ancestors: index of each particle's ancestor there (B, N), or None.
        noise_free: Rao-Blackwell states (B, N, *point) whose weighted mean is the mean, or None.
        lags: fixed-lag means (W + 1, B, *point) and variances (W + 1, B, d) at `lag_times`, or None.
        lag_times: grid times of the window.
        lost: states that were not finite and have weight 0, in all.
    """

    time: float
    particles: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    first_stage: Tensor
    ancestors: Tensor | None = None
    noise_free: Tensor | None = None
    lags: tuple[Tensor, Tensor] | None = None
    lag_times: tuple[float, ...] = ()
    lost: int = 0
    space: Space = Euclidean()

    @property
    def mean(self) -> Tensor:
        """Return the filter's mean (B, *point)."""
        x = self.particles if self.noise_free is None else self.noise_free
        return self.space.mean(x, self.log_weights.exp())

    @property
    def cov(self) -> Tensor:
        """Return the covariance (B, d, d), around the particles' own mean."""
        w = self.log_weights.exp()
        return covariance(self.space, self.space.mean(self.particles, w), self.particles, w)

    @property
    def ess(self) -> Tensor:
        """Return the effective sample size (B,) as a fraction of N."""
        return effective_share(self.log_weights.exp())

    @property
    def look_ahead_ess(self) -> Tensor:
        """Return the effective share of the particles in the look-ahead (B,); 1 if there was none."""
        return effective_share(self.first_stage.softmax(-1))

    @property
    def distinct_ancestors(self) -> Tensor:
        """Return how many different ancestors the particles have (B,)."""
        n = self.log_weights.shape[-1]
        if self.ancestors is None:
            return torch.full_like(self.log_evidence, n)
        order = self.ancestors.sort(-1).values
        return 1.0 + (order.diff(dim=-1) != 0).sum(-1).to(self.log_evidence)

    def quantile(self, q: float) -> Tensor:
        """Return the weighted q-quantile of every coordinate (B, d), q in (0, 1).

        On a curved space the coordinates are those around the mean.
        """
        x = self.particles
        if not self.space.flat:
            x = self.space.local(self.mean.unsqueeze(-1 - self.space.axes), x)
        return weighted_quantile(x, self.log_weights, q)


def weighted_quantile(x: Tensor, log_w: Tensor, q: float) -> Tensor:
    """Return the q-quantile of each coordinate of states (..., N, d) with weights (..., N).

    Raises:
        ValueError: if q is outside (0, 1).
    """
    if not 0 < q < 1:
        raise ValueError(f"q={q!r} must lie between 0 and 1.")
    values, order = x.sort(-2)
    mass = log_w.exp().unsqueeze(-1).expand_as(x).gather(-2, order).cumsum(-2)
    at = (mass < q * mass[..., -1:, :]).sum(-2, keepdim=True).clamp(max=x.shape[-2] - 1)
    return values.gather(-2, at).squeeze(-2)


def select(x: Tensor, index: Tensor) -> Tensor:
    """Return x (B, N, *point) at index (B, n)."""
    if x.ndim == 3 and x.shape[-1] > 1:  # by coordinate in memory, see `columns`
        at = index.expand(x.shape[-1], *index.shape)
        return x.permute(2, 0, 1).gather(2, at).permute(1, 2, 0)
    at = index.reshape(*index.shape, *[1] * (x.ndim - 2))
    if x.numel() == x.shape[0] * x.shape[1]:
        return x.gather(1, at)
    return x.gather(1, at.expand(*index.shape, *x.shape[2:]))
