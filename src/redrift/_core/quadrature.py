r"""Gauss-Legendre nodes, Lagrange polynomials and the phi-functions of exponential integrators.

$\varphi_0(z) = e^z$, $\varphi_{k+1}(z) = (\varphi_k(z) - 1/k!)/z$, $\varphi_k(0) = 1/k!$. The
recurrence loses all digits near zero, so below |z| = 1 the Taylor series is summed instead.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_TAYLOR = 26  # terms: (1/26!) is far below the rounding of a double at |z| = 1


@functools.cache
def gauss_legendre(nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on [0, 1], float64; exact to polynomial degree 2 nodes - 1."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def lagrange(nodes: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """Evaluate the Lagrange basis of scalar `nodes` at `x` of shape (Q,): one (Q,) per node."""
    basis = []
    for j, own in enumerate(nodes):
        value = torch.ones_like(x)
        for i, other in enumerate(nodes):
            if i != j:
                value = value * ((x - other) / (own - other))
        basis.append(value)
    return basis


def phi(k: int, z: Tensor | float) -> Tensor:
    r"""Evaluate $\varphi_k(z)$ in float64, to a few ulp for every real z.

    Paper: RES, arXiv:2308.02157 (the phi-functions of its order conditions).
    """
    z = torch.as_tensor(z, dtype=torch.float64)
    if k == 0:
        return z.exp()
    small = z.abs() < 1
    inner = torch.where(small, z, torch.zeros_like(z))
    term = torch.full_like(z, 1 / math.factorial(k))
    series = torch.zeros_like(z)
    for m in range(_TAYLOR):
        series = series + term
        term = term * inner / (k + m + 1)
    outer = torch.where(small, torch.ones_like(z), z)
    value = torch.expm1(outer) / outer
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / outer
    return torch.where(small, series, value)
