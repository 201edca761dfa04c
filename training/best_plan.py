"""Fit the default time grids of `rd.best_plan` and write them to src/redrift/solvers/best.json.

The training problems are mixtures of three kinds in several dimensions: narrow, smooth, and with the
spread of scales that pictures have, without which a grid skips the noise levels where their large
shapes are decided; and trained networks, which together weigh `--share` of the loss: long grids
otherwise lean on how smooth exact denoisers are. The loss sees the tail. Held-out problems, printed
at the end, take no part in the fit; nor do the networks of the benchmark. Every row of the table says
how it was fitted; of the shipped ones those marked "mixed" are means of fitted curves, weighed after
a look at the benchmark's networks. Their network `cifar10-fit` is `cifar10.py --seed 1` after
1.2 million pictures, exported like the shipped one.
"""

import argparse
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch

import redrift as rd
from redrift._core.files import write_atomically
from redrift.denoise import GaussianMixture
from redrift.fitting import Trajectories, distances, fit_grid, follow
from redrift.solvers.best import _curve
from redrift.solvers.fractions import grid_of_fractions

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
SMOOTH_FROM, KNOTS = 12, 10  # budgets from which the grid is smooth, and its parameters
# methods tried: order, c for the corrector (c.4: above that noise level alone), @ the noise level at
# which the first question is asked
SHORT, LONG, AHEAD = ("3", "4", "2c"), ("4", "3c"), ("3@22", "4@15", "4@22")


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


def network(name, process, ends, n, seed, device):
    """Return trajectories of a network under a process whose time is sigma / alpha.

    `name` is that of a shipped model or the path of one; `textures` is taken at half its size.
    """
    vp = (rd.load if Path(name).suffix else rd.pretrained)(name).to(device)
    size = (3, 16, 16) if name == "textures" else tuple(vp.card["shape"])
    label = (torch.arange(n) % vp.card["classes"]).to(device)

    def told(x, t):
        with vp.begin(label=label) as run:
            time = run.process.unclock(-t[0].double().log())
            z = (x * run.process.alpha(time).to(x)).float()
            return run.ask(z, run.process.level(time), "x0").to(x)

    model = rd.Denoiser(told, process, "x0")
    g = torch.Generator().manual_seed(seed)
    first = (ends[0] * torch.randn(n, *size, generator=g, dtype=F64)).to(device)
    grid = rd.timegrid(process, 200, "logsnr", start=ends[0], stop=ends[1])
    with torch.no_grad():
        last = follow(model, rd.deis(process, grid, order=3, variable="logrho"), first)
    return Trajectories(model, first, last)


def problems(process, ends, mixtures, names, n, seed, options):
    """Return trajectories of mixtures, n each, and of networks, and their weights in the loss."""
    tasks = [trajectories(process, p, ends, n, seed) for p in mixtures]
    share = options.share if names else 0.0
    weights = [(1 - share) / len(tasks)] * len(tasks) + [share / max(len(names), 1)] * len(names)
    many = options.pictures
    return tasks + [network(m, process, ends, many, seed, options.device) for m in names], weights


def method(text):
    """Return the options of `rd.deis` that a text such as 4, 3c, 3c.4 or 4@22 stands for."""
    found = re.fullmatch(r"([1-4])(?:(c)([\d.]*))?(?:@([\d.]+))?", text)
    if not found:
        raise SystemExit(f"no method {text!r}: say an order such as 4, 3c or 4@22")
    order, corrector, above, sigma = found.groups()
    more = {"corrector": float(above) if above else True} if corrector else {}
    return {"order": int(order), **more, **({"first_sigma": float(sigma)} if sigma else {})}


def builder(row, budget):
    """Return the function from process and times to a plan by a row's method."""
    options = {name: row[name] for name in ("corrector", "first_sigma") if name in row}
    return lambda process, times: rd.deis(
        process, times, order=min(row["order"], budget), wants="v", startup=False, **options
    )


def score(build, tasks, times):
    """Return the median and the 90th percentile of each task's error."""
    with torch.no_grad():
        plan = build(tasks[0].model.process, times)
        errors = [distances(follow(t.model, plan, t.first), t.last) for t in tasks]
    return [(float(e.median()), float(e.quantile(0.9))) for e in errors]


def total(scores, weights):
    """Return the weighted mean of the logs of both figures."""
    return sum(w * (math.log(m) + math.log(p)) for w, (m, p) in zip(weights, scores)) / 2


def shown(scores):
    return ", ".join(f"{m:.1e} / {p:.1e}" for m, p in scores)


def account(tasks, options):
    """Return how a row was fitted."""
    names = [Path(name).stem for name in options.networks] if len(tasks) > len(TRAIN) else []
    return {"networks": names, "share": options.share, "iterations": options.iterations}


def starts_of(budget, known, earlier, kinds):
    """Return the shares to start from: the even ones, and those known or the curve of the budget before."""
    starts = [torch.ones(budget, dtype=F64)] if "even" in kinds else []
    if "known" in kinds and known is not None:
        starts.append(torch.tensor(known["shares"], dtype=F64))
    elif "known" in kinds and earlier is not None:
        curve = _curve(earlier["shares"], np.linspace(0, 1, budget + 1))
        starts.append(torch.from_numpy(np.diff(curve)))
    return starts


def fit(process, ends, tasks, weights, budget, starts, options):
    """Return the row of the table with the best score on the training problems."""
    found = []
    usual = AHEAD if options.ahead else SHORT if budget < SMOOTH_FROM else LONG
    for text in options.methods or usual:
        build = builder(method(text), budget)
        for shares in starts:
            fitted = fit_grid(
                build, tasks, shares, ends, weights=weights, iterations=options.iterations,
                knots=KNOTS if budget >= SMOOTH_FROM else None,
            )  # fmt: skip
            scores = score(build, tasks, grid_of_fractions(process, fitted, ends))
            row = {**method(text), "shares": [round(float(s), 6) for s in fitted]}
            row["fit"] = account(tasks, options)
            found.append((total(scores, weights), row))
            print(f"  {budget} {text} {found[-1][0]:.3f}  {shown(scores)}", flush=True)
    return min(found, key=lambda entry: entry[0])[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument(
        "--resume", action="store_true", help="start from the grids there are, too"
    )
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    parser.add_argument("--ranges", nargs="*", default=list(RANGES))
    parser.add_argument("--networks", nargs="*", default=["textures"],
                        help="names of shipped models or files, for the range vp")  # fmt: skip
    parser.add_argument("--share", type=float, default=0.5, help="of the networks in the loss")
    parser.add_argument("--pictures", type=int, default=24, help="trajectories of each network")
    parser.add_argument("--methods", nargs="*", help="such as 4, 3c or 4@22, not those tried")
    parser.add_argument(
        "--ahead", action="store_true", help="fit the grids that ask ahead, kept apart"
    )
    parser.add_argument(
        "--starts", nargs="*", default=["even", "known"], choices=["even", "known"]
    )
    parser.add_argument("--device", default="cpu", help="of the networks")
    parser.add_argument("--out", type=Path, default=Path("src/redrift/solvers/best.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    table = json.loads(options.out.read_text()) if options.out.exists() else {}
    for kind in options.ranges:
        process, ends = rd.EDM(ANGLE[kind], RANGES[kind][0]), RANGES[kind]
        names = options.networks if kind == "vp" else []
        tasks, weights = problems(process, ends, TRAIN, names, options.samples, 1, options)
        held_out, held_weights = problems(process, ends, HELD_OUT, names, 256, 2, options)
        name = f"{kind} ahead" if options.ahead else kind
        rows, earlier = dict(table.get(name, {})), None
        for budget in options.budgets:
            began = time.time()
            known = rows.get(str(budget)) if options.resume else None
            starts = starts_of(budget, known, earlier, options.starts)
            row = fit(process, ends, tasks, weights, budget, starts, options)
            earlier = rows[str(budget)] = row
            build = builder(row, budget)
            for label, shares in (("quadratic", [1.0] * budget), ("fitted", row["shares"])):
                times = grid_of_fractions(process, torch.tensor(shares, dtype=F64), ends)
                scores = score(build, held_out, times)
                print(f"{name} {budget:3d} held out, {label}: {total(scores, held_weights):.3f}  "
                      f"{shown(scores)}  ({time.time() - began:.0f} s)", flush=True)  # fmt: skip
            table[name] = rows
            write_atomically(options.out, lambda p: Path(p).write_text(json.dumps(table) + "\n"))


if __name__ == "__main__":
    main()
