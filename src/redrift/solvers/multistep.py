r"""Multistep plans: the prediction is a polynomial through the last few asked.

`deis` fits the noise in t, rho or log rho (tAB, rhoAB and log-rho AB); order 1 is `ddim`. Fitted to
x0 in log-SNR it is multistep RES, which `redrift.solvers.exprk.res` builds; fitted to v in the angle it
acts on the network's own output.

The rest are layers around the rule: `StartUp` and `FirstEvaluation` change the first step, `UniC` corrects
every step, `LowerLast` the last one.

Papers: DEIS, arXiv:2204.13902; DDIM, arXiv:2010.02502.
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
    one,
    transfer,
)
from redrift.solvers.ends import End
from redrift.solvers.first import FirstEvaluation, check_first_sigma
from redrift.solvers.plan import Plan
from redrift.solvers.registry import register, solver
from redrift.solvers.row import Row, Rule
from redrift.solvers.startup import StartUp, extra_evaluations
from redrift.solvers.unic import UniC, check_corrector

MOST = 4


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


@register
@dataclass(frozen=True)
class Adams:
    """Rule: exponential Adams-Bashforth in any reading and polynomial variable.

    Attributes:
        wants: reading of the predictions.
        variable: polynomial variable, see `coefficients.variable`.
        order: number of points.
    """

    wants: Wants
    variable: str
    order: int

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        if not (finite(process, t) and finite(process, next_t)):
            return (single(process, self.wants, start, end, past),)
        ready = known(past, t)
        usable = [point for point in past if finite(process, point)]
        points = usable if ready else [t, *usable]
        A = transfer(process, self.wants, start, end)
        C = tuple(adams(process, self.wants, start, end, points[: self.order], self.variable))
        if ready:
            return (Row(start, end, (), (A,), (C,), fresh=False),)
        return (Row(start, end, (start,), (one(A), A), ((), C), keep=(0,)),)


def layered(rule: Rule, order: int, startup: bool, corrector: bool, above: float = 0.0) -> Rule:
    """Return a multistep rule with the corrector and the start-up where they are asked for."""
    if corrector:
        rule = UniC(rule, above)
    return StartUp(rule) if startup and order > 2 else rule


@solver(fixed=1)
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


@solver(order=3, extra=extra_evaluations)
def deis(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 3,
    variable: str | None = None,
    wants: Wants = "eps",
    startup: bool = True,
    corrector: bool | float = False,
    first_sigma: float | None = None,
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
        startup: ask order - 2 more times within the first step, so that the run keeps its order.
            Without it the run is of order 2 at most, but from pure noise nearer for the same
            evaluations unless the data are as wide as pictures (docs/choose.md).
        corrector: correct every step with the prediction at its end, which is then used for the
            next step: the order rises by one for no evaluation. Unstable in few steps on sharp
            data: use it from about 30 evaluations on. A number corrects only steps that end at a
            noise level sigma / alpha of that or more, where no mode is sharp yet; the steps below
            have order + 1 points instead.
        first_sigma: noise level sigma / alpha of the first evaluation where the first step crosses it,
            instead of the level where the run starts; about 20. For runs of few steps from pure noise, with
            wants "v" or "x0", without the start-up, on processes with one noise level. The state is taken
            there as if the data were standard normal, and the clean sample predicted is held over the
            step, which is then of order 1. A first step that does not cross the level is the plain one,
            see `Plan.skips_start`.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if the order is not 1 to 4 (to 3 with the corrector) or above the number of steps,
            the variable unknown, a noise level for the corrector or `first_sigma` not positive or of a
            process with more than one, or `first_sigma` beside a start-up or on eps.

    Cost: 1 evaluation per step (+ the start-up's), order - 1 stored predictions (order with the
    corrector).

    Example:
        >>> from redrift.process import VP, timegrid
        >>> print(deis(VP(), timegrid(VP(), 10), order=3))
        DEIS order 3 | 10 steps, 11 evaluations | VP, k=1 | deterministic
    """
    above = check_corrector(process, corrector)
    corrector = bool(corrector)
    whole("order", order, most=MOST - corrector)
    variable = variable or ("angle" if wants == "v" else "t")
    choose("variable", variable, VARIABLES)
    choose("wants", wants, ("eps", "x0", "v"))
    rule: Rule = Adams(wants, variable, order)
    if first_sigma is not None:
        rule = FirstEvaluation(rule, check_first_sigma(process, first_sigma, startup, wants))
    rule = layered(rule, order, startup, corrector, above)
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
