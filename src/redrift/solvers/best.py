r"""One documented default per budget.

Below 50 evaluations the grid matters more than the method: the defaults are Adams plans on v in the
angle, whose kernel is bounded at both ends, on time grids fitted offline by `training/best_plan.py`
to mixtures of several kinds and dimensions and, on VP, to networks, with a loss half of which is the
worst tenth. At 5 to 7 evaluations a run that starts near sigma / alpha = 150 asks its first question
ahead, at 22 (see `solvers.multistep`), on grids of its own. From 17 the plans are corrected (UniC,
order 3) at high noise, which a network's roughness needs, and not at low noise, where narrow modes and
finite data sets do not stand it on coarse grids: above the level .4 at 17, .1 at 20, .05 at 30, and
everywhere from 50. Budgets between the fitted ones take grid and level between theirs. Each row of
`best.json` says what it was fitted to; those marked "mixed" are means of fitted curves.

The grids were fitted for sigma / alpha from 150 to .01 (discrete VP models) and from 80 to .002 (EDM)
and are stretched to other ends, but for those that ask ahead. `redrift.calibration` fits a grid to
your own network.
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
from redrift.solvers.ends import End
from redrift.solvers.fractions import grid_of_fractions
from redrift.solvers.multistep import deis
from redrift.solvers.plan import Plan
from redrift.solvers.registry import solver

_LEVELS = {"vp": 0.01, "edm": 0.002}  # sigma / alpha at the end of the fitted grids
# evaluations for which the grids that ask ahead serve, and sigma / alpha at the start
_AHEAD, _NEAR = range(5, 8), (100.0, 250.0)


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
        start: first time; None takes the process's default.
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
    first, last = (math.exp(-float(w)) for w in process.clock(ends).clamp(-50, 50))
    kind = min(_LEVELS, key=lambda name: abs(math.log(last / _LEVELS[name])))
    if kind == "vp" and budget in _AHEAD and _NEAR[0] <= first <= _NEAR[1]:
        kind = "vp ahead"
    choice, covered = _between(_fitted()[kind], budget)
    shares = torch.from_numpy(np.diff(covered))
    times = grid_of_fractions(process, shares, (float(ends[0]), float(ends[1])))
    return deis(process, times, wants="v", startup=False, end=end, **choice)


def _between(table: dict[str, dict[str, Any]], budget: int) -> tuple[dict[str, Any], Any]:
    """Return the method and the covered share of the coordinate at each node.

    The fitted curves, share covered against share of steps taken, and the levels at which correctors
    stop are mixed linearly in the log of the budget; where the methods differ otherwise, the lower
    budget's serve up to the higher one, and outside the fitted budgets the nearest serve.
    """
    known = sorted(int(key) for key in table)
    below = max((n for n in known if n <= budget), default=known[0])
    above = min((n for n in known if n >= budget), default=known[-1])
    (choice, floor), (other, next_floor) = (_method(table[str(n)]) for n in (below, above))
    if choice != other:
        above, next_floor = below, floor
    u = np.linspace(0, 1, budget + 1)
    curves = [_curve(table[str(n)]["shares"], u) for n in (below, above)]
    mix = 0.0 if above == below else math.log(budget / below) / math.log(above / below)
    choice["order"] = min(choice["order"], budget)
    if choice["corrector"]:
        choice["corrector"] = (1 - mix) * floor + mix * next_floor or True
    covered = (1 - mix) * curves[0] + mix * curves[1]
    covered[0], covered[-1] = 0.0, 1.0
    return choice, covered


def _method(row: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Return the options of a row and the noise level at which its corrector stops, 0 for nowhere."""
    found = {name: row[name] for name in ("order", "corrector", "first_sigma") if name in row}
    level = found.get("corrector", False)
    return {**found, "corrector": bool(level)}, 0.0 if isinstance(level, bool) else level


def _curve(shares: list[float], u: Any) -> Any:  # noqa: ANN401
    """Return the share covered after a share u of the steps, monotone cubic between the nodes."""
    nodes = np.linspace(0, 1, len(shares) + 1)
    values = np.concatenate(([0.0], np.cumsum(shares)))
    values /= values[-1]
    slopes = np.diff(values) / np.diff(nodes)
    inner = 2 * slopes[1:] * slopes[:-1] / (slopes[1:] + slopes[:-1])  # keeps it monotone
    tangent = np.concatenate((slopes[:1], inner, slopes[-1:]))
    i = np.clip(np.searchsorted(nodes, u, side="right") - 1, 0, len(shares) - 1)
    h = nodes[1] - nodes[0]
    s = (u - nodes[i]) / h
    jump = values[i + 1] - values[i]
    a, b = tangent[i] * h, tangent[i + 1] * h
    return values[i] + s * (a + s * (3 * jump - 2 * a - b + s * (a + b - 2 * jump)))
