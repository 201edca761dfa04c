"""Fit the default time grids of `rd.best_plan` and write them to src/redrift/solvers/best.json.

The training problems are mixtures of three kinds in several dimensions: narrow, smooth, and with the
spread of scales that pictures have, without which a grid skips the noise levels where their large
shapes are decided. A trained network, `textures` on small crops, keeps long grids from leaning on how
smooth exact denoisers are. The loss sees the tail. Held-out problems, printed at the end, take no part in
the fit; nor do the networks of the benchmark.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

import redrift as rd
from redrift._core.files import write_atomically
from redrift.denoise import GaussianMixture
from redrift.fitting import Trajectories, distances, fit_grid, follow
from redrift.solvers.best import _curve
from redrift.solvers.warp import warped

F64 = torch.float64
BUDGETS = (5, 6, 8, 10, 12, 15, 20, 30, 50)
# sigma / alpha at the ends of models in use, discrete VP and EDM, and the scale of their angle
RANGES = {"vp": (150.0, 0.01), "edm": (80.0, 0.002)}
ANGLE = {"vp": 1.0, "edm": 0.5}
NARROW, SMOOTH = (0.02, 0.15), (0.15, 0.35)
SPECTRUM = (0.03, 12.0)  # scales of the coordinates, as of the principal components of pictures
TRAIN = [(16, 8, NARROW, 11), (40, 32, NARROW, 13), (6, 3, NARROW, 14), (4, 8, SMOOTH, 15),
         (24, 48, SPECTRUM, 16), (12, 32, SPECTRUM, 17)]  # fmt: skip
HELD_OUT = [(16, 8, NARROW, 21), (16, 8, NARROW, 22), (40, 32, NARROW, 23), (4, 8, SMOOTH, 24),
            (24, 48, SPECTRUM, 25)]  # fmt: skip


def mixture(process, components, dim, width, seed):
    """Return a mixture of overall standard deviation one half, or with a spectrum of scales."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(components, generator=g, dtype=F64) + 0.3
    low, high = width
    if width == SPECTRUM:
        scale = high * (low / high) ** torch.linspace(0, 1, dim, dtype=F64)
        means = 0.6 * scale * torch.randn(components, dim, generator=g, dtype=F64)
        std = scale * (0.5 + 0.3 * torch.rand(components, dim, generator=g, dtype=F64))
        return GaussianMixture(weights, means, std, process)
    std = low * (high / low) ** torch.rand(components, dim, generator=g, dtype=F64)
    means = torch.randn(components, dim, generator=g, dtype=F64)
    share = (weights / weights.sum())[:, None]
    means = means - (share * means).sum(0)
    spread = (0.25 - (share * std**2).sum(0)).clamp_min(1e-4)
    means = means * (spread / (share * means**2).sum(0)).sqrt()
    return GaussianMixture(weights, means, std, process)


def trajectories(process, problem, ends, n, seed):
    """Return states of the marginal at the first time and their exact ends."""
    model = mixture(process, *problem)
    g = torch.Generator().manual_seed(seed)
    clean = model.sample(n, generator=g)
    first = clean + ends[0] * torch.randn(clean.shape, generator=g, dtype=F64)
    grid = rd.timegrid(process, 800, "logsnr", start=ends[0], stop=ends[1])
    with torch.no_grad():
        last = follow(model, rd.deis(process, grid, order=4, variable="logrho"), first)
    return Trajectories(model, first, last)


def network(process, ends, n, seed):
    """Return trajectories of the shipped textures, read under a process whose time is sigma / alpha."""
    vp = rd.pretrained("textures")
    label = torch.arange(n) % vp.card["classes"]

    def told(x, t):
        with vp.begin(label=label) as run:
            time = run.process.unclock(-t[0].double().log())
            z = (x * run.process.alpha(time)).float()
            return run.ask(z, run.process.level(time), "x0").to(x)

    model = rd.Denoiser(told, process, "x0")
    g = torch.Generator().manual_seed(seed)
    first = ends[0] * torch.randn(n, 3, 16, 16, generator=g, dtype=F64)
    grid = rd.timegrid(process, 150, "logsnr", start=ends[0], stop=ends[1])
    with torch.no_grad():
        last = follow(model, rd.deis(process, grid, order=3, variable="logrho"), first)
    return Trajectories(model, first, last)


def builder(order):
    """Return the function from process and times to a plan."""
    return lambda process, times: rd.deis(process, times, order=order, wants="v", starter=False)


def score(build, tasks, times):
    """Return the median and the 90th percentile of each task's error."""
    with torch.no_grad():
        plan = build(tasks[0].model.process, times)
        errors = [distances(follow(t.model, plan, t.first), t.last) for t in tasks]
    return [(float(e.median()), float(e.quantile(0.9))) for e in errors]


def show(name, scores):
    """Print geometric means over tasks."""

    def mean(i):
        return math.exp(sum(math.log(s[i]) for s in scores) / len(scores))

    return f"{name} {mean(0):.1e} / {mean(1):.1e}"


def fit(process, ends, train, budget, earlier, known, options):
    """Fit a budget from the grid known, or from the even one and the curve of the budget before."""
    starts = [torch.ones(budget, dtype=F64) if known is None else torch.tensor(known, dtype=F64)]
    if earlier is not None and known is None:
        curve = _curve(earlier, np.linspace(0, 1, budget + 1))
        starts.append(torch.from_numpy(np.diff(curve)))
    iterations = options.iterations if budget < 20 else options.iterations // 2
    found = []
    for order in (3, 4) if budget <= 10 else (4,):
        for shares in starts if budget < 20 else starts[-1:]:
            fitted = fit_grid(builder(order), train, shares, ends, iterations=iterations)
            scores = score(builder(order), train, warped(process, fitted, ends))
            found.append((sum(math.log(m) + math.log(p) for m, p in scores), order, fitted))
    return min(found, key=lambda entry: entry[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--resume", action="store_true", help="start from the grids there are")
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    parser.add_argument("--ranges", nargs="*", default=list(RANGES))
    parser.add_argument("--out", type=Path, default=Path("src/redrift/solvers/best.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = json.loads(options.out.read_text()) if options.out.exists() else {}
    for kind in options.ranges:
        process, ends = rd.EDM(ANGLE[kind], RANGES[kind][0]), RANGES[kind]
        train = [trajectories(process, p, ends, options.samples, 1) for p in TRAIN]
        held_out = [trajectories(process, p, ends, 256, 2) for p in HELD_OUT]
        if kind == "vp":
            train.append(network(process, ends, 12, 3))
            held_out.append(network(process, ends, 12, 4))
        rows, earlier = dict(table.get(kind, {})) if options.resume else {}, None
        for budget in options.budgets:
            began = time.time()
            known = table.get(kind, {}).get(str(budget)) if options.resume else None
            shares = known and known["shares"]
            _, order, fitted = fit(process, ends, train, budget, earlier, shares, options)
            earlier = [round(float(s), 6) for s in fitted]
            rows[str(budget)] = {"order": order, "shares": earlier}
            even = score(builder(order), held_out,
                         warped(process, torch.ones(budget, dtype=F64), ends))  # fmt: skip
            after = score(builder(order), held_out, warped(process, fitted, ends))
            parts = ", ".join(f"{m:.1e} / {p:.1e}" for m, p in (after[0], *after[4:]))
            print(f"{kind} {budget:3d} order {order}  held out: {show('quadratic', even)}  "
                  f"{show('fitted', after)}  narrow, spectrum, network {parts}  "
                  f"({time.time() - began:.0f} s)",
                  flush=True)  # fmt: skip
            table[kind] = rows
            write_atomically(options.out, lambda p: Path(p).write_text(json.dumps(table) + "\n"))


if __name__ == "__main__":
    main()
