r"""Multistep rows with one free coefficient each, for calibration.

An Adams row through q predictions is fixed by the order conditions 1 to q. Giving up the last of
them leaves one direction: adding multiples of a divided difference of order q - 1, which vanishes on
every polynomial of lower degree, $\sum_j w_j\,p(\tau_j) = 0$. Such a row is therefore of order q - 1
at least, whatever its coefficient, and of order q where that is zero.

Paper: S4S, arXiv:2502.17423, fits coefficients freely; keeping all conditions but the last is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redrift.process import Process
from redrift.solvers.layers import Layer
from redrift.solvers.registry import register
from redrift.solvers.row import Row, Rule


@register
@dataclass(frozen=True)
class FreeCoefficients(Layer):
    """Rule: another multistep rule's rows, each with a multiple of its last divided difference.

    Attributes:
        rule: makes the rows.
        coefficients: one number for each step, in units of the row's whole weight on predictions.
    """

    rule: Rule
    coefficients: tuple[float, ...] | Tensor

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's rows."""
        *before, row = self.rule(process, past, t, next_t, left=left)
        free = self.coefficients[len(self.coefficients) - 1 - left]
        own = [level.t for level in row.asks]
        weights = row.C[-1]
        if len(own) > 1 or any(weight is None for weight in weights) or len(weights) < 2:
            return (*before, row)
        points = torch.stack([*own, *past][: len(weights)])
        nodes = process.clock(points)
        gaps = nodes[:, None] - nodes[None] + torch.eye(len(nodes), dtype=nodes.dtype)
        difference = 1 / gaps.prod(1)
        difference = difference / difference.abs().sum()
        whole = sum(weights[1:], start=weights[0])  # pyright: ignore[reportArgumentType, reportCallIssue]
        moved = tuple(c + free * d * whole for c, d in zip(weights, difference, strict=True))  # pyright: ignore
        return (*before, replace(row, C=(*row.C[:-1], moved)))
