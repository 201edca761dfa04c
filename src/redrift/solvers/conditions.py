r"""Exponential order conditions, evaluated on a table.

For dx/dlambda = -x + D with step h and z = -h, a method with stages c_i, weights b_i(z) and a_ij(z) is of
order p if, up to p,

$$\psi_j = \varphi_j(z) - \sum_k b_k \frac{c_k^{j-1}}{(j-1)!}, \qquad
  \psi_{j,i} = c_i^j \varphi_j(c_i z) - \sum_k a_{ik} \frac{c_k^{j-1}}{(j-1)!}$$

vanish: order 2 needs psi_1 = psi_2 = psi_{1,i} = 0, order 3 also sum b_i J psi_{2,i} = 0 and, in the weak
form, psi_3(0) = 0. A linear test problem cannot see the last two. Earlier predictions are stages with
negative c.

Papers: Hochbruck and Ostermann, SIAM J. Numer. Anal. 43 (2005); RES, arXiv:2308.02157.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from redrift._core.quadrature import phi
from redrift.process import EDM
from redrift.solvers.row import Row, Rule

_LEVELS = 6  # of the extrapolation to h = 0


class Conditions(NamedTuple):
    """Residuals of the order conditions at one step size.

    Attributes:
        psi1: of the constant; 0 for every method here.
        psi2: of the slope; 0 for order 2 at this step size, not only in the limit.
        psi3: of the curvature, in the strong form.
        psi3_limit: the same at h = 0, the weak form: 0 for order 3.
        stage: largest |psi_{1,i}|.
        coupled: sum b_i psi_{2,i}: 0 for order 3.
    """

    psi1: float
    psi2: float
    psi3: float
    psi3_limit: float
    stage: float
    coupled: float


def conditions(rule: Rule, *, h: float = 1.0, past: Sequence[float] = ()) -> Conditions:
    """Evaluate the order conditions of a rule's step in the reading x0.

    Args:
        rule: of a plan that wants x0, such as `rd.res(...).rule`.
        h: length of the step in log-SNR, > 0.
        past: positions of the history, newest first, in steps: -1 is one step back.

    Raises:
        ValueError: if h is not positive.

    Example:
        >>> from redrift.solvers.exprk import RungeKutta
        >>> abs(conditions(RungeKutta(2)).psi2) < 1e-12
        True
        >>> abs(conditions(RungeKutta(2, weights="dpmpp")).psi2) > 0.01
        True
    """
    if not h > 0:
        raise ValueError(f"h must be positive, got {h}.")
    c, a, b = _tableau(rule, h, past)
    psi = [_psi(j, 1.0, -h, b, c) for j in (1, 2, 3)]
    stages = range(1, len(a))
    stage = max((abs(_psi(1, c[i], -c[i] * h, a[i], c)) for i in stages), default=0.0)
    coupled = sum(b[i] * _psi(2, c[i], -c[i] * h, a[i], c) for i in stages)
    # residuals are smooth in h: Neville's scheme carries them to h = 0
    steps = [0.5**i for i in range(_LEVELS)]
    values = [_psi(3, 1.0, -s, *_weights(rule, s, past)) for s in steps]
    for level in range(1, _LEVELS):
        values = [
            (steps[i] * values[i + 1] - steps[i + level] * values[i])
            / (steps[i] - steps[i + level])
            for i in range(len(values) - 1)
        ]
    return Conditions(psi[0], psi[1], psi[2], values[0], stage, coupled)


def _psi(j: int, c: float, z: float, weights: Sequence[float], nodes: Sequence[float]) -> float:
    total = sum(w * n ** (j - 1) for w, n in zip(weights, nodes, strict=False))
    return c**j * float(phi(j, z)) - total / math.factorial(j - 1)


def _weights(rule: Rule, h: float, past: Sequence[float]) -> tuple[list[float], list[float]]:
    c, _, b = _tableau(rule, h, past)
    return b, c


def _tableau(
    rule: Rule, h: float, past: Sequence[float]
) -> tuple[list[float], list[list[float]], list[float]]:
    """Return c, a, b of the rule's step, the history's positions after the stages'."""
    process = EDM()
    time = lambda c: torch.exp(torch.tensor(-c * h, dtype=torch.float64))  # noqa: E731
    history = [time(c) for c in past]
    rows = rule(process, history, time(0.0), time(1.0), left=1)
    row: Row = rows[0]
    c = [float(process.clock(level.t)) / h for level in row.asks] + list(past)
    stages = len(row.asks)

    def spread(entries: Sequence[Tensor | None], own: int) -> list[float]:
        values = [0.0 if e is None else float(e) / h for e in entries]
        return values[:own] + [0.0] * (stages - own) + values[own:]

    a = [spread(row.C[s], s) for s in range(stages)]
    return c, a, spread(row.C[-1], stages)
