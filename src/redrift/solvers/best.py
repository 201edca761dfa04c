r"""One documented default per budget.

Below 50 evaluations the grid matters more than the method. The defaults are Adams plans on the noise with
polynomials in the flattened log noise level (`variable="softlog"`): on the noise, because the errors of a
network are carried on at their own size and guidance does not blow up, and in that variable, because it
meets narrow modes and wide data alike. Their time grids are fitted by `training/best_plan.py` to mixtures
of several kinds, guided and not, to predictions with errors and to networks, with a loss half of which
is the worst tenth. Budgets between the fitted ones take a grid between theirs.

The grids were fitted for three ranges of sigma / alpha: 150 to .01 (discrete models of pixels), 80 to .002
(EDM) and 14.6 to .03 (latent models). A process takes the nearest, stretched to its own ends, but a run
never starts above the level that the grid was fitted for: what is higher is noise all the same, and a
network's errors there would be amplified. `redrift.calibration` fits a grid to your own network.
"""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from redrift._core.errors import whole
from redrift.process import Process, ScalarProcess, timegrid
from redrift.process.grids import vp_time
from redrift.solvers.ends import End
from redrift.solvers.fractions import grid_of_fractions
from redrift.solvers.multistep import deis
from redrift.solvers.plan import Plan
from redrift.solvers.registry import solver

# sigma / alpha at both ends of the fitted grids
_RANGES = {"vp": (150.0, 0.01), "edm": (80.0, 0.002), "latent": (14.6, 0.03)}
_NEAR = 0.7  # of log-SNR: a start that is as near to the top has the whole grid
_REST = 20  # budget whose curve tells how many steps lie above a start
_TOP = {"vp": 150.0, "edm": 80.0, "latent": 50.0}  # where their runs start at most


@functools.lru_cache(maxsize=1)
def _fitted() -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads(files("redrift.solvers").joinpath("best.json").read_text("utf-8"))


@solver("best")
def best_plan(
    process: Process,
    evaluations: int,
    *,
    start: float | None = None,
    stop: float | None = None,
    end: End = "min",
) -> Plan:
    """Build the recommended deterministic plan for a budget of evaluations.

    Args:
        process: the law. Processes without a single noise level get DEIS on their default grid.
        evaluations: budget, >= 1; all of it is used.
        start: first time; None takes the process's default, or where that is higher the level that the
            grid serves (sigma / alpha 150; 80 for EDM's range).
        stop: last time.
        end: "min", "zero" or "denoise" (out of the same budget), see `Plan.build`.

    Raises:
        ValueError: if the budget is below 1 (2 to denoise) or the times are out of range.

    Example:
        >>> from redrift.process import VP
        >>> best_plan(VP(), 10).evaluations
        10
    """
    budget = whole("evaluations", evaluations, least=2 if end == "denoise" else 1)
    budget -= end == "denoise"
    if not isinstance(process, ScalarProcess):
        order = min(3, budget)
        return deis(process, timegrid(process, budget, start=start, stop=stop), order=order,
                    startup=False, end=end)  # fmt: skip
    ends = timegrid(process, 1, start=start, stop=stop)
    levels = [math.exp(-float(w)) for w in process.clock(ends).clamp(-50, 50)]
    kind = min(_RANGES, key=lambda name: _distance(levels, _RANGES[name]))
    first, last = (float(t) for t in ends)
    loudest = _TOP[kind]
    if start is None and levels[0] > loudest:
        first = float(process.unclock(torch.tensor(-math.log(loudest), dtype=torch.float64)))
    passed = 0.0 if start is None else _passed(process, first, last, _RANGES[kind])
    method, covered = _between(_fitted()[kind], budget, passed)
    times = grid_of_fractions(process, torch.from_numpy(np.diff(covered)), (first, last))
    return deis(process, times, variable="softlog", startup=False, end=end, **method)


def _passed(process: ScalarProcess, first: float, last: float, ends: tuple[float, float]) -> float:
    """Return the share of the fitted coordinate that lies above a start; none where it is near the top."""
    top = -torch.tensor(ends[0], dtype=torch.float64).log()
    clocks = process.clock(torch.tensor([first, last], dtype=torch.float64))
    if float(clocks[0] - top) < _NEAR:
        return 0.0
    root, begun, ended = vp_time(torch.stack((top, *clocks))).sqrt().tolist()
    return min((root - begun) / (root - ended), 1 - 1e-6)


def best_method(steps: int) -> dict[str, Any]:
    """Return the order of the fitted plan of so many steps, and whether it is corrected."""
    return _between(_fitted()["vp"], max(steps, 1))[0]


def _distance(levels: list[float], fitted: tuple[float, float]) -> float:
    """Return how far ends are from fitted ones in log noise; no run starts above the highest."""
    top, bottom = min(levels[0], _RANGES["vp"][0]), levels[1]
    return abs(math.log(top / fitted[0])) + abs(math.log(bottom / fitted[1]))


def _between(
    table: dict[str, dict[str, Any]], budget: int, passed: float = 0.0
) -> tuple[dict[str, Any], Any]:
    """Return the method and the covered share of the coordinate at each node.

    The fitted curves, share covered against share of steps taken, are mixed linearly in the log of the
    budget; where the methods differ, the lower budget's row serves up to the higher one, and outside the
    fitted budgets the nearest serve. Where a share of the coordinate has been passed, the rest of the
    curve of a longer run serves.
    """
    share = 0.0
    if passed:
        fine = np.linspace(0, 1, 1001)
        curve = monotone_curve(table[str(_REST)]["fractions"], fine)
        share = float(np.interp(passed, curve, fine))
    length = max(round(budget / (1 - share)), budget) if share < 1 else budget
    method, covered = _mixed(table, min(length, 10 * budget), np.linspace(share, 1, budget + 1))
    covered = (covered - covered[0]) / (covered[-1] - covered[0])
    covered[0], covered[-1] = 0.0, 1.0
    method["order"] = min(method["order"], budget)
    return method, covered


def _mixed(
    table: dict[str, dict[str, Any]],
    budget: int,
    u: Any,  # noqa: ANN401
) -> tuple[dict[str, Any], Any]:
    """Return the method of a budget and its curve at shares u of the steps."""
    known = sorted(int(key) for key in table)
    below = max((n for n in known if n <= budget), default=known[0])
    above = min((n for n in known if n >= budget), default=known[-1])
    method, other = (
        {name: value for name, value in table[str(n)].items() if name != "fractions"}
        for n in (below, above)
    )
    if method != other:
        above = below
    curves = [monotone_curve(table[str(n)]["fractions"], u) for n in (below, above)]
    mix = 0.0 if above == below else math.log(budget / below) / math.log(above / below)
    return method, (1 - mix) * curves[0] + mix * curves[1]


def monotone_curve(fractions: list[float], u: Any) -> Any:  # noqa: ANN401
    """Return the share covered after a share u of the steps, monotone cubic between the nodes."""
    nodes = np.linspace(0, 1, len(fractions) + 1)
    values = np.concatenate(([0.0], np.cumsum(fractions)))
    values /= values[-1]
    slopes = np.diff(values) / np.diff(nodes)
    inner = 2 * slopes[1:] * slopes[:-1] / (slopes[1:] + slopes[:-1])  # keeps it monotone
    tangent = np.concatenate((slopes[:1], inner, slopes[-1:]))
    i = np.clip(np.searchsorted(nodes, u, side="right") - 1, 0, len(fractions) - 1)
    h = nodes[1] - nodes[0]
    s = (u - nodes[i]) / h
    jump = values[i + 1] - values[i]
    a, b = tangent[i] * h, tangent[i + 1] * h
    return values[i] + s * (a + s * (3 * jump - 2 * a - b + s * (a + b - 2 * jump)))
