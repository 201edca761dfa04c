r"""Processes whose signal never decays: VE and EDM, and Brownian motion.

VE and EDM differ only in what they call time; Brownian motion is VE with $\sigma = \sqrt t$.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.process.scalar import ScalarProcess, positive


class _Unscaled(ScalarProcess):
    """A process with alpha = 1."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(t)

    def clock(self, t: Tensor) -> Tensor:
        """Return -log(sigma)."""
        return -torch.log(self.sigma(t))

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like(t)


@dataclass(frozen=True)
class VE(_Unscaled):
    r"""Variance-exploding diffusion, $\sigma = \sigma_{min} (\sigma_{max}/\sigma_{min})^t$.

    Args:
        sigma_min: noise at t = 0, > 0.
        sigma_max: noise at t = 1, > sigma_min.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        positive("VE", sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"VE needs sigma_max > sigma_min, got {self.sigma_max}.")

    @property
    def clean(self) -> float:
        """Return -1: at t = 0 the noise is sigma_min."""
        return -1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the whole range."""
        return (1.0, 0.0)

    def _log_range(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level."""
        return self.sigma_min * torch.exp(t * self._log_range())

    def clock(self, t: Tensor) -> Tensor:
        """Return -log(sigma), linear in t."""
        return -math.log(self.sigma_min) - t * self._log_range()

    def unclock(self, w: Tensor) -> Tensor:
        """Invert `clock`."""
        return (-math.log(self.sigma_min) - w) / self._log_range()

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return the constant rate."""
        return torch.full_like(t, -self._log_range())


@dataclass(frozen=True)
class EDM(_Unscaled):
    r"""The process of EDM: time *is* the noise level, $z_t = x_0 + t\,\varepsilon$.

    Preconditioning belongs to the network: see `redrift.denoise.Preconditioned`.

    Args:
        sigma_data: standard deviation of the data, the scale of the angle of "v", > 0.
        sigma_max: horizon, > 0.

    Paper: EDM, arXiv:2206.00364.
    """

    sigma_data: float = 0.5
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        positive("EDM", sigma_data=self.sigma_data, sigma_max=self.sigma_max)

    @property
    def horizon(self) -> float:
        """Return sigma_max."""
        return self.sigma_max

    @property
    def interval(self) -> tuple[float, float]:
        """Return sigma_max and .002."""
        return (self.sigma_max, 0.002)

    def sigma(self, t: Tensor) -> Tensor:
        """Return t."""
        return t

    def unclock(self, w: Tensor) -> Tensor:
        """Return exp(-w)."""
        return torch.exp(-w)

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return -1 / t."""
        return -1 / t


@dataclass(frozen=True)
class Brownian(_Unscaled):
    r"""Brownian motion, $z_t = x_0 + \sqrt t\,\varepsilon$.

    Args:
        horizon: largest time, > 0.
    """

    horizon: float = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        positive("Brownian", horizon=self.horizon)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the horizon and a millionth of it."""
        return (self.horizon, 1e-6 * self.horizon)

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(t)."""
        return t.sqrt()

    def clock(self, t: Tensor) -> Tensor:
        """Return -log(t) / 2."""
        return -torch.log(t) / 2

    def unclock(self, w: Tensor) -> Tensor:
        """Return exp(-2w)."""
        return torch.exp(-2 * w)

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return -1 / (2t)."""
        return -1 / (2 * t)
