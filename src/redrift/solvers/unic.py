"""The corrector that costs nothing: a step is taken again with the prediction at its own end.

Every step predicts its end, asks there, and is taken again with the new point added; the prediction is
kept for the next step, so nothing is asked twice, and the order rises by one.

Paper: UniPC, arXiv:2302.04867 (UniC).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from redrift.process import Process
from redrift.solvers.coefficients import adams, finite, require_scalar, transfer
from redrift.solvers.layers import Layer, core, with_order
from redrift.solvers.registry import register
from redrift.solvers.row import Row, Rule


@register
@dataclass(frozen=True)
class UniC(Layer):
    """Rule: another's steps, corrected with the prediction at their end; not the last one.

    Attributes:
        rule: multistep.
        above: noise level sigma / alpha below which a step may not end to be corrected; it is then
            plain, with one point more.
    """

    rule: Rule
    above: float = 0.0
    gain: ClassVar[int] = 1

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        base = core(self.rule)
        if self.above > 0 and process.level(next_t).sigma < self.above:
            plain = with_order(self.rule, base.order + 1)
            return plain(process, past, t, next_t, left=left)
        (row,) = self.rule(process, past, t, next_t, left=left)
        if left == 0 or not (finite(process, t) and finite(process, next_t)):
            return (row,)
        own = [level.t for level in row.asks]
        usable = [point for point in past if finite(process, point)]
        points = [next_t, *[*own, *usable][: base.order]]
        new, *rest = adams(process, base.wants, row.start, row.end, points, base.variable)
        A = transfer(process, base.wants, row.start, row.end)
        corrected = (*rest[: len(own)], new, *rest[len(own) :])
        asks, keep = (*row.asks, row.end), (len(own), *row.keep)
        C = (*row.C, corrected)
        return (Row(row.start, row.end, asks, (*row.A, A), C, keep=keep, fresh=row.fresh),)

    def describe(self, rows: Sequence[Row]) -> str:
        """Say above which noise level it corrects."""
        return f"corrected above sigma / alpha = {self.above:.3g}" if self.above else ""


def check_corrector(process: Process, corrector: bool | float) -> float:
    """Return the noise level above which a plan is corrected, 0 for everywhere or nowhere.

    Raises:
        ValueError: if it is a number that is no noise level, or the process has no single one.
    """
    if isinstance(corrector, bool):
        return 0.0
    if not isinstance(corrector, (int, float)) or not 0 < corrector < math.inf:
        raise ValueError(
            f"corrector={corrector!r} must be True, False or a noise level sigma / alpha, such as 0.4."
        )
    require_scalar(process, "a noise level for the corrector")
    return float(corrector)
