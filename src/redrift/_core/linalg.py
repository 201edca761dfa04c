"""Small tables acting on large states.

A table has shape (*modes, k, k), or (B, *modes, k, k) for one per sample; it is float64 and lives
on the CPU. A state has shape (B, *shape) if k == 1, else (B, k, *shape), and `modes` are the last
axes of `shape`. k == 1 without modes is the common case and runs on Python floats.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def inverse(table: Tensor) -> Tensor:
    """Invert each k-by-k block; k = 1 and 2 in closed form."""
    k = table.shape[-1]
    if k == 1:
        return 1 / table
    if k == 2:
        a, b, c, d = table[..., 0, 0], table[..., 0, 1], table[..., 1, 0], table[..., 1, 1]
        top, bottom = torch.stack((d, -b), -1), torch.stack((-c, a), -1)
        return torch.stack((top, bottom), -2) / (a * d - b * c)[..., None, None]
    return torch.linalg.inv(table)


def product(*tables: Tensor) -> Tensor:
    """Multiply tables from left to right; plain multiplication for k = 1."""
    result = tables[0]
    for table in tables[1:]:
        result = result * table if _plain(result) and _plain(table) else result @ table
    return result


def transpose(table: Tensor) -> Tensor:
    """Transpose each block."""
    return table if _plain(table) else table.transpose(-1, -2)


def _plain(table: Tensor) -> bool:
    return table.shape[-1] == 1 and table.shape[-2] == 1


def number(table: Tensor | float) -> Tensor | float:
    """Return a table of a single number as a float, unless it is differentiated; others as given."""
    if not isinstance(table, Tensor) or table.numel() > 1 or table.requires_grad:
        return table
    return float(table)


def apply(table: Tensor | float, z: Tensor, modes: tuple[int, ...] = ()) -> Tensor:
    """Multiply the state by the table: (B, *shape) or (B, k, *shape), same shape back."""
    table = number(table)
    if not isinstance(table, Tensor):
        return z * table
    k, batched = table.shape[-1], table.ndim == len(modes) + 3
    if k == 1:
        factor = table[..., 0, 0].to(z)
        lead = z.ndim - len(modes) - 1
        if batched:
            factor = factor.reshape(factor.shape[0], *[1] * lead, *modes)
        return z * factor
    matrix = table.to(z)
    if not modes and not batched:
        return torch.einsum("ij,bj...->bi...", matrix, z)
    if batched:
        gap = z.ndim - 2 - len(modes)
        matrix = matrix.reshape(matrix.shape[0], *[1] * gap, *modes, k, k)
    return (matrix @ z.movedim(1, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, 1)


def combine(
    terms: Iterable[tuple[Tensor | float | None, Tensor]], modes: tuple[int, ...] = ()
) -> Tensor:
    """Sum table times state over `terms`; a None table is an absent term (0 * NaN is NaN).

    The result is new memory: no state is changed.
    """
    out: Tensor | None = None
    for table, state in terms:
        if table is None:
            continue
        weight = table if type(table) is float else number(table)  # most are: no call for those
        if out is None:
            out = state * weight if type(weight) is float else apply(weight, state, modes)
        elif type(weight) is float and not out.requires_grad:
            out.add_(state, alpha=weight)
        else:
            out = out + apply(weight, state, modes)
    if out is None:
        raise ValueError("a row needs at least one coefficient")
    return out
