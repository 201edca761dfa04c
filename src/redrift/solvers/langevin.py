r"""Langevin correctors and churn for any plan: what repairs the errors that a flow freezes in.

A collage's score is exact as the noise vanishes, but the flow carries the errors it made at high
noise down unchanged. Langevin steps at each level forget them. At one level the step

$$z' = z - \delta\,R\,\epsilon(z) + \sqrt{2\delta}\,R\,\xi$$

leaves the density of z_t unchanged as $\delta \to 0$, for every process, since
$R\,\epsilon = -\mathrm{cov}\;\nabla \log p$.

Churn puts noise back before a step instead (EDM, arXiv:2206.00364).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.linalg import product
from redrift.process import Process, convert
from redrift.process.base import Wants
from redrift.solvers.churn import churned
from redrift.solvers.layers import Layer
from redrift.solvers.plan import Plan
from redrift.solvers.registry import register
from redrift.solvers.row import Row, Rule
from redrift.solvers.unic import UniC


@register
@dataclass(frozen=True)
class Langevin(Layer):
    """Rule: Langevin steps at the level of a step's start, then the step.

    Attributes:
        rule: of the step.
        wants: reading of the predictions.
        steps: Langevin steps at each level.
        size: delta, in units of the noise's covariance.
        low: no correctors where sigma / alpha is below.
        high: none where it is above.
    """

    rule: Rule
    wants: Wants
    steps: int
    size: float
    low: float = 0.0
    high: float = math.inf

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the correctors' rows and the step's."""
        level = process.level(t)
        if not self.low <= level.sigma <= self.high:
            return self.rule(process, past, t, next_t, left=left)
        eye = torch.eye(process.k, dtype=t.dtype).expand_as(level.root)
        P, Q = convert(process, level, self.wants, "eps")
        A = eye - self.size * product(level.root, P)
        C = -self.size * product(level.root, Q)
        noise = math.sqrt(2 * self.size) * level.root
        row = Row(level, level, (level,), (eye, A), ((), (C,)), B=noise)
        # predictions from before the noise say little about the state after it
        return (*[row] * self.steps, *self.rule(process, (), t, next_t, left=left))


def langevin_corrected(
    plan: Plan,
    steps: int = 4,
    *,
    size: float = 0.5,
    churn: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
) -> Plan:
    """Return a plan with Langevin correctors at each level, or churn before each step, or both.

    Args:
        plan: one with a rule; its steps start without a history, and without a corrector of their
            own (UniC), which would ask twice where there is none.
        steps: Langevin steps at each level, >= 0. Each costs one evaluation.
        size: of a step, in units of the noise's covariance, in (0, 1).
        churn: S_churn, the total over the run, >= 0; for processes with one noise level.
        low: neither where sigma / alpha is below.
        high: neither where it is above.

    Returns:
        a stochastic plan, or the one given where both are 0; `evaluations` counts the correctors.

    Raises:
        ValueError: if the plan has no rule, or an argument is out of range.

    Cost: steps evaluations more at each level in range.

    Example:
        >>> from redrift.process import VP, timegrid
        >>> from redrift.solvers import ddim, langevin_corrected
        >>> langevin_corrected(ddim(VP(), timegrid(VP(), 10)), 2).evaluations
        30
    """
    whole("steps", steps, least=0)
    if plan.rule is None:
        raise ValueError("this plan has no rule, so its steps cannot be made again.")
    if not 0 < size < 1 or not 0 <= low < high:
        raise ValueError(
            f"correctors need 0 < size < 1 and 0 <= low < high, got size={size}, low={low}, "
            f"high={high}."
        )
    if not steps and not churn:
        return plan
    bare = plan.without(UniC)
    assert bare.rule is not None
    rule = churned(plan.process, bare.rule, churn, plan.steps, low, high)
    if steps:
        rule = Langevin(rule, plan.wants, steps, float(size), float(low), float(high))
    extra = [f"{steps} corrector{'s' * (steps > 1)}"] * bool(steps) + [f"churn {churn:g}"] * bool(
        churn
    )
    return Plan.build(
        plan.process, plan.times, rule, wants=plan.wants, order=plan.order, history=plan.history,
        name=f"{plan.name} with {' and '.join(extra)}", papers=plan.papers, stochastic=True,
    )  # fmt: skip
