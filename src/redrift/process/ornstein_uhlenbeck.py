"""The process that forgets its start at a constant rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.process.scalar import ScalarProcess, positive


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
        positive("OrnsteinUhlenbeck", theta=self.theta, scale=self.scale, horizon=self.horizon)

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
