r"""The straight interpolation between data and noise, $z_t = (1 - t)\,x_0 + t\,\varepsilon$."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.process.scalar import ScalarProcess


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
