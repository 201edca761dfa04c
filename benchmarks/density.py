"""Unnormalised densities: targets x methods at equal processor time, against exact constants.

For each: the error of log Z over replicates of 2000 samples (the protocol of the path integral sampler's
table), its bias and spread, ELBO gap, ESS, the forward ESS of paths that end in exact samples (near 0
where a mode is missing), total variation of the modes' shares, sliced Wasserstein distance after
resampling beside its own floor (exact against exact), milliseconds for 1000 weighted draws once trained,
effective draws a second (ESS over that time: what a trained sampler gains over one that starts anew), and
evaluations of the density for each draw: what counts where it is dear. Annealed methods have no
training: they are run anew for each replicate, at their own cost.

Published rows are quoted for their log Z errors alone: budgets and networks differ.
"""

import math
import time
import warnings

import torch

import redrift as rd
from redrift.control import TrustWarning, anneal, hmc, sample_smc
from redrift.control.check import forward_ess
from redrift.measure import Weights
from redrift.metrics import sliced_wasserstein
from redrift.targets import TARGETS

N = 2000
SECONDS = {
    **{"mog9": 110, "funnel1": 58, "funnel": 100, "manywell": 70, "cancer": 50},
    **{"mog25": 30, "gmm40": 30, "doublewell": 30, "wells": 30, "rings": 30},
}
OPTIONS = {"cancer": {"full": True, "steps": 50}}
PARTICLES = {"cancer": 1000}  # its gradient is dear
START = {
    **{"mog9": 5.0, "funnel1": 2.0, "funnel": 5.0, "manywell": 2.0, "cancer": 1.0},
    **{"mog25": 10.0, "gmm40": 30.0, "doublewell": 2.0, "wells": 2.0, "rings": 5.0},
}
FITTED = {
    "PIS": {},
    "PIS, log-variance": {"loss": "lv"},
    "PIS, adjoint matching": {"loss": "am"},
    "PIS, bridge matching": {"loss": "bm"},
    "PIS as published": None,
}
# |error of log Z|: Path Integral Sampler, table 1 (its funnel has variance 1 in the code); Sendera et
# al. 2024, reweighted, as collected in the specification of this library
PUBLISHED = {
    "mog9": {"PIS-Grad (paper)": 0.037, "AFT": 0.562, "SMC, 10 temperatures": 0.466},
    "funnel1": {"PIS-Grad (paper)": 0.012},
    "funnel": {"PIS (Sendera)": 0.262, "PIS+LP": 0.285, "DDS": 0.206, "DIS": 0.093},
    "manywell": {"PIS (Sendera)": 2.69, "PIS+LP": 0.07, "DDS": 0.23, "DIS": 3.05},
    "cancer": {},
}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def quality(target, x, log_w, seed):
    """Return what samples and weights say about the target."""
    z = Weights(log_w.reshape(-1, N)).log_z.double() - target.log_z
    found = {
        "error": float(z.abs().mean()),
        "bias": float(z.mean()),
        "std": float(z.std()) if len(z) > 1 else None,
        "ess": float(Weights(log_w.reshape(-1, N)).ess.mean()),
        "k_hat": float(Weights(log_w).k_hat),
    }
    y = Weights(log_w[:N]).resample(x[:N], generator=generator(seed))
    return found | shape(target, y, seed)


def shape(target, y, seed):
    """Return mode shares and distance of unweighted samples."""
    found = {}
    if target.modes is not None:
        k = len(target.modes)
        near = torch.cdist(y.double(), target.modes).argmin(1)
        share = torch.bincount(near, minlength=k).double() / len(y)
        found |= {
            "tv": float((share - 1 / k).abs().sum() / 2),
            "modes": int((share > 1 / 3 / k).sum()),
        }
    try:
        exact, other = (target.sample(len(y), generator=generator(seed + i)) for i in (1, 2))
    except NotImplementedError:
        return found
    for name, a in (("sw2", y), ("sw2_floor", other)):
        found[name] = sliced_wasserstein(a.double(), exact, generator=generator(0))
    return found


def fitted(target, name, options, seconds, replicates, seed):
    """Fit, draw and judge; the PIS row also resamples along the path."""
    g, began = generator(seed), time.process_time()
    if options is None:
        pis = rd.PIS.paper(target)
        history = pis.fit(seconds=seconds, check=False, generator=g)
    else:
        pis = rd.PIS(target, **OPTIONS.get(target.name, {}))
        history = pis.fit(
            seconds=seconds, particles=PARTICLES.get(target.name, 10_000), check=False, generator=g,
            **options,
        )  # fmt: skip
    trained, began = time.process_time() - began, time.process_time()
    x, w = pis.sample(N * replicates, warn=False, generator=g)
    cost = (time.process_time() - began) / (N * replicates) * 1e6
    row = quality(target, x, w.log_w, seed) | {
        "gap": float(target.log_z - w.log_w.mean()), "iterations": history.iterations,
        "seconds": trained, "ms_per_1000": cost, "evaluations": pis.chain.steps,
    }  # fmt: skip
    try:
        row["forward_ess"] = forward_ess(pis.path_log_weight(target.sample(N, generator=g)))
    except NotImplementedError:
        row["forward_ess"] = None
    rows = {name: row}
    if name == "PIS":
        began, parts = time.process_time(), []
        for _ in range(replicates):
            parts.append(sample_smc(pis, N, generator=g))
        cost = (time.process_time() - began) / (N * replicates) * 1e6
        x, w = torch.cat([p[0] for p in parts]), torch.cat([p[1].log_w for p in parts])
        rows["PIS + SMC"] = quality(target, x, w, seed) | {"ms_per_1000": cost, "seconds": trained}
    return rows


def annealed(target, start, replicates, seed):
    """Run the methods without training, anew for each replicate."""
    rows = {}
    for name, options in {
        "SMC, adaptive": {},
        "AIS, 128 temperatures": {"temperatures": 128, "ess_threshold": 0.0},
        "SMC, 10 temperatures": {"temperatures": 10, "moves": 10},
    }.items():
        began, g = time.process_time(), generator(seed)
        runs = [
            anneal(
                target.log_prob, target.score, target.dim, N, scale=start, generator=g, **options
            )
            for _ in range(replicates)
        ]
        cost = (time.process_time() - began) / (N * replicates) * 1e6
        x, w = torch.cat([r.x for r in runs]), torch.cat([r.weights.log_w for r in runs])
        used = sum(r.temperatures for r in runs) / len(runs) * options.get("moves", 2) * 5
        rows[name] = quality(target, x, w, seed) | {"ms_per_1000": cost, "evaluations": used}
    began, g = time.process_time(), generator(seed)
    x = start * torch.randn(N, target.dim, generator=g)
    y, _ = hmc(lambda v: (target.log_prob(v), target.score(v)), x, 150, generator=g)
    cost = (time.process_time() - began) / N * 1e6
    rows["HMC, 150 moves"] = shape(target, y, seed) | {"ms_per_1000": cost}
    return rows


def run_parts(parts, before, facts):
    """Measure some targets and take the others from a result."""
    found = run(False, parts)["targets"]
    return {**before, "targets": before["targets"] | found}


def run(quick, parts=None):
    """Measure everything; quick trains for a twentieth of the time and compares fewer methods."""
    warnings.simplefilter("ignore", TrustWarning)
    replicates, result = (3 if quick else 20), {"n": N, "published": PUBLISHED, "targets": {}}
    for name in SECONDS if parts is None else parts:
        target, seconds = TARGETS[name](), SECONDS[name]
        rows = annealed(target, START[name], 3 if quick else 6, 0)
        chosen = {"PIS": {}} if quick else FITTED
        for method, options in chosen.items():
            budget = seconds / 20 if quick else seconds
            rows |= fitted(target, method, options, budget, replicates, 0)
        for row in rows.values():  # what a second of drawing is worth, training apart
            if "ess" in row:
                row["effective_per_second"] = row["ess"] * 1e6 / row["ms_per_1000"]
        result["targets"][name] = rows
        show(name, rows)
    return result


def show(name, rows):
    columns = (
        "error", "bias", "std", "gap", "ess", "forward_ess", "tv", "sw2", "sw2_floor", "ms_per_1000",
        "effective_per_second", "evaluations",
    )  # fmt: skip
    heads = [c.replace("effective_per_second", "effective/s") for c in columns]
    print(f"\n{name:26s}" + "".join(f"{c:>12s}" for c in heads))
    for method, row in rows.items():
        cells = (
            "" if row.get(c) is None or not math.isfinite(row[c]) else f"{row[c]:.3g}"
            for c in columns
        )
        print(f"{method:26s}" + "".join(f"{cell:>12s}" for cell in cells), flush=True)
    for method, error in PUBLISHED.get(name, {}).items():
        print(f"{'published: ' + method:26s}{error:12.3g}")


def plot(result, path):
    """Draw the error of log Z of each method on each target."""
    from matplotlib import pyplot

    targets = result["targets"]
    figure, axes = pyplot.subplots(
        2, (len(targets) + 1) // 2, figsize=(1.6 * len(targets) + 2, 7), sharey=True, squeeze=False
    )
    for axis, (name, rows) in zip(axes.flat, targets.items()):
        rows = {m: r for m, r in rows.items() if r.get("error")}
        axis.barh(list(rows), [r["error"] for r in rows.values()], color="#30638e")
        for error in result["published"].get(name, {}).values():
            axis.axvline(error, color="#d1495b", linestyle=":", linewidth=1)
        axis.set(xscale="log", title=name, xlabel="|error of log Z|")
        axis.xaxis.set_minor_formatter("")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
