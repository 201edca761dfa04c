"""A plan fitted to one model against the default plan and diffusers' best schedulers.

On each fresh hard mixture (VP), and on the shipped networks, `rd.calibrate` fits `rd.best_plan`'s grid to
trajectories from its own noise; the plans are then scored as in the benchmark `solvers`, from noise
that no fit has seen. diffusers' figure is its oracle: the best of all its configurations for each
mixture, chosen after the fact.
"""

import time

import torch

import redrift as rd
from benchmarks import SEED
from benchmarks import _problems as problems
from benchmarks.__main__ import newest
from benchmarks.solvers import FIGURES, SHOWN, diffusers_best, mean, ours_with, recall, rounded

BUDGETS = (5, 6, 8, 10, 12, 15, 20)
NETWORKS = {"digits": (5, 6, 8, 10, 15, 20), "cifar10": (6, 10)}
KINDS = {"best_plan": None, "calibrated": False, "calibrated, coefficients": True}


def run(quick):
    out = {"hard-vp": table("hard-vp", (6, 10) if quick else BUDGETS, quick)}
    for name, budgets in NETWORKS.items():
        if not quick or name == "digits":
            out[name] = table(name, (6,) if quick else budgets, quick)
    return out


def run_parts(parts, before, facts):
    """Run some problems and take the others from a result."""
    recall(newest("solvers")["result"])
    budgets = {"hard-vp": BUDGETS, **NETWORKS}
    done = {name: {**table(name, budgets[name], False), "measured": facts} for name in parts}
    return {name: done.get(name, before.get(name)) for name in budgets if name in {*done, *before}}


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
    network = bool(problem.cond)
    count = (32 if problem.name == "cifar10" else 96) if network else 512
    label = torch.arange(count, device=problem.model.device) % 10
    found = rd.calibrate(
        problem.model, plan, shape=problem.start.shape[1:], samples=count,
        cond={"label": label} if network else None, coefficients=coefficients,
        budget=(40 if problem.name == "cifar10" else 100) * budget + 150, reference=150,
        dtype=torch.float32 if network else torch.float64,
        generator=torch.Generator().manual_seed(SEED + 7),
    )  # fmt: skip
    return found.plan


def plot(result, path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(result), figsize=(4.2 * len(result), 3.6), squeeze=False)
    for axis, (name, found) in zip(axes[0], result.items(), strict=True):
        axis.loglog(found["budgets"], found["diffusers"]["median"], color="0.35", lw=2,
                    label="diffusers, best of all")  # fmt: skip
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
