r"""Counting numbers: how often each region of a canvas enters the sum so that each site counts once.

A canvas u is covered by windows. Its law is modelled by $p(u) = \prod_r q(u_r)^{c_r}$ over regions r, so

$$s(u, t) = \sum_r c_r\, s_r(u_r, t), \qquad \sum_{r \ni i} c_r = 1 \text{ at every site } i.$$

    kikuchi      regions: the windows closed under (connected) intersection;
                 c_r = 1 - sum of c_s over the regions s that strictly contain r
    bethe        windows +1, and 1 - degree on each cell of sites with the same windows
    average      windows, at each site one over the number of its windows
    gaussian     windows, weighted by a bell around their middles
    independent  windows, each site belonging to the first one that covers it

Kikuchi and Bethe agree where no site has more than two windows. Beyond that, on any grid and for
overlaps of more than half a window, Bethe's rule is no density: use Kikuchi.

Papers: DiffCollage, arXiv:2303.17076 (Bethe); MultiDiffusion, arXiv:2302.08113 (average).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from redrift._core.errors import choose

_BELL = 0.25  # standard deviation of the Gaussian weights, in windows


@dataclass(frozen=True, eq=False)
class Region:
    """Sites of a canvas that one network call sees together.

    Attributes:
        index: (P,) flat sites of the canvas, row-major in the region's own box.
        shape: the box, P = prod(shape): what a network sees after the channels.
        weight: counting number, or one weight per site, (P,).
        owners: the windows that contain it; (i,) for window i itself.
        window: which window it is, or None for an overlap.
    """

    index: Tensor
    shape: tuple[int, ...]
    weight: float | Tensor
    owners: tuple[int, ...]
    window: int | None = None


@dataclass(eq=False)
class _Box:
    """A region on the way: sites as an array, and the windows that contain them."""

    index: np.ndarray
    shape: tuple[int, ...]
    owners: tuple[int, ...] = ()


def count(windows: Sequence[Region], sites: int, counting: str) -> tuple[Region, ...]:
    """Return the regions with their weights.

    Args:
        windows: at least one, covering every site.
        sites: number of sites of the canvas.
        counting: one of COUNTINGS.

    Raises:
        ValueError: for an unknown scheme, or an intersection that is no box of its windows.
    """
    return COUNTINGS[choose("counting", counting, COUNTINGS)](windows, sites)


def owners(windows: Sequence[Region], sites: int) -> np.ndarray:
    """Return the windows of each site, (sites, most), in order, filled up with -1."""
    degree = np.zeros(sites, dtype=np.int64)
    for window in windows:
        degree[window.index.numpy()] += 1
    table = np.full((sites, int(degree.max())), -1, dtype=np.int64)
    degree[:] = 0
    for i, window in enumerate(windows):
        where = window.index.numpy()
        table[where, degree[where]] = i
        degree[where] += 1
    return table


def near(box: np.ndarray, table: np.ndarray) -> list[int]:
    """Return the windows that share a site with the sites given."""
    found = np.unique(table[box])
    return [int(i) for i in found if i >= 0]


def _key(index: np.ndarray) -> bytes:
    return np.sort(index).tobytes()


def parts(box: np.ndarray, shape: tuple[int, ...], inside: np.ndarray) -> Iterator[_Box]:
    """Split the sites where `inside` holds into connected boxes.

    Args:
        box: (P,) sites, row-major in `shape`.
        shape: of the box.
        inside: (P,) which sites are meant.

    Raises:
        ValueError: if they are no union of boxes that a product of intervals gives.
    """
    mask, grid = inside.reshape(shape), box.reshape(shape)
    intervals: list[list[slice]] = []
    for axis in range(len(shape)):
        line = mask.any(axis=tuple(a for a in range(len(shape)) if a != axis))
        edges = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
        intervals.append([slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)])
    for piece in itertools.product(*intervals):
        block = mask[piece]
        if block.all():
            yield _Box(np.ascontiguousarray(grid[piece]).reshape(-1), block.shape)
        elif block.any():
            raise ValueError(
                "two windows meet in sites that form no box, which a network cannot see: shift "
                "the windows along one axis at a time, or use counting='average'."
            )


def closure(windows: Sequence[Region], sites: int) -> list[_Box]:
    """Return the windows and all their connected intersections, windows first.

    Raises:
        ValueError: if two windows have the same sites.
    """
    table = owners(windows, sites)
    mark = np.zeros(sites, dtype=bool)
    boxes = [_Box(w.index.numpy(), w.shape) for w in windows]
    found = {_key(box.index): i for i, box in enumerate(boxes)}
    if len(found) < len(windows):
        first = [found[_key(box.index)] for box in boxes]
        i = next(i for i, j in enumerate(first) if i != j)
        raise ValueError(f"windows {i} and {first[i]} cover the same sites; drop one of them.")
    for box in boxes:  # grows
        holds: list[int] = []
        for j in near(box.index, table):
            mark[boxes[j].index] = True
            inside = mark[box.index]
            mark[boxes[j].index] = False
            if inside.all():
                holds.append(j)
                continue
            for part in parts(box.index, box.shape, inside):
                key = _key(part.index)
                if key not in found:
                    found[key] = len(boxes)
                    boxes.append(part)
        box.owners = tuple(holds)
    return boxes


def _kikuchi(windows: Sequence[Region], sites: int) -> tuple[Region, ...]:
    """Return the closure under intersection with Moebius counting numbers; zeros are dropped."""
    boxes = closure(windows, sites)
    mark = np.zeros(sites, dtype=bool)
    inner: list[list[int]] = [[] for _ in windows]  # regions done so far within each window
    numbers: dict[int, int] = {}
    for i in sorted(range(len(boxes)), key=lambda i: -len(boxes[i].index)):
        box = boxes[i]
        above = {j for window in box.owners for j in inner[window]}
        total = 0
        for j in above:
            mark[boxes[j].index] = True
            if mark[box.index].all():
                total += numbers[j]
            mark[boxes[j].index] = False
        numbers[i] = 1 - total
        for window in box.owners:
            inner[window].append(i)
    return tuple(
        _region(box, float(numbers[i]), i if i < len(windows) else None)
        for i, box in enumerate(boxes)
        if numbers[i] != 0 or i < len(windows)
    )


def _bethe(windows: Sequence[Region], sites: int) -> tuple[Region, ...]:
    """Return the windows and, at 1 - degree, the cells of sites that share their windows."""
    table = owners(windows, sites)
    found = [Region(w.index, w.shape, 1.0, (i,), i) for i, w in enumerate(windows)]
    kinds, which = np.unique(table, axis=0, return_inverse=True)
    which = which.reshape(-1)
    for kind, row in enumerate(kinds):
        held = tuple(int(i) for i in row if i >= 0)
        if len(held) < 2:
            continue
        first = windows[held[0]]
        index = first.index.numpy()
        for part in parts(index, first.shape, which[index] == kind):
            part.owners = held
            found.append(_region(part, 1.0 - len(held), None))
    return tuple(found)


def _region(box: _Box, weight: float, window: int | None) -> Region:
    held = box.owners if window is None else (window,)
    return Region(torch.from_numpy(box.index.copy()), box.shape, weight, held, window)


def _weighted(
    windows: Sequence[Region], sites: int, weigh: Callable[[int, Region], Tensor]
) -> tuple[Region, ...]:
    """Return the windows with weights per site that are normalised to one."""
    raw = [weigh(i, window) for i, window in enumerate(windows)]
    total = torch.zeros(sites, dtype=torch.float64)
    for window, weight in zip(windows, raw, strict=True):
        total.index_add_(0, window.index, weight)
    return tuple(
        Region(window.index, window.shape, weight / total[window.index], (i,), i)
        for i, (window, weight) in enumerate(zip(windows, raw, strict=True))
    )


def _average(windows: Sequence[Region], sites: int) -> tuple[Region, ...]:
    """Return the windows at one over the degree."""
    return _weighted(windows, sites, lambda i, w: torch.ones(len(w.index), dtype=torch.float64))


def _gaussian(windows: Sequence[Region], sites: int) -> tuple[Region, ...]:
    """Return the windows under a bell a quarter of a window wide."""

    def bell(_: int, window: Region) -> Tensor:
        axes = [
            ((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / (n * _BELL)) ** 2
            for n in window.shape
        ]
        energy = sum(a.reshape(-1, *[1] * (len(axes) - i - 1)) for i, a in enumerate(axes))
        return torch.exp(-torch.as_tensor(energy) / 2).expand(window.shape).reshape(-1)

    return _weighted(windows, sites, bell)


def _independent(windows: Sequence[Region], sites: int) -> tuple[Region, ...]:
    """Return the windows, each site in the first one only."""
    first = torch.from_numpy(owners(windows, sites)[:, 0].copy())
    return _weighted(windows, sites, lambda i, w: (first[w.index] == i).double())


COUNTINGS: dict[str, Callable[[Sequence[Region], int], tuple[Region, ...]]] = {
    "kikuchi": _kikuchi,
    "bethe": _bethe,
    "average": _average,
    "gaussian": _gaussian,
    "independent": _independent,
}


def junction_tree(windows: Sequence[Region], sites: int) -> bool:
    r"""Return whether the windows are the cliques of a junction tree.

    They are if and only if the heaviest spanning forest, weighted by the size of the
    intersections, has $\sum_{edges} |S| = \sum_{windows} |W| - |sites|$.
    """
    table = owners(windows, sites)
    mark = np.zeros(sites, dtype=bool)
    pairs: list[tuple[int, int, int]] = []
    for i, window in enumerate(windows):
        mark[window.index.numpy()] = True
        others = near(window.index.numpy(), table)
        pairs += [(int(mark[windows[j].index.numpy()].sum()), i, j) for j in others if j > i]
        mark[window.index.numpy()] = False
    root = list(range(len(windows)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    kept = 0
    for size, i, j in sorted(pairs, reverse=True):
        a, b = find(i), find(j)
        if a != b:
            root[a] = b
            kept += size
    return kept == sum(len(window.index) for window in windows) - sites
