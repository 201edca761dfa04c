"""Filters on nine problems: error in posterior standard deviations, log-evidence, ESS, processor time.

The error is the rms of (mean - exact mean) / exact standard deviation over times and data sets, so
N independent draws of the posterior give 1 / sqrt(N); `_se` are standard errors over data sets. The exact
answer is Kalman's, Benes', that of a grid, or, for Lorenz, two path-integral filters of 5000 particles
under one guide per data set, in windows of different lengths; `reference_error` is what these two say of
their own. `equal` runs the bootstrap with as many particles as take the path-integral filter's processor
time on one data set, and says which of the two is closer. Set REDRIFT_PARTICLES to a Python that has
`particles` (it needs numpy below 2) to time its bootstrap beside ours, in interleaved processes of one
thread, to run its guided filter, and for the real series that it ships. Parts: throughput, batches,
series, and every problem by its name.
"""

# ruff: noqa: B023
# every closure is called before its loop goes on

import math
import sys
import time

import torch

from benchmarks import _filters_peer as peer
from redrift.filters import (
    AuxiliaryProposal,
    Bootstrap,
    GaussianPosterior,
    GaussianPrior,
    GuidedProposal,
    PathIntegral,
    Sensor,
    StateSpace,
    benes_filter,
    ensemble_kalman,
    extended_kalman,
    grid_filter,
    kalman,
    particle_filter,
    unscented_kalman,
)
from redrift.statespace.problems import PROBLEMS

LINEAR = ("ou", "tracking", "ar4", "ar10", "integrators")
DATA = 256  # data sets of the problems with an exact answer that is cheap


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def exact(name, problem, y, quick):
    """Return the reference, and the error of its own where it is of particles, too."""
    times = problem.times
    if name in LINEAR:
        return kalman(problem.model, y, times=times), 0.0
    if name == "benes":
        return benes_filter(y, times=times, cov=1e-4), 0.0
    if name in ("double-well", "square"):
        far, points = (3.5, 2000) if name == "double-well" else (6, 1200)
        options = {"times": times, "low": -far, "high": far, "points": points}
        return grid_filter(problem.model, y, **options), 0.0
    parts = []
    for part in y.split(16):
        one, two = (
            particle_filter(
                problem.model, part, times=times, particles=500 if quick else 5000,
                proposal=PathIntegral(length), generator=seeded(s),
            )
            for length, s in ((problem.window, 91), (1.5 * problem.window, 92))
        )  # fmt: skip
        log_z = torch.logaddexp(one.log_evidence, two.log_evidence) - math.log(2)
        mean, cov = (one.mean + two.mean) / 2, (one.cov + two.cov) / 2
        parts.append((mean, cov, log_z, one.mean - two.mean))
    mean, cov, log_z, off = (torch.cat(v) for v in zip(*parts, strict=True))
    ref = GaussianPosterior(torch.tensor(times).double(), mean, cov, log_z)
    return ref, float(((off / ref.std) ** 2).mean().sqrt()) / 2


def timed(run, repeats=3):
    """Return the result and the least processor time of some runs, in seconds."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        result = run()
        best = min(best, time.process_time() - start)
    return result, best


def root(a, b):
    """Return sqrt(sum a / sum b) over data sets and its standard error, by the jackknife."""
    value, n = float((a.sum() / b.sum()).sqrt()), len(a)
    if n < 2:
        return value, None
    less = ((a.sum() - a) / (b.sum() - b)).sqrt()
    return value, float(((n - 1) * less.var(correction=0)).sqrt())


def judge(post, ref, x, times):
    at = [min(range(len(times)), key=lambda i: abs(times[i] - t)) for t in post.times.tolist()]
    miss = post.mean - ref.mean[:, at]
    off = post.log_evidence - ref.log_evidence
    truth = x[:, at]
    rms = ((post.mean - truth) ** 2).sum((1, 2))
    best = ((ref.mean[:, at] - truth) ** 2).sum((1, 2))
    error, error_se = root(((miss / ref.std[:, at]) ** 2).mean((1, 2)), torch.ones(len(miss)))
    ratio, ratio_se = root(rms, best)
    return {
        "error": error,
        "error_se": error_se,
        "rmse_ratio": ratio,
        "rmse_ratio_se": ratio_se,
        "log_z_sd": float(off.std()) if len(off) > 1 else None,
        "log_z_bias": float(off.mean()),
        "ess": float(post.ess.mean()) if hasattr(post, "ess") else None,
        "look_ahead_ess": float(post.look_ahead_ess.mean())
        if hasattr(post, "look_ahead_ess")
        else None,
    }


def rows(name, problem, quick):
    """Return the particle filters to run: (label, N, proposal, data sets)."""
    window, stride, scope = problem.window, problem.stride, problem.scope
    linear = name in LINEAR
    many = DATA if linear or name == "benes" else 64
    yield "bootstrap", 1000, Bootstrap(), 64
    yield "bootstrap", 10_000, Bootstrap(), 8
    yield (
        "guided",
        200,
        GuidedProposal(scope="shared" if linear else "particle"),
        16 if linear else 8,
    )
    yield (
        "auxiliary",
        200,
        AuxiliaryProposal(scope="shared" if linear else "particle"),
        16 if linear else 8,
    )
    for n in (20, 50, 200):
        yield "path-integral", n, PathIntegral(window, stride, scope=scope), many
    yield (
        "path-integral, RB",
        50,
        PathIntegral(window, stride, scope=scope, rao_blackwell=True),
        many,
    )
    if name == "ar4" and not quick:
        yield "bootstrap", 1_000_000, Bootstrap(), 1
    if linear:
        yield "path-integral, archive", 50, PathIntegral(window, stride, mode="archive"), 64
    else:
        yield "path-integral, shared", 50, PathIntegral(window, stride), 64
    if name == "square":
        yield "path-integral", 500, PathIntegral(window, stride, scope=scope), 16
        yield "guided", 500, GuidedProposal(), 16


def one(name, quick):
    """Run all filters on one problem."""
    problem = PROBLEMS[name]()
    batch = 4 if quick else (DATA if name in LINEAR or name == "benes" else 64)
    x, y = problem.model.simulate(problem.times, batch=batch, generator=seeded(1))
    ref, own = exact(name, problem, y, quick)
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
            row["ms_batch"] = 1e3 * cost / len(times) / few
            if few > 1:
                _, cost = timed(lambda: run(1), 1 if n > 1000 else 2)
            row["ms"] = 1e3 * cost / len(times)
        except ArithmeticError as error:
            row["failed"] = str(error)[:60]
        found.append(row)
        print(name, row, file=sys.stderr, flush=True)
    found += theirs(name, problem, ref, x, y)
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
        "reference_error": own,
        "rows": found,
        "equal": equal(problem, ref, x, y, found, quick),
    }


def theirs(name, problem, ref, x, y):
    """Return the guided filter of `particles` where the state is seen at every step, in full."""
    found, few = [], min(16, len(y))
    if not peer.there() or name not in ("ou", "ar4", "ar10"):
        return found
    part = GaussianPosterior(ref.times, ref.mean[:few], ref.cov[:few], ref.log_evidence[:few])
    for n in (50, 200):
        done = peer.linear(problem.model, y[:few], n, "GuidedPF")
        mean, log_z = (torch.tensor(done[k]).double() for k in ("mean", "log_z"))
        post = GaussianPosterior(ref.times, mean.reshape_as(part.mean), part.cov, log_z)
        row = {"filter": "particles GuidedPF", "N": n, "runs": few}
        found.append({**row, **judge(post, part, x[:few], problem.times), "ms": done["ms"]})
        print(name, found[-1], file=sys.stderr, flush=True)
    return found


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


def throughput(quick):
    """Return million particle-steps a second of the bootstrap, beside `particles` if it is there.

    "normal" is one law in d dimensions, "independent" d laws of one number each, which is the same for us.
    """
    table = []
    for d, form in ((1, "normal"), (4, "normal"), (4, "independent")):
        for n in (1000,) if quick else (1000, 10_000, 100_000):
            K = max(20, 200_000 // n)
            prior = GaussianPrior(torch.zeros(d).double(), torch.eye(d).double())
            eye = torch.eye(d).double()
            model = StateSpace(prior, 0.9 * eye, eye, 1.0, Sensor(eye, eye), time="discrete")
            y = torch.zeros(K, d).double()
            row = {"d": d, "form": form, "N": n}
            ours, theirs = [], []
            for _ in range(1 if quick else 3):  # interleaved: the machine's load drifts
                _, cost = timed(
                    lambda: particle_filter(model, y, particles=n, generator=seeded(1)), 3
                )
                ours.append(n * K / cost / 1e6)
                if peer.there():
                    theirs.append(peer.speed(d, n, K, form == "independent"))
            row["redrift"] = sorted(ours)[len(ours) // 2]
            if theirs:
                row["particles"] = sorted(theirs)[len(theirs) // 2]
            table.append(row)
            print(row, file=sys.stderr, flush=True)
    return table


def real(quick):
    """Return log-evidences of the real series: mean and spread over repeated runs."""
    table = {}
    if not peer.there():
        return table
    repeats = 4 if quick else 16
    for name, model, y, told in peer.series():
        y, found = y[:60] if quick else y, []
        window = PathIntegral(30.0, 10.0)
        for label, n, proposal in (
            ("bootstrap", 1000, Bootstrap()),
            ("guided", 100, GuidedProposal(scope="particle", sweeps=1)),
            ("path-integral", 100, window),
        ):
            post, cost = timed(
                lambda: particle_filter(
                    model, y.expand(repeats, -1, -1), particles=n, proposal=proposal,
                    generator=seeded(3),
                ), 1,
            )  # fmt: skip
            found.append(_spread(label, n, post.log_evidence, 1e3 * cost / len(y) / repeats))
            print(name, found[-1], file=sys.stderr, flush=True)
        kinds = ("Bootstrap", "GuidedPF") if name == "volatility" else ("Bootstrap",)
        for kind in kinds:
            n = 1000 if kind == "Bootstrap" else 100
            done = peer.real(told, y, n, kind, repeats)
            log_z = torch.tensor(done["log_z"])
            found.append(_spread(f"particles {kind}", n, log_z, done["ms"]))
            print(name, found[-1], file=sys.stderr, flush=True)
        table[name] = {"measurements": len(y), "rows": found}
    return table


PARTS = {"throughput": throughput, "batches": batches, "series": real}


def _spread(label, n, log_z, ms):
    level = float(log_z.logsumexp(0) - math.log(len(log_z)))
    return {"filter": label, "N": n, "log_z": level, "log_z_sd": float(log_z.std()), "ms": ms}


def run(quick):
    found = {name: part(quick) for name, part in PARTS.items()}
    return {**found, "problems": {name: one(name, quick) for name in PROBLEMS}}


def run_parts(parts, before, facts):
    """Return the result with these parts or problems measured again; each says when and on what."""
    found = {**before, "problems": dict(before.get("problems", {}))}
    measured = dict(before.get("measured", {}))
    for name in parts:
        if name not in PARTS and name not in PROBLEMS:
            raise ValueError(f"no part {name!r}; there are {', '.join([*PARTS, *PROBLEMS])}")
        if name in PARTS:
            found[name] = PARTS[name](False)
        else:
            found["problems"][name] = one(name, False)
        measured[name] = facts
    return {**found, "measured": measured}


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
        axis.tick_params(axis="x", which="minor", labelsize=6, rotation=60)
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("processor ms per measurement, one data set")
    figure.supylabel("error in posterior standard deviations (dotted: Kalman's relatives)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
