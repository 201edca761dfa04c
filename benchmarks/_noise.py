"""diffusers' schedulers from plain noise at their own first level, as pipelines start them.

The benchmark `solvers` starts every method on the reference trajectory at its own first level. Some
spacings begin far below the highest noise ("leading" with 5 steps at sigma / alpha = 33), where the large
shapes of a picture are partly decided, and are given these for nothing. A pipeline gives them plain noise
there, and what they miss is part of their error.
"""

import contextlib
import io
import math
import warnings

from benchmarks import _peers as peers
from benchmarks import _problems as problems

FIGURES = ("median", "p90")
RERUN = 3  # of each figure, among those that begin lower
FULL = 0.9  # of the highest level counts as full


def first_level(config: peers.Config, budget: int) -> float:
    """Return the noise level at which a scheduler begins."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        scheduler = peers.prepared(config, budget)
    if config.state != "table":
        return float(scheduler.sigmas[0])
    kept = float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])])
    return math.sqrt((1 - kept) / kept)


def started(problem: problems.Problem, budget: int, config: peers.Config) -> dict:
    """Return the figures of a scheduler that is given plain noise."""

    def noise(rho: float) -> problems.Tensor:
        return problem.start * math.sqrt((1 + rho**2) / (1 + problem.top**2))

    found = peers.drive(config, problem.denoise, noise, budget)
    if found.failure:
        return {"failure": found.failure}
    return problems.summary(problem.errors(found.x, found.rho))


def mean(values: list[float]) -> float:
    """Return the geometric mean, the plain one where a value is zero."""
    if min(values) <= 0:
        return sum(values) / len(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def best(problem: problems.Problem, budget: int, figures: dict[str, dict]) -> dict:
    """Return the best figures of schedulers that are given plain noise, and whose they are.

    Args:
        problem: what is solved.
        budget: most evaluations.
        figures: of the schedulers started on the reference, by name: a number for each figure. It stands
            for those that begin at the highest level; the best few of the others run again.
    """
    known = {c.name: c for c in peers.configs(problem.schedule) if c.name in figures}
    low = {n for n, c in known.items() if first_level(c, budget) < FULL * problem.top}
    out: dict = {"config": {}}
    for figure in FIGURES:
        ranked = sorted(known, key=lambda n: figures[n][figure])
        scores = {n: figures[n][figure] for n in ranked if n not in low}
        for name in [n for n in ranked if n in low][:RERUN]:
            row = started(problem, budget, known[name])
            if figure in row:
                scores[name] = mean(row[figure])
        winner = min(scores, key=scores.__getitem__)
        out[figure], out["config"][figure] = float(f"{scores[winner]:.3g}"), winner
    return out
