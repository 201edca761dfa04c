r"""Distances between empirical laws that need no fit: along lines, and between all pairs.

On a line the optimal plan joins equal quantiles, $W_p^p = \int_0^1 |F^{-1}(u) - G^{-1}(u)|^p\,du$, which
is exact by sorting. The sliced distance averages it over directions. The energy distance compares
mean distances between pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.rng import normal


def wasserstein_1d(x: Tensor, y: Tensor, *, order: int = 2) -> Tensor:
    r"""Return the exact distance $W_p$ of empirical laws on the line, one for each column.

    Args:
        x: (N, ...) samples; the trailing axes are separate problems.
        y: (M, ...) samples, trailing axes as x.
        order: p, >= 1.

    Returns:
        (...) distances, float64.

    Raises:
        ValueError: if a set is empty or the trailing axes differ.

    Cost: one sort of each set.

    Example:
        >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([4.0, 3.0]))
        tensor(3., dtype=torch.float64)
    """
    _same(x, y)
    return _powers(x.double(), y.double(), whole("order", order)) ** (1 / order)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    projections: int = 256,
    order: int = 2,
    generator: torch.Generator | None = None,
) -> float:
    r"""Return the sliced distance $(E_\theta\,W_p^p(\theta^\top x, \theta^\top y))^{1/p}$.

    Args:
        x: (N, ...) samples, flattened to (N, d).
        y: (M, ...) samples.
        projections: directions, uniform on the sphere; the error of their mean falls as 1 / sqrt.
        order: p, >= 1.
        generator: of the directions; None is the global one.

    Returns:
        the distance, float64. For d > 1 it is smaller than $W_p$, for p = 2 at most
        $W_2 / \sqrt d$.

    Raises:
        ValueError: if a set is empty or the samples differ in shape.

    Cost: `projections` products with the data and sorts; (N + M) * projections doubles of memory.

    Example:
        >>> x = torch.arange(6.0).reshape(3, 2)
        >>> sliced_wasserstein(x, x)
        0.0
    """
    _same(x, y)
    order = whole("order", order)
    x, y = x.double().reshape(len(x), -1), y.double().reshape(len(y), -1)
    shape = (x.shape[1], whole("projections", projections))
    lines = normal(shape, generator, dtype=torch.float64, device=x.device)
    lines = lines / lines.norm(dim=0)
    return float(_powers(x @ lines, y @ lines, order).mean() ** (1 / order))


def energy_distance(x: Tensor, y: Tensor, *, block: int = 2048) -> float:
    r"""Return the energy distance $2 E|X - Y| - E|X - X'| - E|Y - Y'|$ of two empirical laws.

    It is the square of a metric: 0 only for equal laws, and larger by about (a mean distance) *
    (1/N + 1/M) than for the laws the samples come from.

    Args:
        x: (N, ...) samples, flattened to (N, d).
        y: (M, ...) samples.
        block: rows whose distances are held at once.

    Raises:
        ValueError: if a set is empty or the samples differ in shape.

    Cost: (N + M)^2 distances in d dimensions, `block` * max(N, M) doubles of memory.

    Example:
        >>> energy_distance(torch.tensor([0.0]), torch.tensor([3.0]))
        6.0
    """
    _same(x, y)
    x, y = x.double().reshape(len(x), -1), y.double().reshape(len(y), -1)
    block = whole("block", block)
    value = 2 * _mean_distance(x, y, block) - _mean_distance(x, x, block)
    return max(0.0, value - _mean_distance(y, y, block))


def _same(x: Tensor, y: Tensor) -> None:
    if x.ndim < 1 or y.ndim < 1 or len(x) == 0 or len(y) == 0 or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            "x and y must be (N, ...) and (M, ...) with the same trailing axes and at least one "
            f"sample, got {tuple(x.shape)} and {tuple(y.shape)}."
        )


def _powers(x: Tensor, y: Tensor, order: int) -> Tensor:
    """Return W_p^p for each column of x (N, ...) and y (M, ...)."""
    x, y = x.sort(0).values, y.sort(0).values
    n, m = len(x), len(y)
    if n == m:
        return (x - y).abs().pow(order).mean(0)
    # the quantile functions are constant between the breaks i / n and j / m: whole numbers of 1 / nm
    breaks = torch.cat((torch.arange(n + 1) * m, torch.arange(1, m) * n)).unique()
    width = breaks.diff().to(x) / (n * m)
    left = breaks[:-1].to(x.device)
    gap = (x[left // m] - y[left // n]).abs().pow(order)
    return (gap * width.reshape(-1, *[1] * (x.ndim - 1))).sum(0)


def _mean_distance(x: Tensor, y: Tensor, block: int) -> float:
    """Return the mean distance over all pairs."""
    exact = "donot_use_mm_for_euclid_dist"  # the product form loses half the digits of small ones
    rows = x.split(block)
    total = sum(float(torch.cdist(part, y, compute_mode=exact).sum()) for part in rows)
    return total / (len(x) * len(y))
