r"""Ancestral sampling: the posterior of the reference chain, and the exact exponential SDE.

Papers: DDPM, arXiv:2006.11239; DDIM, arXiv:2010.02502.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.linalg import inverse, product
from redrift._core.quadrature import lagrange
from redrift.process import Process
from redrift.process.base import Wants
from redrift.solvers.coefficients import integrate, one, require_scalar, transfer
from redrift.solvers.ends import End
from redrift.solvers.multistep import single
from redrift.solvers.plan import Plan
from redrift.solvers.registry import register, solver
from redrift.solvers.row import Row


@register
@dataclass(frozen=True)
class Ancestral:
    r"""Rule: the posterior of the reference chain with the prediction in place of x0.

    $z' = S' x_0 + H (z - S x_0) + \xi$ with covariance $P = \eta^2 P_1$, $P_1 = \Sigma' - \Sigma'
    \Psi^\top \Sigma^{-1} \Psi \Sigma'$. For k = 1, $H = \sqrt{\sigma'^2 - P}/\sigma$; for k > 1 H is
    R' R^{-1} at eta = 0 and $\Sigma' \Psi^\top \Sigma^{-1}$ at eta = 1.

    Attributes:
        eta: 0 is DDIM, 1 is DDPM with the posterior variance.
        wants: reading of the predictions.
    """

    eta: float = 1.0
    wants: Wants = "eps"

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row; it is deterministic where the posterior has no variance."""
        start, end = process.level(t), process.level(next_t)
        if self.eta == 0:
            return (single(process, self.wants, start, end),)
        before, after = product(start.root, start.root.mT), product(end.root, end.root.mT)
        back = product(after, process.psi(t, next_t).mT)
        bridge = product(back, inverse(before))
        P = self.eta**2 * (after - product(bridge, back.mT))
        H = bridge if process.k > 1 else (after - P).clamp_min(0).sqrt() / start.root
        N, M = process.reading(start, self.wants)
        undo = inverse(N)
        # clean and noise as functions of (z, e): z = N c + M e
        if self.wants == "eps":
            to_end = product(end.signal, undo)
            A, C = to_end, product(H, M) - product(to_end, M)
        else:
            A, C = H, end.signal - product(H, M)
        scale = P.clamp_min(0).sqrt() if process.k == 1 else torch.linalg.cholesky(P)
        return (Row(start, end, (start,), (one(A), A), ((), (C,)), B=scale, keep=(0,)),)


@solver(fixed=1, needs_signal=True)
def ddpm(
    process: Process, times: Tensor | Sequence[float], *, eta: float = 1.0, end: End = "min"
) -> Plan:
    """Build ancestral sampling: DDPM's posterior step, or DDIM's family between.

    Papers: DDPM, arXiv:2006.11239; DDIM's eta, arXiv:2010.02502.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        eta: share of the posterior standard deviation, 0 to 1; 1 for k > 1 (the family between
            needs `gddim`'s transition there).
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if eta is outside [0, 1], or between for k > 1.

    Cost: 1 evaluation and one draw per step.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}.")
    if process.k > 1 and eta not in (0, 1):
        raise ValueError(f"eta={eta} is undefined for k = {process.k}; use 0 or 1.")
    name = "DDPM" if eta == 1 else f"DDIM eta={eta:g}"
    papers = ("ddpm",) if eta == 1 else ("ddim",)
    return Plan.build(
        process, times, Ancestral(float(eta)), wants="eps", order=1, name=name, papers=papers,
        stochastic=eta > 0, end=end,
    )  # fmt: skip


@register
@dataclass(frozen=True)
class ExponentialSDE:
    r"""Rule: the exact exponential step of the SDE family, on x0 in log-SNR.

    With a = 1 + eta^2 the state over alpha obeys $dx = -a(x - D)\,d\lambda + \eta \rho \sqrt 2\,dw$, so

    $$z' = \tfrac{\sigma'}{\sigma} e^{-\eta^2 h} z + \alpha' \int a\, e^{-a(\lambda' - \lambda)} D\, d\lambda
      + \sigma' \sqrt{1 - e^{-2 \eta^2 h}}\,\xi.$$

    Attributes:
        order: number of points of the polynomial for D, 1 or 2.
        eta: 0 is the deterministic flow, 1 the reverse SDE.
    """

    order: int
    eta: float

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row; the last one is of order 1."""
        start, end = process.level(t), process.level(next_t)
        last, rate = process.clock(next_t), self.eta**2
        h = last - process.clock(t)
        points = [t, *past][: self.order if left else 1]
        nodes = [process.clock(point) for point in points]

        def basis(tau: Tensor) -> list[Tensor]:
            lam = process.clock(tau)
            decay = (1 + rate) * torch.exp(-rate * (last - lam))
            return [decay * value for value in lagrange(nodes, lam)]

        A = transfer(process, "x0", start, end) * torch.exp(-rate * h)
        C = tuple(integrate(process, "x0", start, end, basis))
        scale = end.root * torch.sqrt(-torch.expm1(-2 * rate * h))
        return (Row(start, end, (start,), (one(A), A), ((), C), B=scale, keep=(0,)),)


@solver(order=2)
def exponential_sde(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 2,
    eta: float = 1.0,
    end: End = "min",
) -> Plan:
    """Build the stochastic member of RES: exact linear part and noise, polynomial prediction.

    Paper: RES, arXiv:2308.02157 (the exponential form); the family is gDDIM's lambda for k = 1.

    Args:
        process: the law, with one noise level.
        times: (steps + 1,) strictly decreasing times.
        order: 1 or 2.
        eta: share of the reverse SDE's noise, >= 0; 1 is the SDE itself.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if the process has no single noise level, order or eta is out of range.

    Cost: 1 evaluation and one draw per step.
    """
    require_scalar(process, "exponential_sde")
    whole("order", order, most=2)
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta must be at least 0 and finite, got {eta}.")
    name = f"exponential SDE order {order}, eta={eta:g}"
    return Plan.build(
        process, times, ExponentialSDE(order, float(eta)), wants="x0", order=order, name=name,
        papers=("res", "gddim"), stochastic=True, end=end,
    )  # fmt: skip
