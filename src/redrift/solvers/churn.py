r"""EDM's churn: put noise back before a step, then step from the higher level.

$\hat\rho = \rho\,(1 + \gamma)$ with $\gamma = \min(S_{churn}/N, \sqrt 2 - 1)$ where
$S_{min} < \rho < S_{max}$ and the raised level stays within the horizon; the state is carried up by the
process's own transition.
The history is dropped: a prediction from before the noise says little about the state after it.

Paper: EDM, arXiv:2206.00364, Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from redrift._core.linalg import product
from redrift.process import Process
from redrift.solvers.coefficients import require_scalar
from redrift.solvers.layers import Layer
from redrift.solvers.registry import register
from redrift.solvers.row import Row, Rule

_MOST = math.sqrt(2) - 1


@register
@dataclass(frozen=True)
class Churned(Layer):
    """Rule: noise, then another rule's step from the raised level.

    Attributes:
        rule: of the step.
        gamma: relative rise of sigma / alpha.
        low: no churn at or below this sigma / alpha.
        high: no churn at or above this sigma / alpha.
        scale: factor on the added noise.
    """

    rule: Rule
    gamma: float
    low: float = 0.0
    high: float = math.inf
    scale: float = 1.0

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the noise row, if this level is churned, and the step's."""
        clock = process.clock(t)
        raised = process.unclock(clock - math.log1p(self.gamma))
        rho = math.exp(-float(clock.detach()))
        if not self.low < rho < self.high or float(raised.detach()) > process.horizon:
            return self.rule(process, past, t, next_t, left=left)
        start, top = process.level(t), process.level(raised)
        A = process.psi(raised, t)
        added = product(top.root, top.root) - product(A, start.root, start.root, A)
        noise = Row(start, top, (), (A,), ((),), B=self.scale * added.sqrt(), fresh=False)
        return (noise, *self.rule(process, (), raised, next_t, left=left))


def churned(
    process: Process,
    rule: Rule,
    churn: float,
    steps: int,
    low: float = 0.0,
    high: float = math.inf,
    scale: float = 1.0,
) -> Rule:
    """Return the rule with churn, or itself where there is none.

    Args:
        process: with one noise level.
        rule: of the step.
        churn: S_churn, the total over the run, >= 0.
        steps: number of steps N.
        low: S_min, in sigma / alpha.
        high: S_max.
        scale: S_noise.

    Raises:
        ValueError: if the process has no single noise level, or an argument is out of range.
    """
    if churn == 0:
        return rule
    require_scalar(process, "churn")
    if not 0 < churn < math.inf or not 0 <= low < high or not scale > 0:
        raise ValueError(
            f"churn needs churn >= 0, 0 <= low < high and scale > 0, got churn={churn}, low={low}, "
            f"high={high}, scale={scale}."
        )
    return Churned(rule, min(churn / steps, _MOST), float(low), float(high), float(scale))
