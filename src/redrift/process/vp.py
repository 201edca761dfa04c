r"""Variance-preserving diffusion, sub-VP, and processes read off a discrete table.

VP: $\alpha = e^{-B/2}$, $\sigma = \sqrt{1 - e^{-B}}$, so $\rho = \sigma/\alpha = \sqrt{e^B - 1}$ and
$\lambda = -\tfrac12 \log(e^B - 1)$, all through expm1 and log1p: near t = 0 the plain forms lose half
their digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift.process.scalar import ScalarProcess

_OFFSET = 0.008  # of the cosine schedule


def softplus_inverse_half(b: Tensor) -> Tensor:
    """Return -log(e^b - 1) / 2, the half log-SNR of VP, stable for small and large b."""
    return -(b + torch.log(-torch.expm1(-b))) / 2


@dataclass(frozen=True)
class VP(ScalarProcess):
    r"""Variance-preserving diffusion with a linear or a cosine schedule.

    linear: $B(t) = \beta_{min} t + \tfrac12 (\beta_{max} - \beta_{min}) t^2$. cosine:
    $e^{-B} = \cos^2(\tfrac{\pi}{2} \tfrac{t + 0.008}{1.008})$, whose signal at t = 0 is slightly below 1
    and at t = 1 is zero: a grid then starts below 1 or uses a plan that wants x0 or v.

    Args:
        beta_min: rate at t = 0, > 0.
        beta_max: rate at t = 1, >= beta_min.
        schedule: "linear" or "cosine" (the betas are ignored by the cosine).

    Example:
        >>> process = VP()
        >>> round(float(process.alpha(torch.tensor(1.0, dtype=torch.float64))), 5)
        0.00657
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    schedule: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        choose("schedule", self.schedule, ("linear", "cosine"))
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(
                f"VP needs 0 < beta_min <= beta_max, got beta_min={self.beta_min}, "
                f"beta_max={self.beta_max}."
            )

    @property
    def clean(self) -> float:
        """Return 0, or the offset below it at which the cosine's noise vanishes."""
        return 0.0 if self.schedule == "linear" else -_OFFSET

    @property
    def interval(self) -> tuple[float, float]:
        """Return the default grid ends."""
        return (1.0, 1e-3) if self.schedule == "linear" else (0.995, 1e-3)

    def _integral(self, t: Tensor) -> Tensor:
        if self.schedule == "cosine":
            return -2 * torch.log(torch.cos(self._phase(t)))
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def _rate(self, t: Tensor) -> Tensor:
        if self.schedule == "cosine":
            return math.pi / (1 + _OFFSET) * torch.tan(self._phase(t))
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _phase(self, t: Tensor) -> Tensor:
        return (t + _OFFSET) / (1 + _OFFSET) * (math.pi / 2)

    def alpha(self, t: Tensor) -> Tensor:
        """Return exp(-B/2)."""
        if self.schedule == "cosine":
            return torch.cos(self._phase(t)).clamp_min(0)
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(1 - exp(-B))."""
        if self.schedule == "cosine":
            return torch.sin(self._phase(t))
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def clock(self, t: Tensor) -> Tensor:
        """Return log(alpha / sigma)."""
        if self.schedule == "cosine":
            return torch.log(self.alpha(t) / self.sigma(t))
        return softplus_inverse_half(self._integral(t))

    def unclock(self, w: Tensor) -> Tensor:
        """Invert `clock` by the root that does not cancel for small times."""
        if self.schedule == "cosine":
            return torch.atan(torch.exp(-w)) * (2 / math.pi) * (1 + _OFFSET) - _OFFSET
        b = torch.nn.functional.softplus(-2 * w, threshold=60)
        slope = self.beta_max - self.beta_min
        return 2 * b / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * b))

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """Return -beta(t) / 2."""
        return -self._rate(t) / 2

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return -beta(t) / (2 sigma^2)."""
        return -self._rate(t) / (2 * self.sigma(t) ** 2)


@dataclass(frozen=True)
class SubVP(ScalarProcess):
    r"""Sub-variance-preserving diffusion: $\alpha = e^{-B/2}$, $\sigma = 1 - e^{-B}$, B linear as in VP.

    Args:
        beta_min: rate at t = 0, > 0.
        beta_max: rate at t = 1, >= beta_min.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        VP(self.beta_min, self.beta_max)

    def _vp(self) -> VP:
        return VP(self.beta_min, self.beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        """Return exp(-B/2)."""
        return self._vp().alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Return 1 - exp(-B)."""
        return self._vp().sigma(t) ** 2

    def clock(self, t: Tensor) -> Tensor:
        """Return log(alpha / sigma)."""
        return torch.log(self.alpha(t)) - torch.log(self.sigma(t))

    def unclock(self, w: Tensor) -> Tensor:
        """Invert `clock`: with y = exp(-B/2), y / (1 - y^2) = e^w is a quadratic in y."""
        # y = (-1 + sqrt(1 + 4 e^{2w})) / (2 e^w) = tanh(asinh(2 e^w) / 2); B = -2 log y
        half = torch.asinh(2 * torch.exp(w)) / 2
        b = -2 * (torch.log1p(-2 / (torch.exp(2 * half) + 1)))
        vp = self._vp()
        return vp.unclock(softplus_inverse_half(b))

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """Return -beta(t) / 2."""
        return self._vp().log_alpha_rate(t)

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return -beta/2 - beta e^-B / (1 - e^-B)."""
        vp = self._vp()
        beta = -2 * vp.log_alpha_rate(t)
        return -beta / 2 - beta * (1 - vp.sigma(t) ** 2) / vp.sigma(t) ** 2
