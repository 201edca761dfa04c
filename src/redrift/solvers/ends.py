"""How a run ends: at the predicted clean state, or with a last step of order 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redrift._core.quadrature import gauss_legendre, lagrange
from redrift.process import Level, Process, ScalarProcess, convert
from redrift.process.base import Wants
from redrift.solvers.coefficients import finite, variable_of_log_snr
from redrift.solvers.layers import Layer, core, with_order
from redrift.solvers.registry import register
from redrift.solvers.row import Row, Rule

_NODES = 32
_MOST = 3  # predictions of a last step to the clean state
End = Literal["min", "zero", "denoise"]


def clean_end(rule: Rule, process: Process, wants: Wants) -> CleanEnd:
    """Return a rule with a last step to the clean state, of the highest order that pays.

    Multistep rules on eps and v keep up to three predictions, two where their polynomial is in log rho; in
    the reading x0, and for rules without a history, the predicted clean state is what there is.
    """
    base = core(rule)
    name, scalar = getattr(base, "variable", None), isinstance(process, ScalarProcess)
    if name is None or wants == "x0" or not scalar:
        return CleanEnd(rule, wants)
    return CleanEnd(rule, wants, min(base.order, 2 if name == "logrho" else _MOST))


@register
@dataclass(frozen=True)
class CleanEnd(Layer):
    """Rule: another rule's steps, and a last step to the clean state.

    Of order 1 it returns the predicted clean state. Of a higher order it integrates the polynomial
    through the last predictions: log-SNR has no end, but the noise level and the angle do.

    Attributes:
        rule: of the steps before.
        wants: reading of the predictions.
        order: number of predictions of the last step.
    """

    rule: Rule
    wants: Wants
    order: int = 1

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
        ready = bool(past) and torch.equal(past[0].detach(), t.detach())
        points = [*past] if ready else [t, *past]
        usable = [point for point in points[: self.order] if finite(process, point)]
        weights = (C,) if len(usable) < 2 else self._weights(process, start, usable)
        if ready:
            return (Row(start, end, (), (A,), (weights,), fresh=False),)
        return (Row(start, end, (start,), (eye, A), ((), weights)),)

    def _weights(
        self, process: Process, start: Level, points: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the weights of the predictions at `points`, newest first, on the clean state.

        The integral is over the noise level rho (eps) or the angle (v), both as a fourth power, which
        smooths polynomials in log rho.
        """
        rho, data = start.root / start.signal, process.sigma_data
        p = variable_of_log_snr(core(self.rule).variable, data)
        nodes, weights = gauss_legendre(_NODES)
        if self.wants == "eps":
            length, levels = rho, rho.reshape(()) * nodes**4
        else:
            angle = torch.atan(rho / data)
            length, levels = data * angle, data * torch.tan(angle.reshape(()) * nodes**4)
        values = lagrange([p(process.clock(t)) for t in points], p(-levels.log()))
        return tuple(-length * (value * 4 * nodes**3 * weights).sum() for value in values)


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
