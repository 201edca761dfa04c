"""Filters on nine problems: error in posterior standard deviations, log-evidence, ESS, processor time.

The error is the rms of (mean - exact mean) / exact standard deviation over times and data sets, so
N independent draws of the posterior give 1 / sqrt(N). The exact answer is Kalman's, Benes', that
of a grid, or, for Lorenz, two bootstrap filters of many particles. `equal` runs the bootstrap with as
many particles as take the path-integral filter's processor time on one data set, and says which of the
two is closer. Set REDRIFT_PARTICLES to a Python that has `particles` (it needs numpy below 2) to time
its bootstrap beside ours, in interleaved processes of one thread.
"""

# ruff: noqa: B023
# every closure is called before its loop goes on

import math
import os
import subprocess
import sys
import time

import torch

from redrift.filters import (
    Auxiliary,
    Bootstrap,
    Gaussian,
    Guided,
    PathIntegral,
    Sensor,
    StateSpace,
    benes,
    ensemble_kalman,
    extended_kalman,
    grid_filter,
    kalman,
    particle_filter,
    unscented_kalman,
)
from redrift.filters.posterior import GaussianPosterior
from redrift.filters.problems import PROBLEMS

LINEAR = ("ou", "tracking", "ar4", "ar10", "integrators")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def exact(name, problem, y, quick):
    """Return the reference's means, standard deviations and log-evidence."""
    times = problem.times
    if name in LINEAR:
        return kalman(problem.model, y, times=times)
    if name == "benes":
        return benes(y, times=times, cov=1e-4)
    if name == "double-well":
        return grid_filter(problem.model, y, times=times, low=-3.5, high=3.5, points=2000)
    if name == "square":
        return grid_filter(problem.model, y, times=times, low=-6, high=6, points=1200)
    n = 5_000 if quick else 40_000
    one, two = (
        particle_filter(problem.model, y, times=times, particles=n, generator=seeded(s))
        for s in (91, 92)
    )
    mean, cov = (one.mean + two.mean) / 2, (one.cov + two.cov) / 2
    log_z = torch.logaddexp(one.log_evidence, two.log_evidence) - math.log(2)
    return GaussianPosterior(one.times, mean, cov, log_z)


def timed(run, repeats=3):
    """Return the result and the least processor time of some runs, in seconds."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        result = run()
        best = min(best, time.process_time() - start)
    return result, best


def judge(post, ref, x, times):
    at = [min(range(len(times)), key=lambda i: abs(times[i] - t)) for t in post.times.tolist()]
    miss = post.mean - ref.mean[:, at]
    off = post.log_evidence - ref.log_evidence
    truth = x[:, at]
    rms = ((post.mean - truth) ** 2).sum(-1).mean().sqrt()
    best = ((ref.mean[:, at] - truth) ** 2).sum(-1).mean().sqrt()
    return {
        "error": float(((miss / ref.std[:, at]) ** 2).mean().sqrt()),
        "rmse_ratio": float(rms / best),
        "log_z_sd": float(off.std()) if len(off) > 1 else None,
        "log_z_bias": float(off.mean()),
        "ess": float(post.ess.mean()) if hasattr(post, "ess") else None,
        "start_ess": float(post.start_ess.mean()) if hasattr(post, "start_ess") else None,
    }


def rows(name, problem, quick):
    """Return the particle filters to run: (label, N, proposal, data sets)."""
    window, stride, scope = problem.window, problem.stride, problem.scope
    linear = name in LINEAR
    yield "bootstrap", 1000, Bootstrap(), 64
    yield "bootstrap", 10_000, Bootstrap(), 8
    yield "guided", 200, Guided(scope="shared" if linear else "particle"), 32
    yield "auxiliary", 200, Auxiliary(scope="shared" if linear else "particle"), 32
    for n in (20, 50, 200):
        yield "path-integral", n, PathIntegral(window, stride, scope=scope), 64
    yield (
        "path-integral, RB",
        50,
        PathIntegral(window, stride, scope=scope, rao_blackwell=True),
        64,
    )
    if name == "ar4" and not quick:
        yield "bootstrap", 1_000_000, Bootstrap(), 1
    if linear:
        yield "path-integral, archive", 50, PathIntegral(window, stride, mode="archive"), 64
    else:
        yield "path-integral, shared", 50, PathIntegral(window, stride), 64
    if name == "square":
        yield "path-integral", 500, PathIntegral(window, stride, scope=scope), 16


def one(name, quick):
    """Run all filters on one problem."""
    problem = PROBLEMS[name]()
    batch = 4 if quick else (8 if name == "lorenz" else 64)
    x, y = problem.model.simulate(problem.times, batch=batch, generator=seeded(1))
    ref = exact(name, problem, y, quick)
    times, found = problem.times, []
    for label, n, proposal, most in rows(name, problem, quick):
        if quick and n > 1000:
            continue
        few = min(most, batch)

        def run(count):
            return particle_filter(
                problem.model, y[:count], times=times, particles=n, proposal=proposal,
                generator=seeded(5),
            )  # fmt: skip

        part = GaussianPosterior(ref.times, ref.mean[:few], ref.cov[:few], ref.log_evidence[:few])
        row = {"filter": label, "N": n, "runs": few}
        try:
            post, cost = timed(lambda: run(few), 1)
            row |= judge(post, part, x[:few], times)
            if few > 1:
                _, cost = timed(lambda: run(1), 1 if n > 1000 else 2)
            row["ms"] = 1e3 * cost / len(times)
        except ArithmeticError as error:
            row["failed"] = str(error)[:60]
        found.append(row)
        print(name, row, file=sys.stderr, flush=True)
    for label, run in (
        ("extended Kalman", lambda: extended_kalman(problem.model, y, times=times)),
        ("unscented Kalman", lambda: unscented_kalman(problem.model, y, times=times)),
        (
            "ensemble Kalman, 100",
            lambda: ensemble_kalman(
                problem.model, y, times=times, members=100, generator=seeded(5)
            ),
        ),
    ):
        if name == "benes":
            continue  # no Gaussian start
        try:
            post, cost = timed(run, 1)
            row = {"filter": label, "N": None, "runs": batch, **judge(post, ref, x, times)}
            row["ms"] = 1e3 * cost / len(times) / batch
        except (torch.linalg.LinAlgError, ArithmeticError, ValueError) as error:
            row = {"filter": label, "N": None, "runs": batch, "failed": str(error)[:60]}
        found.append(row)
    return {
        "about": problem.about,
        "rows": found,
        "equal": equal(problem, ref, x, y, found, quick),
    }


def equal(problem, ref, x, y, found, quick):
    """Run the bootstrap for the processor time of the path-integral filter with 50 particles."""
    steered = next(r for r in found if r["filter"] == "path-integral" and r["N"] == 50)
    large = [r for r in found if r["filter"] == "bootstrap" and "ms" in r]
    if "ms" not in steered or not large:
        return None
    unit = large[-1]["ms"] / large[-1]["N"]
    n = int(min(max(steered["ms"] / unit, 50), 2_000 if quick else 100_000))
    few = min(8, len(y))
    part = GaussianPosterior(ref.times, ref.mean[:few], ref.cov[:few], ref.log_evidence[:few])
    post = particle_filter(
        problem.model, y[:few], times=problem.times, particles=n, generator=seeded(6)
    )
    row = judge(post, part, x[:few], problem.times)
    winner = "bootstrap" if row["error"] < steered["error"] else "path-integral"
    return {"N": n, "error": row["error"], "path_integral": steered["error"], "closer": winner}


def batches(quick):
    """Return processor ms per measurement and data set for batches of 1, 32 and 256."""
    table = {}
    for name, label, n in (
        ("tracking", "path-integral", 50), ("tracking", "bootstrap", 1000),
        ("ar10", "path-integral", 50), ("ar10", "bootstrap", 1000),
    ):  # fmt: skip
        problem = PROBLEMS[name]()
        proposal = PathIntegral(problem.window) if label == "path-integral" else Bootstrap()
        for batch in (1, 32) if quick else (1, 32, 256):
            _, y = problem.model.simulate(problem.times, batch=batch, generator=seeded(1))
            _, cost = timed(
                lambda: particle_filter(
                    problem.model, y, times=problem.times, particles=n, proposal=proposal,
                    generator=seeded(2),
                ),
                2 if batch == 256 else 4,
            )  # fmt: skip
            ms = 1e3 * cost / len(problem.times) / batch
            table.setdefault(f"{name}, {label}, N={n}", {})[str(batch)] = ms
    return table


PEER = """
import sys, time, numpy as np, particles
from particles import state_space_models as ssm, distributions as dists
d, n, K = (int(v) for v in sys.argv[1:4])
class M(ssm.StateSpaceModel):
    def PX0(self): return dists.Normal() if d == 1 else dists.MvNormal(loc=np.zeros(d))
    def PX(self, t, xp):
        return dists.Normal(.9 * xp) if d == 1 else dists.MvNormal(loc=.9 * xp, cov=np.eye(d))
    def PY(self, t, xp, x):
        return dists.Normal(x) if d == 1 else dists.MvNormal(loc=x, cov=np.eye(d))
y = [np.zeros(d) if d > 1 else 0. for _ in range(K)]
best = 9e9
for _ in range(3):
    pf = particles.SMC(fk=ssm.Bootstrap(ssm=M(), data=y), N=n, resampling='systematic')
    s = time.process_time(); pf.run(); best = min(best, time.process_time() - s)
print(n * K / best / 1e6)
"""


def throughput(quick):
    """Return million particle-steps a second of the bootstrap, beside `particles` if it is there."""
    peer, table = os.environ.get("REDRIFT_PARTICLES"), []
    for d in (1, 4):
        for n in (1000,) if quick else (1000, 10_000, 100_000):
            K = max(20, 200_000 // n)
            prior = Gaussian(torch.zeros(d).double(), torch.eye(d).double())
            eye = torch.eye(d).double()
            model = StateSpace(prior, 0.9 * eye, eye, 1.0, Sensor(eye, eye), time="discrete")
            y = torch.zeros(K, d).double()
            row = {"d": d, "N": n}
            ours, theirs = [], []
            for _ in range(2):  # interleaved: the machine's load drifts
                _, cost = timed(
                    lambda: particle_filter(model, y, particles=n, generator=seeded(1)), 2
                )
                ours.append(n * K / cost / 1e6)
                if peer:
                    done = subprocess.run(
                        [peer, "-c", PEER, str(d), str(n), str(K)],
                        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                        capture_output=True, text=True, check=True,
                    )  # fmt: skip
                    theirs.append(float(done.stdout))
            row["redrift"] = max(ours)
            if theirs:
                row["particles"] = max(theirs)
            table.append(row)
            print(row, file=sys.stderr, flush=True)
    return table


def run(quick):
    problems = {name: one(name, quick) for name in PROBLEMS}
    return {"throughput": throughput(quick), "batches": batches(quick), "problems": problems}


def plot(result, path):
    """Draw error against processor time, one panel per problem."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(12, 10))
    for axis, (name, problem) in zip(axes.flat, result["problems"].items()):
        for kind in ("bootstrap", "guided", "auxiliary", "path-integral"):
            rows = [r for r in problem["rows"] if r["filter"] == kind and "error" in r]
            axis.loglog(
                [r["ms"] for r in rows], [r["error"] for r in rows], "o-", label=kind, ms=4
            )
        for r in problem["rows"]:
            if "Kalman" in r["filter"] and "error" in r:
                axis.axhline(max(r["error"], 1e-4), lw=0.7, ls=":", color="gray")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("processor ms per measurement, one data set")
    figure.supylabel("error in posterior standard deviations (dotted: Kalman's relatives)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
