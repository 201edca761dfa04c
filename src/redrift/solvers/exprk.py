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

Papers: RES, arXiv:2308.02157; DPM-Solver++, arXiv:2211.01095.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.process import Process
from redrift.process.base import Wants
from redrift.solvers.coefficients import constant, finite, fraction, moments, transfer
from redrift.solvers.multistep import Adams, DPMpp, single
from redrift.solvers.plan import Plan, Row


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
        first: stages of that first step, 0 for none.
    """

    order: int
    wants: Wants = "x0"
    weights: Literal["res", "dpmpp"] = "res"
    c2: float = 1 / 2
    c3: float = 2 / 3
    steps: int = 0
    first: int = 0

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        order = self.first if self.first and left == self.steps - 1 else self.order
        if order == 1 or not (finite(process, t) and finite(process, next_t)):
            row = single(process, self.wants, start, end)
            return (Row(start, end, row.asks, row.A, row.C),)
        c2 = 1 / 2 if order < self.order else self.c2
        second = fraction(process, start, end, c2)
        into_second, a21 = constant(process, self.wants, start, second)
        A = transfer(process, self.wants, start, end)
        one = torch.eye(process.k, dtype=A.dtype).expand_as(A)
        m0, m1 = moments(process, self.wants, start, end, end, 2)
        if order == 2:
            b2 = m1 / c2 if self.weights == "res" else m0 / (2 * c2)
            C = ((), (a21,), (m0 - b2, b2))
            return (Row(start, end, (start, second), (one, into_second, A), C),)
        third = fraction(process, start, end, self.c3)
        into_third, full = constant(process, self.wants, start, third)
        _, inner = moments(process, self.wants, start, third, end, 2)
        ratio = gamma(c2, self.c3)
        if ratio:
            inner = inner + ratio * moments(process, self.wants, start, second, end, 2)[1]
        a32 = inner / c2
        b3 = m1 / (ratio * c2 + self.c3)
        b2 = ratio * b3
        C = ((), (a21,), (full - a32, a32), (m0 - b2 - b3, b2 if ratio else None, b3))
        stages = (start, second, third)
        return (Row(start, end, stages, (one, into_second, into_third, A), C),)


def res(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 3,
    multistep: bool = False,
    c2: float | None = None,
    c3: float | None = None,
    wants: Wants = "x0",
    starter: bool = True,
    lower_final: bool = False,
    first: int = 0,
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
        starter: multistep only: keep the order through the first step, see `deis`.
        lower_final: multistep only: last step of order 1.
        first: single-step only: stages of a shorter first step, which uses up the remainder of a
            budget (first, because the same step costs most accuracy at the end).

    Raises:
        ValueError: if the order is not 1 to 3, or the stages allow no method of it.

    Cost: `order` evaluations per step single-step, 1 multistep (+ order - 2 with the starter).
    """
    whole("order", order, most=3)
    choose("wants", wants, ("x0", "eps"))
    if multistep:
        if c2 is not None or c3 is not None or first:
            raise ValueError("c2, c3 and first belong to single-step RES; use multistep=False.")
        rule = Adams(wants, "logrho" if _scalar(process) else "t", order, starter, lower_final)
        name = f"RES order {order}, multistep"
        return Plan.build(
            process, times, rule, wants=wants, order=order, name=name, papers=("res",)
        )
    c2 = c2 if c2 is not None else (1 / 2 if order == 2 else 1 / 3)
    c3 = c3 if c3 is not None else 2 / 3
    if order == 3:
        gamma(c2, c3)
    elif not 0 < c2 <= 1:
        raise ValueError(f"c2 must lie in (0, 1], got {c2}.")
    return _single(process, times, RungeKutta(order, wants, "res", c2, c3), first, "RES")


def dpmpp(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 2,
    single: bool = False,
    lower_final: bool = False,
    first: int = 0,
) -> Plan:
    """Build DPM-Solver++ as published: single-step (2S, 3S) or multistep (2M, 3M).

    Paper: DPM-Solver++, arXiv:2211.01095.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        order: 1, 2 or 3. Multistep order 3 converges with order 2 (its slopes are approximate).
        single: stages within the step instead of earlier predictions.
        lower_final: multistep only: last step of order 1.
        first: single-step only: stages of a shorter first step, see `res`.

    Cost: `order` evaluations per step single-step, 1 multistep.
    """
    whole("order", order, most=3)
    if single:
        c2 = 1 / 2 if order == 2 else 1 / 3
        rule = RungeKutta(order, "x0", "dpmpp", c2, 2 / 3)
        return _single(process, times, rule, first, "DPM-Solver++")
    rule = DPMpp(order, lower_final)
    name = f"DPM-Solver++ order {order}, multistep"
    return Plan.build(process, times, rule, wants="x0", order=order, name=name, papers=("dpmpp",))


def _scalar(process: Process) -> bool:
    return process.k == 1 and not process.modes


def _single(
    process: Process, times: Tensor | Sequence[float], rule: RungeKutta, first: int, family: str
) -> Plan:
    """Build a single-step plan; `first` counts the stages of its first step."""
    whole("first", first, least=0, most=rule.order - 1)
    if first:
        rule = replace(rule, steps=len(times) - 1, first=first)
    papers = ("res",) if family == "RES" else ("dpmpp",)
    name = f"{family} order {rule.order}, single-step"
    return Plan.build(
        process, times, rule, wants=rule.wants, order=rule.order, history=0, name=name,
        papers=papers,
    )  # fmt: skip
