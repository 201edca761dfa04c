r"""DPM-Solver++ as published, for comparison.

Its weights agree with the exact ones at h = 0 only: the slope gets half the weight of the value. The
three-stage single-step method is RES with gamma = 0, which meets the same order conditions.

Paper: DPM-Solver++, arXiv:2211.01095.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from redrift._core.errors import whole
from redrift.process import Process
from redrift.solvers.coefficients import constant, finite, moments, one, transfer
from redrift.solvers.ends import End, LowerLast
from redrift.solvers.exprk import RungeKutta, single_step
from redrift.solvers.multistep import single
from redrift.solvers.plan import Plan
from redrift.solvers.registry import Options, register, solver
from redrift.solvers.row import Row, Rule


@register
@dataclass(frozen=True)
class DPMpp:
    """Rule: multistep DPM-Solver++ with the slopes of its paper and no start-up.

    Attributes:
        order: 1 to 3.
    """

    order: int

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        usable = [point for point in past if finite(process, point)]
        order = min(self.order, len(usable) + 1)
        if not (finite(process, t) and finite(process, next_t)):
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
        return (Row(start, end, (start,), (one(A), A), ((), C), keep=(0,)),)


def _stages(options: Options) -> int:
    return options["order"] if options.get("single", False) else 1


@solver(order=2, stages=_stages)
def dpmpp(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 2,
    single: bool = False,
    lower_final: bool = False,
    first_stages: int = 0,
    end: End = "min",
) -> Plan:
    """Build DPM-Solver++ as published: single-step (2S, 3S) or multistep (2M, 3M).

    Paper: DPM-Solver++, arXiv:2211.01095.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        order: 1, 2 or 3. Multistep order 3 converges with order 2 (its slopes are approximate).
        single: stages within the step instead of earlier predictions.
        lower_final: multistep only: last step of order 1.
        first_stages: single-step only: of a shorter first step, see `res`.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Cost: `order` evaluations per step single-step, 1 multistep.
    """
    whole("order", order, most=3)
    if single:
        c2 = 1 / 2 if order == 2 else 1 / 3
        stages = RungeKutta(order, "x0", "dpmpp", c2, 2 / 3)
        return single_step(process, times, stages, first_stages, "DPM-Solver++", end)
    rule: Rule = LowerLast(DPMpp(order)) if lower_final else DPMpp(order)
    name = f"DPM-Solver++ order {order}, multistep"
    papers = ("dpmpp",)
    return Plan.build(
        process, times, rule, wants="x0", order=order, name=name, papers=papers, end=end
    )
