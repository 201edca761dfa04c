"""How a run ends: at the predicted clean state, or with a last step of order 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redrift.process import Level, Process, convert
from redrift.process.base import Wants
from redrift.solvers.layers import Layer, with_order
from redrift.solvers.registry import register
from redrift.solvers.row import Row, Rule

End = Literal["min", "zero", "denoise"]


@register
@dataclass(frozen=True)
class CleanEnd(Layer):
    """Rule: another rule's steps, and a last step that returns the predicted clean state.

    Attributes:
        rule: of the steps before.
        wants: reading of the predictions.
    """

    rule: Rule
    wants: Wants

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's rows."""
        if left:
            return self.rule(process, past, t, next_t, left=left - 1)
        start = process.level(t)
        eye = torch.eye(process.k, dtype=t.dtype).expand_as(start.signal)
        end = Level(next_t, eye, torch.zeros_like(eye))
        A, C = convert(process, start, self.wants, "x0")
        if past and torch.equal(past[0].detach(), t.detach()):
            return (Row(start, end, (), (A,), ((C,),), fresh=False),)
        return (Row(start, end, (start,), (eye, A), ((), (C,))),)


@register
@dataclass(frozen=True)
class LowerLast(Layer):
    """Rule: another rule's steps, the last one of order 1.

    It pays in the reading x0 on grids whose last step is long in log-SNR.

    Attributes:
        rule: multistep.
    """

    rule: Rule

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's rows."""
        rule = self.rule if left else with_order(self.rule, 1)
        return rule(process, past, t, next_t, left=left)
