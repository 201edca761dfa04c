r"""The first step of a multistep method, made accurate enough to keep its order.

A multistep method needs a history. A first step of order 1 leaves an error of order h^2 behind, which
caps the whole run at order 2 however long the history grows. The start-up asks the network at one
(order 3) or two (order 4) interior levels of the first step, for order - 2 evaluations more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from redrift.process import Level, Process
from redrift.solvers.coefficients import adams, finite, fraction, one, transfer
from redrift.solvers.layers import Layer, core, layers
from redrift.solvers.registry import register
from redrift.solvers.row import Coefficients, Row, Rule

_FROM = 20  # evaluations from which it pays on data as wide as pictures
_STARTS: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {
    # order: interior fractions of the first step, and which predictions the history keeps
    3: ((1 / 2,), (0,)),
    4: ((1 / 3, 2 / 3), (2, 0)),
}


@register
@dataclass(frozen=True)
class StartUp(Layer):
    """Rule: a first step with interior stages, whose local error is h^order, then another's steps.

    Attributes:
        rule: multistep, of order 3 or 4 with what its layers add.
    """

    rule: Rule

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's rows."""
        if past or not (finite(process, t) and finite(process, next_t)):
            return self.rule(process, past, t, next_t, left=left)
        return (self._first(process, process.level(t), process.level(next_t)),)

    def _first(self, process: Process, start: Level, end: Level) -> Row:
        """Return the first step; the newest node is the last one asked."""
        base = core(self.rule)
        gained = sum(layer.gain for layer in layers(self.rule) if isinstance(layer, Layer))
        fractions, keep = _STARTS[base.order + gained]
        asks = [start] + [fraction(process, start, end, c) for c in fractions]
        A: list[Tensor] = [one(start.signal)]
        C: list[Coefficients] = [()]
        for s, target in enumerate([*asks[1:], end], start=1):
            # a stage looks back to the start and to the stage before it
            looks = sorted({0, s - 1}, reverse=True)
            points = [asks[j].t for j in looks]
            row: list[Tensor | None] = [None] * s
            weights = adams(process, base.wants, start, target, points, base.variable)
            for j, weight in zip(looks, weights, strict=True):
                row[j] = weight
            A.append(transfer(process, base.wants, start, target))
            C.append(tuple(row))
        return Row(start, end, tuple(asks), tuple(A), tuple(C), keep=keep)


def extra_evaluations(budget: int, options: dict[str, Any]) -> int:
    """Return the evaluations that the start-up adds to a run; set whether there is one by the budget."""
    options.setdefault("startup", budget >= _FROM and options.get("first_sigma") is None)
    order = options["order"]
    if not options["startup"] or order < 3:
        return 0
    return len(_STARTS[order + bool(options.get("corrector", False))][0])
