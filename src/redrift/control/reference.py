r"""The reference chain of a control problem: exact Gaussian transitions from its start to the target.

$x_{k+1} = a_k x_k + \sqrt{q_k}\,\xi$, k = 0, ..., N - 1, x_0 a point (Brownian motion: the path integral
sampler) or a draw of the stationary law (Ornstein-Uhlenbeck: DDS; VP: DIS). Transitions are exact, so
the end law N(0, V) is exact for every grid, and weights are unbiased for every number of steps.

From step k the end is $x_N = \psi_k x_k + N(0, c_k)$. The optimal kernel has the reference's map and noise
of mean $\sqrt{q_k}\,\psi_{k+1}\,b_k(x_k)$ with

    b_k(x) = E*[(y - psi_k x) / c_k | x_k = x] = E*[grad log (mu / mu_0)(y) | x_k = x],

y the end under the optimal measure; the two are equal by Stein's identity, exactly in discrete time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift.process import VP, Brownian, OrnsteinUhlenbeck, Process


@dataclass(frozen=True, eq=False)
class Reference:
    """Hold a reference chain's tables, float64.

    Attributes:
        a: (N,) factors of the steps.
        q: (N,) variances of the steps.
        psi: (N + 1,) factors from state k to the end; psi[N] = 1.
        c: (N + 1,) variances from state k to the end; c[N] = 0.
        start: standard deviation of x_0; 0 is a point.
        end: variance V of x_N.
    """

    a: Tensor
    q: Tensor
    psi: Tensor
    c: Tensor
    start: float
    end: float

    @property
    def steps(self) -> int:
        """Return N."""
        return len(self.a)

    @property
    def gain(self) -> Tensor:
        """Return sqrt(q_k) psi_{k+1}, (N,): the noise's mean per unit of b."""
        return self.q.sqrt() * self.psi[1:]

    @property
    def marginal(self) -> Tensor:
        """Return the variances of the states (N + 1,)."""
        if self.start == 0:
            return torch.cat([self.q.new_zeros(1), self.q.cumsum(0)])
        return torch.full_like(self.psi, self.end)

    def bridge(self) -> tuple[Tensor, Tensor]:
        """Return (m, s), (N + 1,) each: given the end y, x_k = m_k y + s_k N(0, 1)."""
        variance = self.marginal
        mean = variance * self.psi / self.end
        return mean, (variance - mean**2 * self.end).clamp(min=0).sqrt()


def reference_chain(process: Process, steps: int, power: float = 2.0) -> Reference:
    r"""Return the chain of a process on a grid whose increments shrink towards the target.

    Args:
        process: Brownian (from the origin, V = its horizon), OrnsteinUhlenbeck or VP (from the
            stationary law).
        steps: N >= 1.
        power: p >= 0: increments of the clock (variance, or the stationary processes' own time) go
            like (1 - k / N)^p; 0 is the uniform grid of the papers.

    Raises:
        ValueError: if the process has no such transition, or the grid is degenerate.
    """
    steps = whole("steps", steps)
    if not 0 <= power <= 4:
        raise ValueError(f"power must be in [0, 4], got {power}: larger ones underflow.")
    share = (1 - torch.arange(steps, dtype=torch.float64) / steps) ** power
    share = share / share.sum()
    if isinstance(process, Brownian):
        q = share * process.horizon
        c = torch.cat([q.flip(0).cumsum(0).flip(0), q.new_zeros(1)])
        one = torch.ones_like(c)
        return Reference(one[1:], q, one, c, 0.0, float(q.sum()))
    if isinstance(process, OrnsteinUhlenbeck):
        rate, variance = process.theta * process.horizon * share, process.scale**2
    elif isinstance(process, VP):
        left = torch.cat([share.flip(0).cumsum(0).flip(0), share.new_zeros(1)]) * process.horizon
        rate, variance = process.alpha(left).log().diff(), 1.0
    else:
        raise ValueError(
            f"reference={type(process).__name__} has no exact transition to a Gaussian end: use "
            "Brownian, OrnsteinUhlenbeck or VP."
        )
    past = torch.cat([rate.flip(0).cumsum(0).flip(0), rate.new_zeros(1)])
    return Reference(
        torch.exp(-rate),
        -variance * torch.expm1(-2 * rate),
        torch.exp(-past),
        -variance * torch.expm1(-2 * past),
        variance**0.5,
        variance,
    )
