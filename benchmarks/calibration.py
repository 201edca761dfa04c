"""A plan fitted to one model against the default plan and diffusers' best schedulers.

On each fresh hard mixture (VP), and on the shipped networks, `rd.calibrate` fits `rd.best_plan`'s grid to
trajectories from its own noise; the plans are then scored as in the benchmark `solvers`, from noise
that no fit has seen. diffusers' figure is its oracle: the best of all its configurations for each
mixture, chosen after the fact. `pictures` compares Frechet distances of digits over sets of samples.
"""

import statistics
import time

import torch

import redrift as rd
from benchmarks import SEED, frechet
from benchmarks import _peers as peers
from benchmarks import _problems as problems
from benchmarks.__main__ import newest
from benchmarks.solvers import FIGURES, SHOWN, diffusers_best, mean, ours_with, rounded
from redrift.metrics import frechet_floor

BUDGETS = (5, 6, 8, 10, 12, 15, 20)
NETWORKS = {"digits": (5, 6, 8, 10, 15, 20), "cifar10": (5, 6, 8, 10)}
TRAJECTORIES = {"hard-vp": 512, "digits": 96, "cifar10": 256}  # of the fit
KINDS = {"best_plan": None, "calibrated": False, "calibrated, coefficients": True}


def run(quick):
    out = {"hard-vp": table("hard-vp", (6, 10) if quick else BUDGETS, quick)}
    if not quick:
        out["pictures"] = pictures()
    for name, budgets in NETWORKS.items():
        if not quick or name == "digits":
            out[name] = table(name, (6,) if quick else budgets, quick)
    return out


def run_parts(parts, before, facts):
    """Run some problems and take the others from a result."""
    peers.recall(newest("solvers")["result"])
    budgets, done = {"hard-vp": BUDGETS, **NETWORKS}, dict(before)
    for name in parts:
        found = pictures() if name == "pictures" else table(name, budgets[name], False)
        done[name] = {**found, "measured": facts}
    return done


def pictures(budgets=(6, 10), sets=5):
    """Return mean and standard error over sets of samples of the Frechet distance of digits.

    A set has as many samples as there are digits, with their labels. diffusers is the configuration with
    the smallest median defect in the newest result of `solvers`.
    """
    record, problem = newest("solvers")["result"], problems.problem("digits")
    images, labels = frechet.real_pictures("digits")
    features = frechet.classifier("digits").features
    seen, g = frechet.mapped(images, features), torch.Generator().manual_seed(SEED + 11)
    floor = rounded(frechet_floor(seen, strata=labels, generator=g))
    out = {"budgets": list(budgets), "samples": len(images), "sets": sets, "floor": floor}
    for budget in budgets:
        best = record["problems"]["digits"]["best"][record["budgets"].index(budget)]
        name = best["config"]["median"]
        config = next(c for c in peers.configs() if c.name == name)
        plans = {"best_plan": rd.best_plan(problem.model.process, budget),
                 "calibrated": fitted(problem, budget, False),
                 "60 evaluations": rd.best_plan(problem.model.process, 60)}  # fmt: skip
        rows = {key: [] for key in (*plans, name)}
        for _ in range(sets):
            noise = torch.randn(len(images), *problem.model.card["shape"], generator=g)
            drawn = {k: frechet.sampled(problem.model, p, noise, labels) for k, p in plans.items()}
            drawn[name] = frechet.imitated(problem.model, noise, labels, budget, config)
            for key, x in drawn.items():
                rows[key].append(frechet.frechet(frechet.mapped(x, features), seen))
        out[str(budget)] = {
            key: [rounded(statistics.mean(row)), rounded(statistics.stdev(row) / sets**0.5)]
            for key, row in rows.items()
        }
        print(f"pictures {budget}: {out[str(budget)]}", flush=True)
    return out


def table(name, budgets, quick):
    """Return the figures of each plan by budget, and diffusers' best beside them."""
    cases = parts(name, quick)
    rows = {kind: {figure: [] for figure in FIGURES} for kind in KINDS}
    rival = {figure: [] for figure in SHOWN}
    for budget in budgets:
        began = time.process_time()
        for kind, coefficients in KINDS.items():
            found = [ours_with(p, fitted(p, budget, coefficients)) for p in cases]
            for figure in FIGURES:
                values = [value for f in found for value in f[figure]]
                rows[kind][figure].append(rounded(mean(values)))
        best = diffusers_best(name, budget, quick)
        for figure in SHOWN:
            rival[figure].append(rounded(mean(best["oracle"][figure])))
        line = "  ".join(
            f"{kind} {rows[kind]['median'][-1]:.1e} / {rows[kind]['p90'][-1]:.1e}"
            for kind in KINDS
        )
        print(f"{name} {budget:3d}  diffusers {rival['median'][-1]:.1e} / {rival['p90'][-1]:.1e}  {line}"
              f"  ({time.process_time() - began:.0f} s)", flush=True)  # fmt: skip
    ratios = {
        kind: {f: [rounded(a / b) for a, b in zip(rival[f], rows[kind][f])] for f in SHOWN}
        for kind in KINDS
    }
    return {"budgets": list(budgets), "redrift": rows, "diffusers": rival, "ratios": ratios}


def parts(name, quick):
    """Return the problem, or one for each mixture, since each has a model of its own."""
    if name != "hard-vp":
        return [problems.problem(name, quick)]
    seeds = problems.SEEDS[: 2 if quick else 5]
    return [problems.mixture(problems.HARD, "vp", (s,), 256, name) for s in seeds]


def fitted(problem, budget, coefficients):
    """Return the default plan (coefficients None), or what calibration makes of it."""
    plan = rd.best_plan(problem.model.process, budget)
    if coefficients is None:
        return plan
    network, count = bool(problem.cond), TRAJECTORIES[problem.name]
    label = torch.arange(count, device=problem.model.device) % 10
    found = rd.calibrate(
        problem.model, plan, shape=problem.start.shape[1:], samples=count,
        cond={"label": label} if network else None, coefficients=coefficients,
        budget=100 * budget + 150, reference=150, batch_size=64 if problem.name == "cifar10" else None,
        dtype=torch.float32 if network else torch.float64,
        generator=torch.Generator().manual_seed(SEED + 7),
    )  # fmt: skip
    return found.plan


def plot(result, path):
    from matplotlib import pyplot

    result = {name: found for name, found in result.items() if name != "pictures"}
    figure, axes = pyplot.subplots(1, len(result), figsize=(4.2 * len(result), 3.6), squeeze=False)
    for axis, (name, found) in zip(axes[0], result.items(), strict=True):
        for style, kind in (("-", "median"), (":", "p90")):
            axis.loglog(found["budgets"], found["diffusers"][kind], style, color="0.35", lw=2,
                        label="diffusers, best of all" if style == "-" else None)  # fmt: skip
        for color, kind in zip(("C3", "C0", "C2"), KINDS):
            for figure_name, style in (("median", "-"), ("p90", ":")):
                values = found["redrift"][kind][figure_name]
                label = kind if style == "-" else None
                axis.loglog(found["budgets"], values, "o" + style, ms=3, color=color, label=label)
        axis.set(title=name, xlabel="evaluations")
        axis.set_xticks(found["budgets"], labels=map(str, found["budgets"]))
        axis.minorticks_off()
    axes[0][0].set_ylabel("defect: median, dotted p90")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
