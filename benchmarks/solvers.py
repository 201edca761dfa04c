"""Accuracy against evaluations: redrift's plans beside every deterministic scheduler of diffusers.

The numerical defect of a sample is the root mean square over its coordinates of the distance to a
fine float64 solution from the same noise. For each budget of evaluations: its median, its 90th
percentile, and the share of samples that end in another mode (defect above 0.1), on exact mixtures
of a hard and a smooth kind (fresh seeds, VP and EDM), on the exact denoiser of scikit-learn's
digits and on the shipped networks. What the samples look like is the benchmark `frechet`.

Figures over seeds are geometric means. "best" is the configuration of diffusers with the smallest
figure over all seeds; "oracle" picks it anew for every seed, after the fact; "best by spacing" leaves
every option but the order, the spacing and the end at its default; "best with noise left" counts only
those that end at the smallest noise level, as plans do by default (a last step to zero noise meets a
finite data set exactly, so on it the others say nothing). A ratio is diffusers' oracle over redrift:
above 1, redrift is nearer. Every method starts on the exact trajectory at its own first level; "best
from plain noise" gives those that begin lower what a pipeline gives them, see `_noise`.

Parts: a problem's name; the name of a plan, such as best_plan, that plan anew; noise, "best from
plain noise" anew.
"""

import functools
import time

import redrift as rd
from benchmarks import _noise, _picture
from benchmarks import _peers as peers
from benchmarks import _problems as problems
from benchmarks._noise import mean

BUDGETS = (5, 6, 8, 9, 10, 12, 15, 20, 30, 50)
QUICK = (6, 10, 15, 20)
FINALISTS = 8  # of each figure and tier, where all ran on the smaller problem
FEW = 3  # where all ran on another problem
FIGURES = ("median", "p90", "flips")
SHOWN = ("median", "p90")
# which of diffusers' configurations compete
TIERS = {
    "best": "all",
    "best by spacing": "those with changed orders, spacings and ends alone",
    "best with noise left": "those that end at the smallest noise level, not at zero",
}

# name: the options of rd.plan_for; None is rd.best_plan
PLANS = {
    "best_plan": None,
    "DDIM": dict(solver="ddim"),
    "DEIS 2": dict(solver="deis", order=2),
    "DEIS 3": dict(solver="deis", order=3),
    "DEIS 4": dict(solver="deis", order=4),
    "DEIS 4, denoised": dict(solver="deis", order=4, end="denoise"),
    "DEIS 4, logsnr": dict(solver="deis", order=4, spacing="logsnr"),
    "DEIS 4, starter": dict(solver="deis", order=4, startup=True),
    "DEIS 4, no starter": dict(solver="deis", order=4, startup=False),
    "DEIS 4 in rho": dict(solver="deis", order=4, variable="rho"),
    "DEIS 2 in logrho": dict(solver="deis", order=2, variable="logrho"),
    "DEIS 3 in logrho, logsnr": dict(solver="deis", order=3, variable="logrho", spacing="logsnr"),
    "DEIS 2 on v": dict(solver="deis", order=2, wants="v"),
    "DEIS 4 on v": dict(solver="deis", order=4, wants="v"),
    "DEIS 3 on v, corrected": dict(solver="deis", order=3, wants="v", corrector=True),
    "iPNDM": dict(solver="ipndm"),
    "RES 2S": dict(solver="res", order=2),
    "RES 3S": dict(solver="res", order=3),
    "RES 2M, lower end": dict(
        solver="res", order=2, multistep=True, lower_final=True, startup=False
    ),
    "RES 2M, corrected, lower end": dict(
        solver="res", order=2, multistep=True, lower_final=True, startup=False, corrector=True
    ),
    "Krogstad": dict(solver="krogstad"),
    "rhoRK kutta3": dict(solver="rho_rk"),
    "Heun": dict(solver="heun"),
    "DPM++ 2M": dict(solver="dpmpp", order=2),
    "DPM++ 2S": dict(solver="dpmpp", order=2, single=True),
}
# on a network that takes a tenth of a second, and for pictures
LEADING = (
    *("best_plan", "DDIM", "DEIS 2", "DEIS 3", "DEIS 4", "DEIS 4, starter", "DEIS 4, no starter"),
    *("DEIS 2 in logrho", "RES 2S", "RES 3S", "DPM++ 2M", "DPM++ 2S"),
)


# ------------------------------------------------------------------ one method on one problem


def plan(process, budget: int, options: dict | None) -> rd.Plan:
    """Build a plan of at most `budget` evaluations."""
    made = rd.best_plan(process, budget) if options is None else None
    made = rd.plan_for(process, budget, **options) if made is None else made
    assert made.evaluations <= budget, (str(made), budget)
    return made


def ours(problem: problems.Problem, budget: int, options: dict | None) -> dict:
    """Return the figures of one plan, or why it has none."""
    try:
        return ours_with(problem, plan(problem.model.process, budget, options))
    except (AttributeError, TypeError, ValueError, rd.NumericalError) as error:
        return {"failure": f"{type(error).__name__}: {error}"[:160]}


def ours_with(problem: problems.Problem, made: rd.Plan) -> dict:
    """Return the figures of a plan."""
    process = problem.model.process
    here, there = (process.level(made.times[i]) for i in (0, -1))
    signal, rho = float(here.signal), float(here.root / here.signal)
    x = signal * problem.reference.at(rho)
    device = problem.model.device
    x = rd.sample(problem.model, made, x=x, cond=problem.cond, device=device)
    rho = float(there.root / there.signal)
    figures = problems.summary(problem.errors(x / float(there.signal), rho))
    return {"evaluations": made.evaluations, **figures}


def theirs(problem: problems.Problem, budget: int, config: peers.Config) -> dict:
    """Return the figures of one scheduler of diffusers, or why it has none."""
    found = peers.drive(config, problem.denoise, problem.reference.at, budget)
    if found.failure:
        return {"failure": found.failure}
    figures = problems.summary(problem.errors(found.x, found.rho))
    return {"evaluations": found.evaluations, "end": found.rho, **figures}


def ranked(scores: dict[str, dict], figure: str) -> list[str]:
    """Return the names whose runs succeeded, best first."""
    good = {name: mean(s[figure]) for name, s in scores.items() if "failure" not in s}
    return sorted(good, key=good.__getitem__)


@functools.cache
def cached(name: str, quick: bool) -> problems.Problem:
    return problems.problem(name, quick)


@functools.cache
def field(name: str, budget: int, quick: bool = False) -> dict[str, dict]:
    """Return the figures of all of diffusers' configurations by name.

    Where a problem has a screen, all run there and only the best of each figure and tier on the
    problem itself; the others are marked "screened" and hold the screen's figures. Where it is like
    another problem, the best there run here and the others not at all.
    """
    problem = cached(name, quick)
    todo = peers.configs(problem.schedule, quick)
    if problem.like:
        like = peers.EARLIER.get((problem.like, budget)) or field(problem.like, budget, quick)
        chosen = finalists(like, todo, FEW)
        scores = {c.name: {"failure": f"not run: behind on {problem.like}"} for c in todo}
    elif problem.screen:
        scores = {c.name: theirs(problem.screen, budget, c) for c in todo}
        chosen = finalists(scores, todo, FINALISTS)
        for row in scores.values():
            row["screened"] = True
    else:
        scores, chosen = {}, {c.name for c in todo}
    done = {c.name: theirs(problem, budget, c) for c in todo if c.name in chosen}
    return {**scores, **done}


def finalists(scores: dict[str, dict], todo: tuple, count: int) -> set[str]:
    """Return the names of the best few in each figure and tier."""
    ran = {n: s for n, s in scores.items() if "failure" not in s}
    plain = {c.name: ran[c.name] for c in todo if c.plain and c.name in ran}
    noisy = {n: s for n, s in ran.items() if s["end"] > 0}
    lists = [(some, figure) for some in (ran, plain, noisy) for figure in SHOWN]
    return {n for some, figure in lists for n in ranked(some, figure)[:count]}


def diffusers_best(problem: str, budget: int, quick: bool = False, tier: str = "best") -> dict:
    """Return the best figures that any of diffusers' configurations reaches.

    Args:
        problem: a name of `_problems.NAMES`.
        budget: most evaluations.
        quick: the few strongest configurations on two seeds.
        tier: a key of TIERS.

    Returns:
        "median" and "p90", geometric means over the seeds of the configuration that is best over
        all seeds, named by "config" {"median": ..., "p90": ...}; "oracle" {"median": [...], "p90":
        [...]}, for each seed the figure of whichever is best there; "flips" the smallest share in
        another mode.
    """
    plain = {c.name for c in peers.configs(cached(problem, quick).schedule, quick) if c.plain}
    scores = {
        name: s
        for name, s in field(problem, budget, quick).items()
        if "failure" not in s
        and "screened" not in s
        and (tier != "best by spacing" or name in plain)
        and (tier != "best with noise left" or s["end"] > 0)
    }
    out: dict = {"config": {}, "oracle": {}}
    for figure in SHOWN:
        winner = ranked(scores, figure)[0]
        out[figure], out["config"][figure] = mean(scores[winner][figure]), winner
        seeds = zip(*(s[figure] for s in scores.values()))
        out["oracle"][figure] = [min(column) for column in seeds]
    out["flips"] = min(mean(s["flips"]) for s in scores.values())
    return out


# ------------------------------------------------------------------ the whole benchmark


def run(quick: bool) -> dict:
    budgets = QUICK if quick else BUDGETS
    names = [n for n in problems.NAMES if n != "cifar10" or "cifar10" in shipped()]
    if quick:
        names = ["hard-vp", "hard-edm", "digits-empirical", "digits"]
    result: dict = {"budgets": list(budgets), "problems": {}}
    for name in names:
        start = time.perf_counter()
        result["problems"][name] = compare(name, budgets, quick)
        print(f"{name}: {time.perf_counter() - start:.0f} s\n{table(result, name)}", flush=True)
        cached(name, quick).__dict__.pop("reference", None)
    return result


def run_parts(parts: tuple[str, ...], before: dict, facts: dict) -> dict:
    """Run some problems, or parts of all, and take the rest and what is known of diffusers from a result."""
    known = ("noise", *PLANS, *problems.NAMES)
    unknown = sorted(set(parts) - set(known))
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}; there are {', '.join(known)}")
    peers.recall(before)
    done, budgets = dict(before["problems"]), tuple(before["budgets"])
    plans = [p for p in PLANS if p in parts]
    for name in done if plans or "noise" in parts else ():
        found, problem = done[name], recorded(name, done[name])
        found["redrift"] = {p: row for p, row in found["redrift"].items() if p in PLANS}
        found["ratios"] = {p: row for p, row in found["ratios"].items() if p in PLANS}
        for made in [p for p in plans if p in LEADING or not problem.like]:
            rows = [ours(problem, budget, PLANS[made]) for budget in budgets]
            ratios = {f: [ratio(b, r, f) for b, r in zip(found["best"], rows)] for f in SHOWN}
            found["redrift"][made], found["ratios"][made] = collect(rows), ratios
            print(name, made, found["redrift"][made], ratios, flush=True)
        if "noise" in parts:
            found[NOISE] = from_noise(problem, budgets, found)
            print(name, found[NOISE], flush=True)
    for name in [n for n in parts if n in problems.NAMES]:
        done[name] = {**compare(name, budgets, False), "measured": facts}
        print(table({**before, "problems": done}, name), flush=True)
    return {
        "budgets": before["budgets"],
        "problems": {n: done[n] for n in problems.NAMES if n in done},
    }


def recorded(name: str, found: dict) -> problems.Problem:
    """Return a problem with the samples of a record: a network's as many as another machine drew."""
    if name in ("digits", "cifar10"):
        return problems.trained(name, found["groups"], found["samples"])
    return problems.problem(name)


def shipped() -> list[str]:
    """Return the names of the shipped models."""
    import importlib

    return importlib.import_module("redrift.pretrained").names()


def compare(name: str, budgets: tuple[int, ...], quick: bool) -> dict:
    """Return every plan and every configuration of diffusers on one problem."""
    problem = cached(name, quick)
    runs = {
        plan_name: [ours(problem, budget, options) for budget in budgets]
        for plan_name, options in PLANS.items()
        if plan_name in LEADING or not problem.like
    }
    tiers = {tier: [diffusers_best(name, b, quick, tier) for b in budgets] for tier in TIERS}
    best = tiers["best"]
    fields = [field(name, budget, quick) for budget in budgets]
    ratios = {
        plan_name: {figure: [ratio(b, r, figure) for b, r in zip(best, rows)] for figure in SHOWN}
        for plan_name, rows in runs.items()
    }
    found = {
        "groups": problem.groups,
        "samples": len(problem.start) // problem.groups,
        "redrift": {plan_name: collect(rows) for plan_name, rows in runs.items()},
        **tiers,
        "ratios": ratios,
        "diffusers": {c: line([f[c] for f in fields]) for c in fields[0]},
    }
    return {**found, NOISE: from_noise(problem, budgets, found)}


NOISE = "best from plain noise"


def from_noise(problem: problems.Problem, budgets: tuple[int, ...], found: dict) -> list[dict]:
    """Return the best of diffusers from plain noise at each budget."""
    rows: list[dict] = [{} for _ in budgets]
    for name, cells in found["diffusers"].items():
        for i, row in enumerate(rows):
            text = {figure: cells[figure].split()[i] for figure in SHOWN}
            if not any(t == "-" or t[0] == "~" for t in text.values()):
                row[name] = {figure: float(t) for figure, t in text.items()}
    return [_noise.best(problem, b, row) for b, row in zip(budgets, rows)]


def ratio(best: dict, row: dict, figure: str) -> list[float] | None:
    """Return diffusers' oracle over a plan: mean, smallest and largest over the seeds."""
    if "failure" in row:
        return None
    each = [b / max(r, 1e-300) for b, r in zip(best["oracle"][figure], row[figure])]
    return [rounded(v) for v in (mean(each), min(each), max(each))]


def collect(rows: list[dict]) -> dict:
    """Turn one method's figures by budget into short lists, one a figure."""
    out: dict = {
        figure: [None if "failure" in r else rounded(mean(r[figure])) for r in rows]
        for figure in FIGURES
    }
    out["evaluations"] = [r.get("evaluations") for r in rows]
    failures = sorted({r["failure"] for r in rows if "failure" in r})
    return {**out, "failures": failures} if failures else out


def line(rows: list[dict]) -> dict:
    """Turn one configuration's figures by budget into one short text a figure.

    "-" is a run that failed, "~" marks a figure of the smaller problem.
    """

    def cell(row: dict, figure: str) -> str:
        if "failure" in row:
            return "-"
        return ("~" if "screened" in row else "") + f"{mean(row[figure]):.2g}"

    out: dict = {figure: " ".join(cell(r, figure) for r in rows) for figure in FIGURES}
    spent = [r.get("evaluations", 0) for r in rows]
    failures = sorted({r["failure"] for r in rows if "failure" in r})
    out["evaluations"] = " ".join(map(str, spent))
    return {**out, "failures": failures} if failures else out


def rounded(value: float) -> float:
    """Return three significant digits."""
    return float(f"{value:.3g}")


def table(result: dict, name: str) -> str:
    """Return the figures of one problem as text."""
    found, budgets = result["problems"][name], result["budgets"]
    lines = []
    for figure in FIGURES:
        lines.append(f"  {figure:34s}" + "".join(f"{b:>9d}" for b in budgets))
        tiers = (*TIERS, NOISE) if figure in SHOWN else TIERS
        rows = {f"diffusers, {tier}": [b[figure] for b in found[tier]] for tier in tiers}
        rows |= {plan_name: r[figure] for plan_name, r in found["redrift"].items()}
        for label, values in rows.items():
            cells = ("        -" if v is None else f"{v:9.1e}" for v in values)
            lines.append(f"  {label:34s}" + "".join(cells))
    for budget, best in zip(budgets, found["best"]):
        lines.append(f"  {budget:3d}  " + " | ".join(best["config"][f] for f in SHOWN))
    return "\n".join(lines)


def plot(result: dict, path: str) -> None:
    """Draw the defects against evaluations."""
    _picture.draw(result, path, SHOWN, tuple(TIERS))
