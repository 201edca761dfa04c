r"""The orthonormal cosine transform (DCT-II) over the last axes, by one small matrix per axis.

$C_{kn} = \sqrt{2/N}\,\cos(\pi k (2n + 1) / 2N)$, the first row divided by $\sqrt 2$; $C^\top C = I$, so white
noise stays white.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


@functools.lru_cache(maxsize=64)
def matrix(size: int) -> Tensor:
    """Return the (size, size) transform, float64."""
    k = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * k[:, None] * (2 * k + 1) / (2 * size)) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def dct(x: Tensor, axes: int) -> Tensor:
    """Transform the last `axes` axes."""
    return _along(x, axes, transposed=False)


def idct(x: Tensor, axes: int) -> Tensor:
    """Invert `dct`."""
    return _along(x, axes, transposed=True)


def _along(x: Tensor, axes: int, *, transposed: bool) -> Tensor:
    for axis in range(-axes, 0):
        table = matrix(x.shape[axis]).to(x)
        table = table if transposed else table.T
        x = (x.movedim(axis, -1) @ table).movedim(-1, axis)
    return x
