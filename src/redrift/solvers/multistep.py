r"""Multistep plans: the prediction is a polynomial through the last few asked.

`deis` fits the noise in t, rho or log rho (tAB, rhoAB and log-rho AB); order 1 is `ddim`. Fitted to
x0 in log-SNR it is multistep RES, which `redrift.solvers.exprk.res` builds; fitted to v in the angle it
acts on the network's own output.

A multistep method needs a history. A first step of order 1 leaves an error of order h^2 behind,
which caps the whole run at order 2 however long the history grows. The starter asks the network at
one (order 3) or two (order 4) interior levels of the first step, so that the run keeps its order,
for order - 2 evaluations more.

A run from pure noise may ask its first question further down instead (`ahead`): at sigma / alpha = 150
a network's prediction of the clean sample is hardly more than its class mean and rough, and it would
steer the whole first step. This one is ours.

Papers: DEIS, arXiv:2204.13902; DDIM, arXiv:2010.02502; UniPC, arXiv:2302.04867 (the corrector).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.process import Level, Process
from redrift.process.base import Wants
from redrift.process.convert import mix
from redrift.solvers.coefficients import (
    VARIABLES,
    adams,
    constant,
    finite,
    fraction,
    one,
    require_scalar,
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
        floor: noise level sigma / alpha below which a step may not end to be corrected; it is then
            plain, with one point more.
        ahead: noise level sigma / alpha at which a first step across it asks, or None.
    """

    wants: Wants
    variable: str
    order: int
    starter: bool = True
    lower_final: bool = False
    corrector: bool = False
    ahead: float | None = None
    floor: float = 0.0

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        if self.ahead is not None and not past and _noise(end) < self.ahead < _noise(start):
            return (self._lead(process, start, end, last=left == 0),)
        if not (finite(process, t) and finite(process, next_t)):
            return (single(process, self.wants, start, end, past),)
        below = self.corrector and self.floor > 0 and _noise(end) < self.floor
        order = 1 if self.lower_final and left == 0 else self.order + below
        ready = known(past, t)
        usable = [point for point in past if finite(process, point)]
        points = usable if ready else [t, *usable]
        if self.starter and len(points) < self.order - 1 and not past:
            return (self._first(process, start, end),)
        A, C = self._step(process, start, end, points[:order])
        asks = () if ready else (start,)
        stages = () if ready else (one(A),)
        if not self.corrector or below or left == 0:
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

    def _lead(self, process: Process, start: Level, end: Level, *, last: bool) -> Row:
        """Return a first step of order 1 that asks within it, at the state scaled as noise is.

        The scale is that of the exact flow of standard normal data; under VP it is one. The clean
        sample that is predicted there is held over the step.
        """
        assert self.ahead is not None
        depth = torch.tensor(-math.log(self.ahead), dtype=torch.float64)
        at = process.level(require_scalar(process, "ahead").unclock(depth))
        scale = _size(at) / _size(start)
        A, C = constant(process, "x0", start, end)
        P, Q = mix(process, at, self.wants, "x0")  # x0 = P z + Q e at the level that is asked
        A, C = A + C * P * scale, C * Q
        if last or not self.corrector or not finite(process, start.t):
            return Row(start, end, (at,), (scale, A), ((), (C,)), keep=(0,), fresh=False)
        corrected, (new, old) = self._step(process, start, end, [end.t, at.t])
        stages, weights = (scale, A, corrected), ((), (C,), (old, new))
        return Row(start, end, (at, end), stages, weights, keep=(1, 0), fresh=False)

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


def _floor(process: Process, corrector: float) -> float:
    if not isinstance(corrector, (int, float)) or not 0 < corrector < math.inf:
        raise ValueError(
            f"corrector={corrector!r} must be True, False or a noise level sigma / alpha, such as 0.4."
        )
    require_scalar(process, "a noise level for the corrector")
    return float(corrector)


def _check_ahead(ahead: float, starter: bool, wants: Wants) -> None:
    if not 0 < ahead < math.inf:
        raise ValueError(
            f"ahead={ahead} must be a noise level sigma / alpha, such as 15, or None."
        )
    if wants == "eps":
        raise ValueError(
            f"ahead={ahead:g} needs wants='v' or 'x0': the noise that is predicted at a state off the "
            "path is not the path's."
        )
    if starter:
        raise ValueError(
            f"ahead={ahead:g} and the starter both say where the first step asks: give starter=False."
        )


def _noise(level: Level) -> float:
    """Return sigma / alpha."""
    return float((level.root / level.signal).detach().max())


def _size(level: Level) -> Tensor:
    """Return the standard deviation of the state of standard normal data."""
    return (level.signal**2 + level.root**2).sqrt()


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
    corrector: bool | float = False,
    ahead: float | None = None,
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
        starter: ask order - 2 more times within the first step, so that the run keeps its order.
            Without it the run is of order 2 at most, but from pure noise nearer for the same
            evaluations unless the data are as wide as pictures (docs/choose.md).
        corrector: correct every step with the prediction at its end, which is then used for the
            next step: the order rises by one for no evaluation. Unstable in few steps on sharp
            data: use it from about 30 evaluations on. A number corrects only steps that end at a
            noise level sigma / alpha of that or more, where no mode is sharp yet; the steps below
            have order + 1 points instead.
        ahead: noise level sigma / alpha at which a first step across it asks instead of at its start;
            about 20. For runs of few steps from pure noise, with wants "v" or "x0", without the
            starter, on processes with one noise level. The state is taken there as if the data were
            standard normal, and the clean sample predicted is held over the step, which is then of
            order 1. A first step that does not cross the level is the plain one, see
            `Plan.asks_ahead`.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if the order is not 1 to 4 (to 3 with the corrector) or above the number of steps,
            the variable unknown, a noise level for the corrector or `ahead` not positive or of a
            process with more than one, or `ahead` beside a starter or on eps.

    Cost: 1 evaluation per step (+ the starter's), order - 1 stored predictions (order with the
    corrector).

    Example:
        >>> from redrift.process import VP, timegrid
        >>> print(deis(VP(), timegrid(VP(), 10), order=3))
        DEIS order 3 | 10 steps, 11 evaluations | VP, k=1 | deterministic
    """
    floor = 0.0 if isinstance(corrector, bool) else _floor(process, corrector)
    corrector = bool(corrector)
    whole("order", order, most=MOST - corrector)
    variable = variable or ("angle" if wants == "v" else "t")
    choose("variable", variable, VARIABLES)
    choose("wants", wants, ("eps", "x0", "v"))
    if ahead is not None:
        require_scalar(process, "ahead")
        ahead = float(ahead)
        _check_ahead(ahead, starter, wants)
    rule = Adams(wants, variable, order, starter, corrector=corrector, ahead=ahead, floor=floor)
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
