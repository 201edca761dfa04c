"""Fit the default time grids of `rd.best_plan` and write them to src/redrift/solvers/best.json.

The defaults are exponential Adams plans on the noise with polynomials in the flattened log noise level
("softlog"); what is fitted is the grid, and the order is chosen. The problems are those that people have:

- mixtures: narrow, smooth, and with the spread of scales that pictures have;
- the same guided (classifier-free, scales 2 to 16), where high orders on v or x0 blow up;
- predictions with errors: exact ones with independent noise on the noise (as eps networks err) or on v,
  measured against the flow without errors;
- networks: the shipped `textures` (v), and small ones trained as DDPM trains them (`training/ddpm.py`).

The loss sees the tail. Held-out problems, printed at the end, take no part in the fit. Nothing of the
benchmark does: neither its networks nor its mixtures, scales or seeds. Every row is what the command
`python training/best_plan.py` wrote.
"""

import argparse
import contextlib
import itertools
import json
import math
import time
from pathlib import Path

import ddpm
import numpy as np
import torch

import redrift as rd
from redrift._core.files import write_atomically
from redrift.denoise import GaussianMixture
from redrift.fitting import Trajectories, distances, fit_grid, follow
from redrift.solvers.best import monotone_curve
from redrift.solvers.fractions import grid_of_fractions

F64 = torch.float64
BUDGETS = (5, 6, 7, 8, 10, 12, 15, 20, 30, 50)
# sigma / alpha at the ends of models in use: of pixels, EDM and latents; and the scale of their angle
RANGES = {"vp": (150.0, 0.01), "edm": (80.0, 0.002), "latent": (14.6, 0.03)}
SCALE = {"vp": 1.0, "edm": 0.5, "latent": 1.0}
NARROW, SMOOTH = (0.02, 0.15), (0.15, 0.35)
SPECTRUM = (0.03, 12.0)  # scales of the coordinates, as of the principal components of pictures
# components, dimensions, widths, seed
TRAIN = [(16, 8, NARROW, 11), (40, 32, NARROW, 13), (6, 3, NARROW, 14), (4, 8, SMOOTH, 15),
         (24, 48, SPECTRUM, 16), (12, 32, SPECTRUM, 17)]  # fmt: skip
# a problem and the scale of its guidance
GUIDED = [((5, 2, NARROW, 31), 2.0), ((5, 2, (0.1, 0.3), 32), 5.0), ((8, 8, SMOOTH, 33), 10.0),
          ((8, 8, NARROW, 34), 14.0), ((6, 4, (0.05, 0.25), 37), 8.0),
          ((6, 4, (0.05, 0.25), 38), 12.0), ((6, 4, (0.05, 0.25), 39), 16.0), ((12, 32, SPECTRUM, 35), 4.0),
          ((12, 24, SPECTRUM, 36), 9.0)]  # fmt: skip
# a problem, what is predicted and the size of its errors
ERRING = [((16, 8, NARROW, 51), "eps", 0.004), ((4, 8, SMOOTH, 52), "v", 0.02)]
HELD_OUT = [(16, 8, NARROW, 21), (40, 32, NARROW, 23), (4, 8, SMOOTH, 24), (24, 48, SPECTRUM, 25)]
HELD_OUT_GUIDED = [
    ((5, 2, NARROW, 41), 3.5),
    ((8, 8, SMOOTH, 43), 12.0),
    ((12, 24, SPECTRUM, 45), 7.0),
]
NETWORKS = ("swiss-linear", "s-curve-cosine", "digits-linear", "textures")
LARGE_TO = 12  # budgets up to which the largest network takes part
# of the loss; data with the scales of pictures weigh as much as all others of their kind
SHARES = {
    "compact": 0.2,
    "pictures": 0.2,
    "guided compact": 0.25,
    "guided pictures": 0.1,
    "erring": 0.1,
    "networks": 0.15,
}
GAIN = 1.9  # of a network's errors, in units of DDIM's: the law asks for 2
SMOOTH_FROM, KNOTS = 12, 10  # budgets from which the grid is smooth, and its parameters
# orders that are tried, and whether with the corrector; long runs stand more
METHODS = ((2, False), (3, False))
LONG_FROM, LONG = 30, ((3, False), (4, False), (3, True))


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


def classes(process, problem):
    """Return a mixture whose components are classes of their own."""
    plain = mixture(process, *problem)
    kinds = torch.arange(len(plain.weights))
    return GaussianMixture(plain.weights, plain.means, plain.std, process, classes=kinds)


def solved(model, first, ends, erring=None):
    """Return trajectories of a model from its first states; `erring` stands for it in the fit."""
    process = model.process
    grid = rd.timegrid(process, 800, "logsnr", start=ends[0], stop=ends[1])
    with torch.no_grad():
        last = follow(model, rd.deis(process, grid, order=4, variable="logrho"), first)
    return Trajectories(erring or model, first, last)


def noisy(clean, ends, g):
    return clean + ends[0] * torch.randn(clean.shape, generator=g, dtype=F64)


def trajectories(process, problem, ends, n, seed):
    """Return states of the marginal at the first time and their exact ends."""
    model = mixture(process, *problem)
    g = torch.Generator().manual_seed(seed)
    return solved(model, noisy(model.sample(n, generator=g), ends, g), ends)


def guided(process, problem, scale, ends, n, seed):
    """Return trajectories under classifier-free guidance."""
    model = classes(process, problem)
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(len(model.means), (n,), generator=g)
    std = model.std[label]
    clean = model.means[label] + std * torch.randn(std.shape, generator=g, dtype=F64)
    told = rd.Guided(model, scale, {"label": -1})
    told = contextlib.ExitStack().enter_context(told.begin(label=label))
    return solved(told, noisy(clean, ends, g), ends)


class Erring(rd.Denoiser):
    """An exact model whose predictions have errors, the same at every run."""

    def __init__(self, model, predicts, size):
        super().__init__(model.predict, model.process, predicts)
        self.model, self.size = model, size

    def predict(self, z, level):
        seed = torch.Generator().manual_seed(hash(round(math.log(level.sigma), 3)) % 2**31)
        error = torch.randn(z.shape, generator=seed, dtype=z.dtype)
        return self.model.ask(z, level, self.predicts) + self.size * error


def erring(process, problem, predicts, size, ends, n, seed):
    """Return the trajectories of an exact model, and the model with errors in its place."""
    exact = trajectories(process, problem, ends, n, seed)
    return Trajectories(Erring(exact.model, predicts, size), exact.first, exact.last)


def network(name, process, ends, n, seed):
    """Return trajectories of a network under a process whose time is sigma / alpha."""
    kind, _, schedule = name.rpartition("-")
    vp = ddpm.train(kind, schedule) if kind else rd.pretrained(name)
    size = (3, 16, 16) if name == "textures" else tuple(vp.card["shape"])
    told = {"label": torch.arange(n) % vp.card["classes"]} if "classes" in vp.card else {}
    top = vp.process.interval[0]

    def predict(x, t):
        with vp.begin(**told) as run:
            time = run.process.unclock(-t[0].double().log()).clamp_max(top)
            z = (x * run.process.alpha(time).to(x)).float()
            return run.ask(z, run.process.level(time), "x0").to(x)

    model = rd.Denoiser(predict, process, "x0")
    g = torch.Generator().manual_seed(seed)
    first = ends[0] * torch.randn(n, *size, generator=g, dtype=F64)
    grid = rd.timegrid(process, 200, "logsnr", start=ends[0], stop=ends[1])
    with torch.no_grad():
        last = follow(model, rd.deis(process, grid, order=3, variable="logrho"), first)
    return Trajectories(model, first, last)


def problems(process, ends, options, networks=()):
    """Return the training problems and their weights in the loss."""
    n, seed = options.samples, 1
    plain = [(p, trajectories(process, p, ends, n, seed)) for p in TRAIN]
    steered = [(p, guided(process, p, scale, ends, n, seed)) for p, scale in GUIDED]
    kinds = {
        "compact": [task for p, task in plain if p[2] != SPECTRUM],
        "pictures": [task for p, task in plain if p[2] == SPECTRUM],
        "guided compact": [task for p, task in steered if p[2] != SPECTRUM],
        "guided pictures": [task for p, task in steered if p[2] == SPECTRUM],
        "erring": [erring(process, p, what, size, ends, n, seed) for p, what, size in ERRING],
        "networks": [network(name, process, ends, options.pictures, seed) for name in networks],
    }
    weights = [SHARES[kind] / len(tasks) for kind, tasks in kinds.items() for _ in tasks]
    return list(itertools.chain(*kinds.values())), weights


def held_out(process, ends):
    """Return problems of the same kinds that take no part in the fit."""
    tasks = [trajectories(process, p, ends, 256, 2) for p in HELD_OUT]
    return tasks + [guided(process, p, scale, ends, 256, 2) for p, scale in HELD_OUT_GUIDED]


def builder(row, budget):
    """Return the function from process and times to a plan by a row's method."""
    order, corrector = min(row["order"], budget), row.get("corrector", False)
    return lambda process, times: rd.deis(
        process, times, order=order, variable="softlog", startup=False, corrector=corrector
    )


def as_tensor(row):
    return torch.tensor(row["fractions"], dtype=F64)


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


def guarded(row, process, ends, budget):
    """Return the row moved towards the quadratic grid until a network's errors count at most twice DDIM's.

    The bound is on the sum of squares of the responses, for networks of the noise and of v.
    """
    build, even = builder(row, budget), torch.full((budget,), 1 / budget, dtype=F64)
    grid = rd.timegrid(process, budget, start=ends[0], stop=ends[1])
    bounds = {p: GAIN * rd.ddim(process, grid).error_gain(p) ** 2 for p in ("eps", "v")}
    fitted = as_tensor(row)
    for share in torch.linspace(0, 1, 21).tolist():
        fractions = (1 - share) * fitted + share * even
        plan = build(process, grid_of_fractions(process, fractions, ends))
        if all(plan.error_gain(p) ** 2 <= bound for p, bound in bounds.items()):
            break
    return {**row, "fractions": [round(float(s), 6) for s in fractions]}


def fit(process, ends, tasks, weights, budget, earlier, options):
    """Return the row of the table with the best score on the training problems."""
    found = []
    starts = [torch.ones(budget, dtype=F64)]
    if earlier is not None:
        curve = monotone_curve(earlier["fractions"], np.linspace(0, 1, budget + 1))
        starts.append(torch.from_numpy(np.diff(curve)))
    for order, corrector in LONG if budget >= LONG_FROM else METHODS:
        method = {"order": order, **({"corrector": True} if corrector else {})}
        build = builder(method, budget)
        for fractions in starts:
            fitted = fit_grid(
                build, tasks, fractions, ends, weights=weights, iterations=options.iterations,
                knots=KNOTS if budget >= SMOOTH_FROM else None,
            )  # fmt: skip
            row = {**method, "fractions": [round(float(s), 6) for s in fitted]}
            row = guarded(row, process, ends, budget)
            scores = score(build, tasks, grid_of_fractions(process, as_tensor(row), ends))
            found.append((total(scores, weights), row))
            print(f"  {budget} {method} {found[-1][0]:.3f}  {shown(scores)}", flush=True)
    return min(found, key=lambda entry: entry[0])[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    parser.add_argument("--ranges", nargs="*", default=list(RANGES))
    parser.add_argument("--pictures", type=int, default=16, help="trajectories of each network")
    parser.add_argument("--out", type=Path, default=Path("src/redrift/solvers/best.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = json.loads(options.out.read_text()) if options.out.exists() else {}
    for kind in options.ranges:
        process, ends = rd.EDM(SCALE[kind], RANGES[kind][0]), RANGES[kind]
        names = NETWORKS if kind != "edm" else ()
        tasks, weights = problems(process, ends, options, names)
        fresh, earlier = held_out(process, ends), None
        for budget in options.budgets:
            began = time.time()
            few = budget <= LARGE_TO or not names
            kept = len(tasks) if few else len(tasks) - 1  # the largest network is the last problem
            row = fit(process, ends, tasks[:kept], weights[:kept], budget, earlier, options)
            earlier = row
            build, even = builder(row, budget), [1 / len(fresh)] * len(fresh)
            for label, fractions in (("quadratic", [1.0] * budget), ("fitted", row["fractions"])):
                times = grid_of_fractions(process, torch.tensor(fractions, dtype=F64), ends)
                scores = score(build, fresh, times)
                print(
                    f"{kind} {budget:3d} held out, {label}: {total(scores, even):.3f}  {shown(scores)}"
                )
            print(f"  {time.time() - began:.0f} s", flush=True)
            table.setdefault(kind, {})[str(budget)] = row
            write_atomically(options.out, lambda p: Path(p).write_text(json.dumps(table) + "\n"))


if __name__ == "__main__":
    main()
