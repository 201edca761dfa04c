r"""Multistep plans: the prediction is a polynomial through the last few asked.

`deis` fits the noise in t, rho or log rho (tAB, rhoAB and log-rho AB); order 1 is `ddim`. Fitted to
x0 in log-SNR it is multistep RES, which `redrift.solvers.exprk.res` builds. DPM-Solver++ replaces the
exact weights of the slope by half the weight of the value.

A multistep method needs a history. A first step of order 1 leaves an error of order h^2 behind,
which caps the whole run at order 2 however long the history grows. The starter asks the network at
one (order 3) or two (order 4) interior levels of the first step, so that the run keeps its order,
for order - 2 evaluations more.

Papers: DEIS, arXiv:2204.13902; DDIM, arXiv:2010.02502; DPM-Solver++, arXiv:2211.01095.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.linalg import inverse, product
from redrift.process import Level, Process
from redrift.process.base import Wants
from redrift.solvers.coefficients import (
    VARIABLES,
    adams,
    constant,
    finite,
    fraction,
    moments,
    transfer,
)
from redrift.solvers.plan import Plan, Row

MOST = 4
_STARTS: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {
    # order: interior fractions of the first step, and which predictions the history keeps
    3: ((1 / 2,), (0,)),
    4: ((1 / 3, 2 / 3), (2, 0)),
}


def extra(order: int) -> int:
    """Return the evaluations that the starter adds to a run."""
    return len(_STARTS.get(order, ((), ()))[0])


def single(process: Process, wants: Wants, start: Level, end: Level) -> Row:
    """Return the one-evaluation row of order 1 (DDIM in any reading)."""
    A, C = constant(process, wants, start, end)
    return Row(start, end, (start,), (_one(A), A), ((), (C,)), keep=(0,))


def _one(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype).expand_as(like)


@dataclass(frozen=True)
class Adams:
    """Rule: exponential Adams-Bashforth in any reading and polynomial variable.

    Attributes:
        wants: reading of the predictions.
        variable: polynomial variable, see `coefficients.variable`.
        order: number of points.
        starter: whether the first step is made accurate enough to keep the order.
        lower_final: whether the last step drops to order 1, which pays for the reading x0 on grids
            whose last step is long in log-SNR.
    """

    wants: Wants
    variable: str
    order: int
    starter: bool = True
    lower_final: bool = False

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        if not (finite(process, t) and finite(process, next_t)):
            return (single(process, self.wants, start, end),)
        order = 1 if self.lower_final and left == 0 else self.order
        ready = bool(past) and torch.equal(past[0].detach(), t.detach())
        usable = [point for point in past if finite(process, point)]
        points = (usable if ready else [t, *usable])[:order]
        if self.starter and len(points) < order - 1:
            return (self._first(process, start, end),)
        A = transfer(process, self.wants, start, end)
        C = tuple(adams(process, self.wants, start, end, points, self.variable))
        if ready:
            return (Row(start, end, (), (A,), (C,), fresh=False),)
        return (Row(start, end, (start,), (_one(A), A), ((), C), keep=(0,)),)

    def _first(self, process: Process, start: Level, end: Level) -> Row:
        """Return a first step whose local error is h^order: interior stages, newest node last."""
        fractions, keep = _STARTS[self.order]
        asks = [start] + [fraction(process, start, end, c) for c in fractions]
        A: list[Tensor] = [_one(start.signal)]
        C: list[tuple[Tensor | None, ...]] = [()]
        for s, target in enumerate([*asks[1:], end], start=1):
            # a stage looks back to the start and to the stage before it
            points = [asks[j].t for j in sorted({0, s - 1}, reverse=True)]
            weights = adams(process, self.wants, start, target, points, self.variable)
            A.append(transfer(process, self.wants, start, target))
            row: list[Tensor | None] = [None] * s
            for j, weight in zip(sorted({0, s - 1}, reverse=True), weights, strict=True):
                row[j] = weight
            C.append(tuple(row))
        return Row(start, end, tuple(asks), tuple(A), tuple(C), keep=keep)


@dataclass(frozen=True)
class DPMpp:
    """Rule: multistep DPM-Solver++ with the slopes of its paper and no starter.

    Attributes:
        order: 1 to 3.
        lower_final: whether the last step drops to order 1.
    """

    order: int
    lower_final: bool = False

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        usable = [point for point in past if finite(process, point)]
        order = min(self.order, len(usable) + 1)
        if not (finite(process, t) and finite(process, next_t)):
            order = 1
        if self.lower_final and left == 0:
            order = 1
        if order == 1:
            return (single(process, "x0", start, end),)
        A = transfer(process, "x0", start, end)
        clock = process.clock
        h = clock(next_t) - clock(t)
        r0 = (clock(t) - clock(usable[0])) / h
        if order == 2:
            m0 = constant(process, "x0", start, end)[1]
            C = (m0 * (1 + 0.5 / r0), -m0 * (0.5 / r0))
        else:
            r1 = (clock(usable[0]) - clock(usable[1])) / h
            m0, m1, m2 = moments(process, "x0", start, end, end, 3)
            # value, slope and curvature as combinations of the three predictions
            near, far = 1 / r0, 1 / r1
            slope = [
                near + near * r0 / (r0 + r1),
                -near - (near + far) * r0 / (r0 + r1),
                far * r0 / (r0 + r1),
            ]
            bend = [near / (r0 + r1), -(near + far) / (r0 + r1), far / (r0 + r1)]
            C = tuple(m0 * (j == 0) + m1 * slope[j] + m2 / 2 * bend[j] for j in range(3))
        return (Row(start, end, (start,), (_one(A), A), ((), C), keep=(0,)),)


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
        return (Row(start, end, (start,), (_one(A), A), ((), (C,)), B=scale, keep=(0,)),)


def ddim(process: Process, times: Tensor | Sequence[float]) -> Plan:
    """Build DDIM: one evaluation per step, exact when the predicted noise is constant.

    Papers: DDIM, arXiv:2010.02502; for k > 1 gDDIM of order 1, arXiv:2206.05564.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.

    Raises:
        ValueError: if the times are not strictly decreasing within the horizon.
    """
    rule = Adams("eps", "t", 1)
    papers = ("ddim",) if process.k == 1 and not process.modes else ("gddim",)
    return Plan.build(process, times, rule, wants="eps", order=1, name="DDIM", papers=papers)


def deis(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 3,
    variable: str = "t",
    starter: bool = True,
) -> Plan:
    r"""Build DEIS: exponential Adams-Bashforth on the predicted noise.

    $C_j = \Psi(t', 0) \int \ell_j \, d[\Psi(0, \tau) R_\tau]$, with $\ell_j$ the Lagrange polynomials through
    the last `order` predictions. One builder serves scalar and matrix processes.

    Papers: DEIS, arXiv:2204.13902; for k > 1, gDDIM, arXiv:2206.05564.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        order: number of points, 1 to 4 (the paper's q + 1: order 4 is its tAB3); 1 is DDIM.
        variable: what the polynomial is in: "t", "rho" or "logrho".
        starter: ask order - 2 more times within the first step, so that the run keeps its order;
            without it the run is of order 2 at most, which below 15 evaluations may cost less.

    Raises:
        ValueError: if the order is not 1 to 4 or above the number of steps, or the variable unknown.

    Cost: 1 evaluation per step (+ order - 2 with the starter), order - 1 stored predictions.

    Example:
        >>> from redrift.process import VP, timegrid
        >>> print(deis(VP(), timegrid(VP(), 10), order=3))
        DEIS order 3 | 10 steps, 11 evaluations | VP, k=1 | deterministic
    """
    whole("order", order, most=MOST)
    choose("variable", variable, VARIABLES)
    rule = Adams("eps", variable, order, starter)
    papers = ("deis",) if process.k == 1 and not process.modes else ("deis", "gddim")
    in_variable = "" if variable == "t" else f" in {variable}"
    name = f"DEIS order {order}{in_variable}"
    return Plan.build(process, times, rule, wants="eps", order=order, name=name, papers=papers)


def ddpm(process: Process, times: Tensor | Sequence[float], *, eta: float = 1.0) -> Plan:
    """Build ancestral sampling: DDPM's posterior step, or DDIM's family between.

    Papers: DDPM, arXiv:2006.11239; DDIM's eta, arXiv:2010.02502.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        eta: share of the posterior standard deviation, 0 to 1; 1 for k > 1 (the family between
            needs `gddim`'s transition there).

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
        stochastic=eta > 0,
    )  # fmt: skip
