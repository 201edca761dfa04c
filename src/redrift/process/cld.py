r"""Critically-damped Langevin diffusion: noise enters through a velocity.

Per coordinate, u = (x, v) with $\beta(t) = \beta_0 + \beta_1 t$, mass M and friction $\Gamma = 2\sqrt M$:

$$F = \beta \begin{pmatrix} 0 & M^{-1} \\ -1 & -\Gamma M^{-1} \end{pmatrix}, \qquad
  G G^\top = \begin{pmatrix} 0 & 0 \\ 0 & 2 \Gamma \beta \end{pmatrix}.$$

With $B = \int_0^t \beta$, $a = 2/\sqrt M$ and $\tau = a B$ everything is in closed form. The clean
velocity is not a number but N(0, gamma M): its spread belongs to the covariance (hybrid score
matching), and so does a small numerical variance in both blocks. A difference of two stationary
covariances loses all digits for small times; $\varphi_3$ keeps them. gDDIM's root is the Cholesky
factor turned by $\theta(t) = \int_0^t \beta M^{-1} L_{22}/L_{11}$, one scalar quadrature.

Papers: CLD, arXiv:2112.07068; gDDIM, arXiv:2206.05564.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redrift._core.quadrature import gauss_legendre, phi
from redrift.process.base import Process

_PANELS, _NODES, _FIRST = 240, 16, 1e-12  # of the angle: panels even in log t


def _matrix(xx: Tensor, xv: Tensor, vx: Tensor, vv: Tensor) -> Tensor:
    return torch.stack((torch.stack((xx, xv), -1), torch.stack((vx, vv), -1)), -2)


@dataclass(frozen=True)
class CLD(Process):
    r"""Critically-damped Langevin diffusion on (position, velocity); k = 2.

    Networks see the position's channels first, then the velocity's.

    Args:
        beta: rate at t = 0, > 0.
        beta_slope: rise of the rate over the unit of time, >= 0.
        friction: Gamma; None is critical, 2 sqrt(mass). Any other value is refused.
        mass: M, > 0: the prior variance of the velocity.
        gamma: share of M that is the clean velocity's variance, > 0.
        floor: variance added to both blocks at t = 0, which keeps the covariance invertible. The
            angle of R turns by about a quarter where the velocity's noise first reaches the
            position (near t = 6e-4 by default), so a network must be used with the floor it was
            trained with.

    Raises:
        ValueError: if a constant is out of range or the damping not critical.

    Example:
        >>> CLD().channels(3)
        6
    """

    beta: float = 4.0
    beta_slope: float = 0.0
    friction: float | None = None
    mass: float = 0.25
    gamma: float = 0.04
    floor: float = 1e-6

    k = 2
    spacing = "cubic"

    def __post_init__(self) -> None:
        values = (self.beta, self.mass, self.gamma, self.floor)
        if (
            not all(0 < value < math.inf for value in values)
            or not 0 <= self.beta_slope < math.inf
        ):
            raise ValueError(
                f"CLD needs beta, mass, gamma, floor > 0 and beta_slope >= 0, got {self}."
            )
        critical = 2 * math.sqrt(self.mass)
        if self.friction is not None and abs(self.friction - critical) > 1e-9 * critical:
            raise ValueError(
                f"friction={self.friction} is not critical for mass={self.mass}: the closed form "
                f"needs 2 sqrt(mass) = {critical:g}; leave it out."
            )

    def _rate(self, t: Tensor) -> Tensor:
        return self.beta + self.beta_slope * t

    def _elapsed(self, t: Tensor) -> Tensor:
        return self.beta * t + self.beta_slope / 2 * t**2

    def signal(self, t: Tensor) -> Tensor:
        """Return exp(-tau/2) [[1 + tau/2, a^2 B/4], [-B, 1 - tau/2]]."""
        B = self._elapsed(t)
        half = B / math.sqrt(self.mass)
        decay = torch.exp(-half)
        return _matrix(decay * (1 + half), decay * B / self.mass, -decay * B, decay * (1 - half))

    def psi(self, s: Tensor, t: Tensor) -> Tensor:
        """Return the mean map from time t to time s: it depends on B(s) - B(t) alone."""
        B = self._elapsed(s) - self._elapsed(t)
        half = B / math.sqrt(self.mass)
        decay = torch.exp(-half)
        return _matrix(decay * (1 + half), decay * B / self.mass, -decay * B, decay * (1 - half))

    def cov(self, t: Tensor) -> Tensor:
        """Return Psi Sigma_0 Psi^T + Q, Q without cancellation for small times."""
        tau = 2 * self._elapsed(t) / math.sqrt(self.mass)
        decay = torch.exp(-tau)
        xx = decay * tau**3 * phi(3, tau)
        xv = decay * tau**2 * math.sqrt(self.mass) / 2
        vv = self.mass * decay * (torch.expm1(tau) + tau - tau**2 / 2)
        start = torch.tensor([self.floor, self.gamma * self.mass + self.floor], dtype=t.dtype)
        signal = self.signal(t)
        return (signal * start) @ signal.mT + _matrix(xx, xv, xv, vv)

    def drift(self, t: Tensor) -> Tensor:
        """Return F(t)."""
        base = torch.tensor(
            [[0.0, 1 / self.mass], [-1.0, -2 / math.sqrt(self.mass)]], dtype=t.dtype
        )
        return self._rate(t)[..., None, None] * base

    def diffusion(self, t: Tensor) -> Tensor:
        """Return G(t), with G G^T = diag(0, 2 Gamma beta)."""
        scale = torch.sqrt(4 * math.sqrt(self.mass) * self._rate(t))
        return scale[..., None, None] * torch.diag(torch.tensor([0.0, 1.0], dtype=t.dtype))

    def clock(self, t: Tensor) -> Tensor:
        """Return sqrt(t), in which the kernel is smooth down to t = 0."""
        return t.sqrt()

    def unclock(self, w: Tensor) -> Tensor:
        """Return w^2."""
        return w**2

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return 1 / (2 sqrt(t))."""
        return 1 / (2 * t.sqrt())

    def root(self, t: Tensor, kind: Literal["R", "L"] = "R") -> Tensor:
        """Return the Cholesky factor, for "R" turned by the angle."""
        xx, xv, _, vv = self.cov(t).flatten(-2).unbind(-1)
        first = xx.sqrt()
        corner = xv / first
        zero = torch.zeros_like(first)
        lower = _matrix(first, zero, corner, (vv - corner**2).sqrt())
        if kind == "L":
            return lower
        angle = self._angle(t)
        cos, sin = angle.cos(), angle.sin()
        return lower @ _matrix(cos, sin, -sin, cos)

    def _angle_rate(self, t: Tensor) -> Tensor:
        """Return d theta / dt = beta / M * L22 / L11."""
        xx, xv, _, vv = self.cov(t).flatten(-2).unbind(-1)
        return self._rate(t) / self.mass * (xx * vv - xv**2).sqrt() / xx

    def _angle(self, t: Tensor) -> Tensor:
        """Return theta(t): whole panels from the table, the last by the same rule."""
        edges, total = _panels(self)
        i = (torch.searchsorted(edges, t.detach().contiguous(), right=True) - 1).clamp(
            0, _PANELS - 1
        )
        nodes, weights = gauss_legendre(_NODES)
        width = t - edges[i]
        times = edges[i][..., None] + width[..., None] * nodes
        return total[i] + width * (self._angle_rate(times) * weights).sum(-1)


@functools.lru_cache(maxsize=16)
def _panels(process: CLD) -> tuple[Tensor, Tensor]:
    """Return the panels' edges and the angle at each, from 0 on."""
    ends = torch.logspace(math.log10(_FIRST), 0, _PANELS, dtype=torch.float64) * process.horizon
    edges = torch.cat((ends.new_zeros(1), ends))
    nodes, weights = gauss_legendre(_NODES)
    width = edges.diff()
    rates = process._angle_rate(edges[:-1, None] + width[:, None] * nodes)
    total = torch.cumsum(width * (rates * weights).sum(-1), 0)
    return edges, torch.cat((total.new_zeros(1), total))
