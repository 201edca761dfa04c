r"""Multistep plans: the prediction is a polynomial through the last few asked.

`deis` fits the noise in t, rho or log rho (tAB, rhoAB and log-rho AB); order 1 is `ddim`. Fitted to
x0 in log-SNR it is multistep RES, which `redrift.solvers.exprk.res` builds; fitted to v in the angle it
acts on the network's own output.

A multistep method needs a history. A first step of order 1 leaves an error of order h^2 behind,
which caps the whole run at order 2 however long the history grows. The starter asks the network at
one (order 3) or two (order 4) interior levels of the first step, so that the run keeps its order,
for order - 2 evaluations more.

Papers: DEIS, arXiv:2204.13902; DDIM, arXiv:2010.02502; UniPC, arXiv:2302.04867 (the corrector).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.process import Level, Process
from redrift.process.base import Wants
from redrift.solvers.coefficients import (
    VARIABLES,
    adams,
    constant,
    finite,
    fraction,
    one,
    transfer,
)
from redrift.solvers.plan import Coefficients, End, Plan, Row

MOST = 4
STARTS: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {
    # order: interior fractions of the first step, and which predictions the history keeps
    3: ((1 / 2,), (0,)),
    4: ((1 / 3, 2 / 3), (2, 0)),
}


def extra(order: int, corrector: bool = False) -> int:
    """Return the evaluations that the starter adds to a run."""
    return len(STARTS[order + corrector][0]) if order > 2 else 0


def known(past: Sequence[Tensor], t: Tensor) -> bool:
    """Say whether the newest prediction of the history was asked at t."""
    return bool(past) and torch.equal(past[0].detach(), t.detach())


def single(
    process: Process, wants: Wants, start: Level, end: Level, past: Sequence[Tensor] = ()
) -> Row:
    """Return the row of order 1 (DDIM in the readings eps and x0)."""
    A, C = constant(process, wants, start, end)
    if known(past, start.t):
        return Row(start, end, (), (A,), ((C,),), fresh=False)
    return Row(start, end, (start,), (one(A), A), ((), (C,)), keep=(0,))


@dataclass(frozen=True)
class Adams:
    """Rule: exponential Adams-Bashforth in any reading and polynomial variable.

    With the corrector every step predicts its end, asks there, and takes the step again with the
    new point added; the prediction is kept for the next step, so nothing is asked twice.

    Attributes:
        wants: reading of the predictions.
        variable: polynomial variable, see `coefficients.variable`.
        order: number of points of the predictor.
        starter: whether the first step is made accurate enough to keep the order.
        lower_final: whether the last step drops to order 1, which pays for the reading x0 on grids
            whose last step is long in log-SNR.
        corrector: whether steps are corrected (UniC), which lifts the order by one.
    """

    wants: Wants
    variable: str
    order: int
    starter: bool = True
    lower_final: bool = False
    corrector: bool = False

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        if not (finite(process, t) and finite(process, next_t)):
            return (single(process, self.wants, start, end, past),)
        order = 1 if self.lower_final and left == 0 else self.order
        ready = known(past, t)
        usable = [point for point in past if finite(process, point)]
        points = usable if ready else [t, *usable]
        if self.starter and len(points) < self.order - 1 and not past:
            return (self._first(process, start, end),)
        A, C = self._step(process, start, end, points[:order])
        asks = () if ready else (start,)
        stages = () if ready else (one(A),)
        if not self.corrector or left == 0:
            before = () if ready else ((),)
            return (Row(start, end, asks, (*stages, A), (*before, C), keep=(0,) if asks else (),
                        fresh=not ready),)  # fmt: skip
        _, corrected = self._step(process, start, end, [next_t, *points[: self.order]])
        if ready:  # own: [new], then the history
            final = corrected
            row = Row(start, end, (end,), (A, A), (C, final), keep=(0,), fresh=False)
        else:  # own: [at t, new], then the history
            final = (corrected[1], corrected[0], *corrected[2:])
            row = Row(start, end, (start, end), (one(A), A, A), ((), C, final), keep=(1, 0))
        return (row,)

    def _step(
        self, process: Process, start: Level, end: Level, points: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        A = transfer(process, self.wants, start, end)
        return A, tuple(adams(process, self.wants, start, end, points, self.variable))

    def _first(self, process: Process, start: Level, end: Level) -> Row:
        """Return a first step whose local error is h^order: interior stages, newest node last."""
        fractions, keep = STARTS[self.order + self.corrector]
        asks = [start] + [fraction(process, start, end, c) for c in fractions]
        A: list[Tensor] = [one(start.signal)]
        C: list[Coefficients] = [()]
        for s, target in enumerate([*asks[1:], end], start=1):
            # a stage looks back to the start and to the stage before it
            looks = sorted({0, s - 1}, reverse=True)
            a, weights = self._step(process, start, target, [asks[j].t for j in looks])
            row: list[Tensor | None] = [None] * s
            for j, weight in zip(looks, weights, strict=True):
                row[j] = weight
            A.append(a)
            C.append(tuple(row))
        return Row(start, end, tuple(asks), tuple(A), tuple(C), keep=keep)


def ddim(process: Process, times: Tensor | Sequence[float], *, end: End = "min") -> Plan:
    """Build DDIM: one evaluation per step, exact when the predicted noise is constant.

    Papers: DDIM, arXiv:2010.02502; for k > 1 gDDIM of order 1, arXiv:2206.05564.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if the times are not strictly decreasing within the horizon.
    """
    rule = Adams("eps", "t", 1)
    papers = ("ddim",) if process.k == 1 and not process.modes else ("gddim",)
    return Plan.build(
        process, times, rule, wants="eps", order=1, name="DDIM", papers=papers, end=end
    )


def deis(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 3,
    variable: str | None = None,
    wants: Wants = "eps",
    starter: bool = True,
    corrector: bool = False,
    end: End = "min",
) -> Plan:
    r"""Build DEIS: exponential Adams-Bashforth on the prediction.

    $C_j = \Psi(t', 0) \int \ell_j \, d[\Psi(0, \tau) R_\tau]$ in the reading eps, with $\ell_j$ the Lagrange
    polynomials through the last `order` predictions. One builder serves scalar and matrix processes.

    Papers: DEIS, arXiv:2204.13902; for k > 1, gDDIM, arXiv:2206.05564; the corrector, UniPC,
    arXiv:2302.04867.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        order: number of points, 1 to 4 (the paper's q + 1: order 4 is its tAB3); 1 is DDIM.
        variable: what the polynomial is in: "t", "rho", "logrho" or "angle"; None is "angle" for v
            and "t" otherwise.
        wants: reading: "eps", "x0", or "v" (k = 1), the network's own output on EDM (up to its
            sign) and on models trained on v: its kernel is bounded at both ends.
        starter: ask order - 2 more times within the first step, so that the run keeps its order;
            without it the run is of order 2 at most, and from pure noise often nearer for the same
            evaluations, since there the first step leaves little behind.
        corrector: correct every step with the prediction at its end, which is then used for the
            next step: the order rises by one for no evaluation. Unstable in few steps on sharp
            data: use it from about 30 evaluations on.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if the order is not 1 to 4 or above the number of steps, or the variable unknown.

    Cost: 1 evaluation per step (+ the starter's), order - 1 stored predictions (order with the
    corrector).

    Example:
        >>> from redrift.process import VP, timegrid
        >>> print(deis(VP(), timegrid(VP(), 10), order=3))
        DEIS order 3 | 10 steps, 11 evaluations | VP, k=1 | deterministic
    """
    whole("order", order, most=MOST - corrector)
    variable = variable or ("angle" if wants == "v" else "t")
    choose("variable", variable, VARIABLES)
    choose("wants", wants, ("eps", "x0", "v"))
    rule = Adams(wants, variable, order, starter, corrector=corrector)
    matrix = process.k > 1 or bool(process.modes)
    papers = ("deis", *(("gddim",) if matrix else ()), *(("unipc",) if corrector else ()))
    notes = [] if variable == "t" else [f"in {variable}"]
    notes += [] if wants == "eps" else [f"on {wants}"]
    notes += ["corrected"] if corrector else []
    name = " ".join([f"DEIS order {order}", *notes])
    return Plan.build(
        process, times, rule, wants=wants, order=order, history=order - 1 + corrector, name=name,
        papers=papers, end=end,
    )  # fmt: skip
