r"""Processes with one signal and one noise level: $z_t = \alpha(t)\,x_0 + \sigma(t)\,\varepsilon$.

Their clock is the half log-SNR $\lambda = \log(\alpha/\sigma)$. In $\lambda$ every reading has a weight in
closed form, so no drift or diffusion is needed to step:

    eps  -alpha' rho dlambda      x0  sigma' / rho dlambda      v  s' dphi,   rho = sigma / alpha.

A subclass gives `alpha`, `sigma`, `clock` and `unclock` as smooth functions (they are
differentiated by autograd for F and G, and by calibration for the time grid).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from redrift.process.base import Level, Process, Wants


def table(value: Tensor) -> Tensor:
    """Shape a scalar function of time as a 1-by-1 table."""
    return value[..., None, None]


def positive(name: str, **values: float) -> None:
    """Refuse constants of a process that are not positive and finite."""
    for argument, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} needs {argument} > 0 and finite, got {value}.")


class ScalarProcess(Process):
    """A process with k = 1 and no modes; subclasses are frozen dataclasses of their constants."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal level, 0 to 1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level (standard deviation), > 0 for t > 0."""

    @abstractmethod
    def clock(self, t: Tensor) -> Tensor:
        """Return log(alpha / sigma), decreasing in t."""

    @abstractmethod
    def unclock(self, w: Tensor) -> Tensor:
        """Return the time of a half log-SNR."""

    @abstractmethod
    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """Return d log(alpha) / dt."""

    @abstractmethod
    def clock_rate(self, t: Tensor) -> Tensor:
        """Return d log(alpha / sigma) / dt, negative."""

    def signal(self, t: Tensor) -> Tensor:
        """Return alpha(t) as a table."""
        return table(self.alpha(t))

    def cov(self, t: Tensor) -> Tensor:
        """Return sigma(t)^2 as a table."""
        return table(self.sigma(t) ** 2)

    def root(self, t: Tensor, kind: Literal["R", "L"] = "R") -> Tensor:
        """Return sigma(t) as a table, whatever the kind."""
        return table(self.sigma(t))

    def drift(self, t: Tensor) -> Tensor:
        """Return d log(alpha) / dt as a table."""
        return table(self.log_alpha_rate(t))

    def diffusion(self, t: Tensor) -> Tensor:
        """Return G with G^2 = -2 sigma^2 dlambda/dt as a table."""
        return table(self.sigma(t) * (-2 * self.clock_rate(t)).sqrt())

    def increment(self, wants: Wants, end: Level, t: Tensor) -> Tensor:
        """Return the weight of a prediction at t per unit of log-SNR, in closed form."""
        ratio = torch.exp(-self.clock(t))
        if wants == "eps":
            return -end.signal * table(ratio)
        if wants == "x0":
            return end.root / table(ratio)
        angle = ratio * self.sigma_data / (ratio**2 + self.sigma_data**2)
        return -self.reading(end, "v")[0] * table(angle)

    def log_ratio(self, t: Tensor) -> Tensor:
        """Return log(sigma / alpha), the log of the noise level that all processes share."""
        return -self.clock(t)
