r"""Single-step exponential Runge-Kutta plans, and RES in both forms.

RES satisfies the exponential order conditions of Hochbruck and Ostermann exactly. With moments
$m_j(c) = N_c \int_0^c s^j\, d[N^{-1}M]$ over the step (s from 0 to 1 in log-SNR), which in the reading
x0 are $h c^{j+1} j!\, \varphi_{j+1}(-ch)$:

    2 stages  b2 = m1 / c2,                      b1 = m0 - b2
    3 stages  b3 = m1 / (gamma c2 + c3),         b2 = gamma b3,  b1 = m0 - b2 - b3
              a32 = (m1(c3) + gamma m1(c2)) / c2
              gamma = (3 c3^2 - 2 c3) / (c2 (2 - 3 c2))

gamma follows from the third-order condition b2 c2^2 + b3 c3^2 = 1/3 at h = 0. (A formula with c3^3 is
in circulation; it is right for c3 = 1 only and of order 2 otherwise.) DPM-Solver++ takes
b2 = m0 / (2 c2) instead, which meets the second condition at h = 0 only; its three-stage method with
(1/3, 2/3) is RES with gamma = 0.

Krogstad's four stages add the third moment. All are sums of moments, so they run on every linear
process.

Papers: RES, arXiv:2308.02157; DPM-Solver++, arXiv:2211.01095.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.process import Level, Process
from redrift.process.base import Wants
from redrift.solvers.churn import churned
from redrift.solvers.coefficients import constant, finite, fraction, moments, one, transfer
from redrift.solvers.ends import End, LowerLast
from redrift.solvers.multistep import Adams, layered, single
from redrift.solvers.plan import Plan
from redrift.solvers.registry import Options, register, solver
from redrift.solvers.row import Row, Rule
from redrift.solvers.startup import extra_evaluations

_STAGES = {2: (1 / 2, 0.0), 3: (1 / 3, 2 / 3)}  # positions in a shorter first step


def gamma(c2: float, c3: float) -> float:
    """Return the ratio b2 / b3 of three-stage RES, from the third-order condition.

    Raises:
        ValueError: if c2 or c3 is outside (0, 1], c2 is 2/3, or gamma c2 + c3 vanishes.
    """
    if not (0 < c2 < 1 and 0 < c3 <= 1) or abs(2 - 3 * c2) < 1e-9:
        raise ValueError(f"c2 must lie in (0, 1) and not be 2/3, c3 in (0, 1]; got {c2}, {c3}.")
    value = (3 * c3**2 - 2 * c3) / (c2 * (2 - 3 * c2))
    if abs(value * c2 + c3) < 1e-9:
        raise ValueError(f"c2={c2}, c3={c3} leave no third-order method; try c2=1/3, c3=2/3.")
    return value


@register
@dataclass(frozen=True)
class RungeKutta:
    """Rule: an exponential Runge-Kutta step of 1, 2 or 3 stages.

    Attributes:
        order: number of stages.
        wants: reading of the predictions.
        weights: "res" for the exact second condition, "dpmpp" for DPM-Solver++'s.
        c2: position of the second stage in log-SNR.
        c3: position of the third.
        steps: number of steps of the whole run, if its first step is a shorter one.
        first_stages: of that first step, 0 for none.
    """

    order: int
    wants: Wants = "x0"
    weights: Literal["res", "dpmpp"] = "res"
    c2: float = 1 / 2
    c3: float = 2 / 3
    steps: int = 0
    first_stages: int = 0

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        shorter = self.first_stages and left == self.steps - 1
        order = self.first_stages if shorter else self.order
        if order == 1 or not (finite(process, t) and finite(process, next_t)):
            row = single(process, self.wants, start, end)
            return (Row(start, end, row.asks, row.A, row.C),)
        if order == 4:
            return (self._krogstad(process, start, end),)
        c2, c3 = (self.c2, self.c3) if order == self.order else _STAGES[order]
        second = fraction(process, start, end, c2)
        into_second, a21 = constant(process, self.wants, start, second)
        A = transfer(process, self.wants, start, end)
        m0, m1 = moments(process, self.wants, start, end, end, 2)
        if order == 2:
            b2 = m1 / c2 if self.weights == "res" else m0 / (2 * c2)
            C = ((), (a21,), (m0 - b2, b2))
            return (Row(start, end, (start, second), (one(A), into_second, A), C),)
        third = fraction(process, start, end, c3)
        into_third, full = constant(process, self.wants, start, third)
        _, inner = moments(process, self.wants, start, third, end, 2)
        ratio = gamma(c2, c3)
        if ratio:
            inner = inner + ratio * moments(process, self.wants, start, second, end, 2)[1]
        a32 = inner / c2
        b3 = m1 / (ratio * c2 + c3)
        b2 = ratio * b3
        C = ((), (a21,), (full - a32, a32), (m0 - b2 - b3, b2 if ratio else None, b3))
        # the second-order result of the first two stages, taken from the third-order one
        error = (m1 / c2 - b2 - b3, b2 - m1 / c2, b3)
        stages, A = (start, second, third), (one(A), into_second, into_third, A)
        return (Row(start, end, stages, A, C, error=error),)

    def _krogstad(self, process: Process, start: Level, end: Level) -> Row:
        """Return Krogstad's row; its second and third stage share the middle of the step."""
        middle = fraction(process, start, end, 1 / 2)
        half, a21 = constant(process, self.wants, start, middle)
        A = transfer(process, self.wants, start, end)
        _, inner = moments(process, self.wants, start, middle, end, 2)
        m0, m1, m2 = moments(process, self.wants, start, end, end, 3)
        C = (
            (),
            (a21,),
            (a21 - 4 * inner, 4 * inner),
            (m0 - 2 * m1, None, 2 * m1),
            (m0 - 3 * m1 + 2 * m2, 2 * m1 - 2 * m2, 2 * m1 - 2 * m2, 2 * m2 - m1),
        )
        return Row(start, end, (start, middle, middle, end), (one(A), half, half, A, A), C)


def _stages(options: Options) -> int:
    return 1 if options.get("multistep", False) else options["order"]


@solver(order=2, stages=_stages, extra=extra_evaluations)
def res(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 3,
    multistep: bool = False,
    c2: float | None = None,
    c3: float | None = None,
    wants: Wants = "x0",
    startup: bool = True,
    lower_final: bool = False,
    first_stages: int = 0,
    corrector: bool = False,
    churn: float = 0.0,
    end: End = "min",
) -> Plan:
    """Build RES: the exponential solver that meets all order conditions, single- or multistep.

    Paper: RES, arXiv:2308.02157.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        order: 1, 2 or 3: stages of a step, or points of the multistep form.
        multistep: use earlier predictions instead of stages: 1 evaluation per step.
        c2: position of the second stage in log-SNR; 1/2 at order 2, 1/3 at order 3.
        c3: position of the third stage; 2/3.
        wants: reading, "x0" or "eps".
        startup: multistep only: keep the order through the first step, see `deis`.
        lower_final: multistep only: last step of order 1.
        first_stages: single-step only: stages of a shorter first step, which uses up the remainder of a
            budget (first, because the same step costs most accuracy at the end).
        corrector: multistep only: correct every step for free, see `deis`.
        churn: single-step only: EDM's noise injection per run, see `heun`.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if the order is not 1 to 3, or the stages allow no method of it.

    Cost: `order` evaluations per step single-step, 1 multistep (+ order - 2 with the start-up).
    """
    whole("order", order, most=3)
    choose("wants", wants, ("x0", "eps"))
    if multistep:
        if c2 is not None or c3 is not None or first_stages or churn:
            raise ValueError("c2, c3, first_stages and churn belong to single-step RES.")
        variable = "logrho" if process.k == 1 and not process.modes else "t"
        rule: Rule = Adams(wants, variable, order)
        rule = layered(LowerLast(rule) if lower_final else rule, order, startup, corrector)
        name = f"RES order {order}, multistep{', corrected' if corrector else ''}"
        papers = ("res", "unipc") if corrector else ("res",)
        return Plan.build(
            process, times, rule, wants=wants, order=order, history=order - 1 + corrector,
            name=name, papers=papers, end=end,
        )  # fmt: skip
    if corrector or lower_final:
        raise ValueError("corrector and lower_final belong to multistep RES: multistep=True.")
    c2 = c2 if c2 is not None else (1 / 2 if order == 2 else 1 / 3)
    c3 = c3 if c3 is not None else 2 / 3
    if order == 3:
        gamma(c2, c3)
    elif not 0 < c2 <= 1:
        raise ValueError(f"c2 must lie in (0, 1], got {c2}.")
    stages = RungeKutta(order, wants, "res", c2, c3)
    return single_step(process, times, stages, first_stages, "RES", end, churn)


@solver(fixed=4, stages=lambda options: 4)
def krogstad(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    wants: Wants = "x0",
    first_stages: int = 0,
    end: End = "min",
) -> Plan:
    """Build Krogstad's four-stage exponential Runge-Kutta method of order 4.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        wants: reading, "x0" or "eps".
        first_stages: of a shorter first step, 0 for none, see `res`.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Cost: 4 evaluations per step.
    """
    choose("wants", wants, ("x0", "eps"))
    rule = RungeKutta(4, wants, "res", 1 / 2, 1 / 2)
    return single_step(process, times, rule, first_stages, "Krogstad", end)


def single_step(
    process: Process,
    times: Tensor | Sequence[float],
    rule: RungeKutta,
    first_stages: int,
    family: str,
    end: End,
    churn: float = 0.0,
) -> Plan:
    """Build a single-step plan."""
    whole("first_stages", first_stages, least=0, most=rule.order - 1)
    steps = len(times) - 1
    if first_stages:
        rule = replace(rule, steps=steps - (end == "zero"), first_stages=first_stages)
    papers = {"RES": ("res",), "DPM-Solver++": ("dpmpp",), "Krogstad": ("res",)}[family]
    name = f"{family} order {rule.order}, single-step{f', churn {churn:g}' if churn else ''}"
    return Plan.build(
        process, times, churned(process, rule, churn, steps), wants=rule.wants, order=rule.order,
        history=0, name=name, papers=papers, stochastic=churn > 0, end=end,
    )  # fmt: skip
