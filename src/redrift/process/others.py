r"""Processes whose signal never decays, and the two that join data and noise differently.

VE and EDM differ only in what they call time; Brownian motion is VE with $\sigma = \sqrt t$. Flow is
the straight interpolation $z_t = (1 - t)\,x_0 + t\,\varepsilon$ of rectified flow. The Ornstein-Uhlenbeck
process forgets its start at a constant rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.process.scalar import ScalarProcess


def _positive(name: str, **values: float) -> None:
    for argument, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} needs {argument} > 0 and finite, got {value}.")


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
        _positive("VE", sigma_min=self.sigma_min, sigma_max=self.sigma_max)
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
        _positive("EDM", sigma_data=self.sigma_data, sigma_max=self.sigma_max)

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
        _positive("Brownian", horizon=self.horizon)

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


@dataclass(frozen=True)
class Flow(ScalarProcess):
    r"""Rectified flow, $z_t = (1 - t)\,x_0 + t\,\varepsilon$; networks predict $\varepsilon - x_0$.

    At t = 1 the state is pure noise: a plan that wants eps cannot start there. The default grid
    starts at 0.999.
    """

    @property
    def interval(self) -> tuple[float, float]:
        """Return .999 and .001."""
        return (0.999, 1e-3)

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Return t."""
        return t

    def clock(self, t: Tensor) -> Tensor:
        """Return log((1 - t) / t)."""
        return torch.log1p(-t) - torch.log(t)

    def unclock(self, w: Tensor) -> Tensor:
        """Return the logistic function of -w."""
        return torch.sigmoid(-w)

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """Return -1 / (1 - t)."""
        return -1 / (1 - t)

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return -1 / (t (1 - t))."""
        return -1 / (t * (1 - t))


@dataclass(frozen=True)
class OrnsteinUhlenbeck(ScalarProcess):
    r"""The process $dz = -\theta z\,dt + s\sqrt{2\theta}\,dw$ with stationary law $N(0, s^2)$.

    Args:
        theta: rate of forgetting, > 0.
        scale: stationary standard deviation s, > 0.
        horizon: largest time, > 0.
    """

    theta: float = 1.0
    scale: float = 1.0
    horizon: float = 5.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        _positive("OrnsteinUhlenbeck", theta=self.theta, scale=self.scale, horizon=self.horizon)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the horizon and a ten-thousandth of it."""
        return (self.horizon, 1e-4 * self.horizon)

    def alpha(self, t: Tensor) -> Tensor:
        """Return exp(-theta t)."""
        return torch.exp(-self.theta * t)

    def sigma(self, t: Tensor) -> Tensor:
        """Return scale sqrt(1 - exp(-2 theta t))."""
        return self.scale * torch.sqrt(-torch.expm1(-2 * self.theta * t))

    def clock(self, t: Tensor) -> Tensor:
        """Return log(alpha / sigma)."""
        b = 2 * self.theta * t
        return -(b + torch.log(-torch.expm1(-b))) / 2 - math.log(self.scale)

    def unclock(self, w: Tensor) -> Tensor:
        """Invert `clock`."""
        b = torch.nn.functional.softplus(-2 * (w + math.log(self.scale)), threshold=60)
        return b / (2 * self.theta)

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """Return -theta."""
        return torch.full_like(t, -self.theta)

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return -theta / (1 - exp(-2 theta t))."""
        return self.theta / torch.expm1(-2 * self.theta * t)
