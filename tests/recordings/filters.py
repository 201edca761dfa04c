"""Every filter, proposal, option and sensor: laws, evidence, smoothed paths, draws, gradients."""

import math
from dataclasses import replace

import torch

from redrift import filters as f
from redrift.filters.parameters import em, pmmh
from redrift.statespace.problems import PROBLEMS

F64 = torch.float64
SCHEMES = ("systematic", "stratified", "multinomial", "residual")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def eye(d):
    return torch.eye(d, dtype=F64)


def outputs():
    yield from problems()
    yield from options()
    yield from models()
    yield from curved()
    yield from relatives()
    yield from streams()
    yield from parameters()


def laws(name, post):
    yield f"{name}, mean", post.mean
    yield f"{name}, cov", post.cov
    yield f"{name}, log evidence", post.log_evidences
    yield f"{name}, ess", torch.stack([post.ess, post.look_ahead_ess, post.distinct_ancestors])
    yield f"{name}, last", post.particles[..., -1, :, :]
    yield f"{name}, weights", post.log_weights


def gaussian(name, post):
    yield f"{name}, mean", post.mean
    yield f"{name}, cov", post.cov
    yield f"{name}, log evidence", post.log_evidence


def simulated(problem, count=8, batch=2):
    times = problem.times[:count]
    return problem.model.simulate(times, batch=batch, generator=generator(1))[1], times


def problems():
    for kind in PROBLEMS:
        problem = PROBLEMS[kind]()
        x, y = problem.model.simulate(problem.times[:8], batch=2, generator=generator())
        times = problem.times[:8]
        yield f"{kind}, states", x
        yield f"{kind}, measurements", y
        for name, proposal in {
            "bootstrap": f.Bootstrap(),
            "guided": f.GuidedProposal(scope="particle", sweeps=2),
            "auxiliary": f.AuxiliaryProposal(scope="shared"),
            "path integral": f.PathIntegral(problem.window, problem.stride, scope=problem.scope),
        }.items():
            post = f.particle_filter(
                problem.model, y, times=times, particles=60, proposal=proposal, smooth=True,
                generator=generator(2),
            )  # fmt: skip
            yield from laws(f"{kind} {name}", post)
            if name != "bootstrap":
                yield f"{kind} {name}, smoothed", post.smoothed()[0]
            yield f"{kind} {name}, quantile", post.quantile(0.3)
        if problem.model.linear:
            yield from gaussian(f"{kind} kalman", f.kalman(problem.model, y, times=times))
    for kind, low, high in (("double-well", -3, 3), ("square", -5, 5)):
        problem = PROBLEMS[kind]()
        y, times = simulated(problem, 5)
        yield from gaussian(
            f"{kind} grid",
            f.grid_filter(problem.model, y, times=times, low=low, high=high, points=300),
        )
    y, times = simulated(PROBLEMS["benes"]())
    yield from gaussian("benes exact", f.benes_filter(y, times=times, cov=1e-4))
    choice = f.choose_window(
        PROBLEMS["tracking"]().model, simulated(PROBLEMS["tracking"](), 30)[0],
        times=PROBLEMS["tracking"]().times[:30], first=0.3, generator=generator(),
    )  # fmt: skip
    yield "window tried", torch.tensor(choice.tried)


def options():
    """Yield every option of the path-integral proposal, on a linear and a nonlinear problem."""
    changes = {
        "lq": {"twisting": "lq"}, "ilqr": {"twisting": "ilqr"}, "unguided": {"twisting": "none"},
        "own guide": {"twisting": lambda window, guide: replace(guide, gain=0.9 * guide.gain)},
        "particle": {"scope": "particle"}, "shift": {"proposal": "shift"},
        "sweeps": {"sweeps": 1}, "iterations": {"iterations": 2},
        "open loop": {"iterations": 2, "family": "open_loop"},
        "covariance": {"iterations": 2, "family": "feedback+cov"},
        "refined from none": {"iterations": 2, "twisting": "none"},
        "archive": {"mode": "archive"}, "no look-ahead": {"look_ahead": False},
        "oversampled": {"init": "oversample", "oversample": 3}, "prior": {"init": "prior"},
        "calm": {"rao_blackwell": True}, "stride": {"stride": 0.6},
        "whole": {"window": math.inf, "stride": math.inf},
        "threshold": {"look_ahead": False, "ess_threshold": 0.95},
        **{scheme: {"resampling": scheme} for scheme in SCHEMES},
    }  # fmt: skip
    for kind in ("tracking", "double-well"):
        problem = PROBLEMS[kind]()
        y, times = simulated(problem, 10)
        y[0, 4] = math.nan
        for name, change in changes.items():
            option = replace(f.PathIntegral(problem.window), **change)
            post = f.particle_filter(
                problem.model, y, times=times, particles=50, proposal=option, smooth=True,
                generator=[generator(3), generator(4)],
            )  # fmt: skip
            yield from laws(f"{kind} {name}", post)
            yield f"{kind} {name}, smoothed", post.smoothed()[1]
            if name in ("lq", "archive"):
                lagged = post.smoothed(problem.window / 5 if kind == "tracking" else 0.5)
                yield f"{kind} {name}, lagged", lagged[0]
        for scheme in SCHEMES:
            post = f.particle_filter(
                problem.model, y, times=times, particles=600,
                proposal=f.Bootstrap(0.9, scheme), generator=generator(5),
            )  # fmt: skip
            yield from laws(f"{kind} bootstrap {scheme}", post)
        rest, spread = post.innovations(generator=generator())
        yield f"{kind}, innovations", torch.stack([rest, spread])


def mixed():
    """Return models with each kind of sensor and of dynamics."""
    prior = f.GaussianPrior(torch.tensor([0.3, -0.2], dtype=F64), 0.5 * eye(2))

    def drift(x, t):
        return torch.stack([x[..., 1], -x[..., 0] + torch.sin(t[..., 0] if t.ndim else t)], -1)

    def scale(x, t):
        return torch.diag_embed(0.3 + 0.1 * torch.cos(x))

    line = torch.tensor([[1.0, 0.5]], dtype=F64)
    full = torch.tensor([[0.04, 0.01], [0.01, 0.09]], dtype=F64)
    A = torch.tensor([[0.0, 1.0], [-1.0, -0.3]], dtype=F64)
    G = torch.tensor([[0.0], [0.4]], dtype=F64)

    def seen(x, t):
        return torch.stack([x[..., 0] ** 2, x[..., 0] + x[..., 1]], -1)

    def counts(y, x, t):
        return y[..., 0] * x[..., 0] - x[..., 0].exp()

    yield "time", f.StateSpace(prior, drift, 0.4, 0.05, f.Sensor(seen, full)), 2
    yield "ito", f.StateSpace(prior, drift, scale, 0.05, f.Sensor(seen, full)), 2
    yield (
        "stratonovich",
        f.StateSpace(
            prior, drift, scale, 0.05, f.Sensor(line, 0.05), calculus="stratonovich"
        ),
        1,
    )  # fmt: skip
    yield "student", f.StateSpace(prior, A, G, 0.1, f.Sensor(seen, full, nu=4.0)), 2
    yield "increment", f.StateSpace(prior, A, G, 0.1, f.Sensor(line, 0.05, "increment")), 1
    yield (
        "curved increment",
        f.StateSpace(prior, drift, G, 0.1, f.Sensor(seen, full, "increment")),
        2,
    )
    yield "counts", f.StateSpace(prior, A, G, 0.1, log_obs=counts), 1
    yield (
        "several",
        f.StateSpace(
            prior, A, 0.3, 0.1, (f.Sensor(line, 0.05), f.Sensor(seen, full)), log_obs=counts
        ),
        4,
    )  # fmt: skip
    yield (
        "matrix drift, scale a function",
        f.StateSpace(prior, A, scale, 0.1, f.Sensor(line, 0.05)),
        1,
    )
    yield (
        "offset",
        f.StateSpace(
            prior, A, G, 0.1, (f.Sensor(eye(2), full), f.Sensor(line, 0.1, "increment")),
            offset=torch.tensor([0.1, -0.3], dtype=F64), start=0.2,
        ),
        3,
    )  # fmt: skip
    yield (
        "discrete",
        f.StateSpace(prior, lambda x, t: 0.9 * x + 0.1 * x.sin(), G, 0.1, f.Sensor(seen, full),
                     time="discrete"),
        2,
    )  # fmt: skip
    yield "discrete linear", f.StateSpace(prior, 0.9 * eye(2) + 0.1 * A, G, 0.1, f.Sensor(line, 0.1),
                                          time="discrete"), 1  # fmt: skip
    yield "no noise at the start", f.StateSpace(
        f.GaussianPrior(torch.zeros(2, dtype=F64), 0 * eye(2)), A, 0.5, 0.1, f.Sensor(eye(2), full)
    ), 2  # fmt: skip
    sets = torch.stack([A, 0.5 * A])
    yield "parameter sets", f.StateSpace(prior, sets, G, 0.1, f.Sensor(line, 0.1)), 1


def models():
    times = [0.4, 0.7, 0.8, 1.3, 1.5]
    proposals = {
        "bootstrap": f.Bootstrap(),
        "guided": f.GuidedProposal(),
        "window": f.PathIntegral(0.6, check=False, rao_blackwell=True),
        "particle": f.PathIntegral(0.6, scope="particle", check=False),
        "refined": f.PathIntegral(0.6, iterations=1, check=False),
    }
    for kind, model, p in mixed():
        y = 0.5 + 0.3 * torch.randn(2, len(times), p, generator=generator(6), dtype=F64)
        if "counts" in kind or kind == "several":
            y[..., -1] = y[..., -1].abs().round()
        y[0, 2], y[1, 3, 0] = math.nan, math.nan
        for name, proposal in proposals.items():
            post = f.particle_filter(
                model, y, times=times, particles=40, proposal=proposal, smooth=True,
                generator=generator(7),
            )  # fmt: skip
            yield from laws(f"{kind} {name}", post)
        single = f.particle_filter(
            model, y[0].nan_to_num(0.4), times=times, particles=40,
            proposal=proposals["window"], generator=generator(8),
        ) if kind != "parameter sets" else post  # fmt: skip
        yield from laws(f"{kind} complete", single)
        if kind in ("time", "offset", "discrete", "curved increment"):
            yield f"{kind}, innovations", torch.stack(single.innovations(generator=generator(9)))
        for name, filter in {
            "extended": f.extended_kalman,
            "iterated": lambda *a, **k: f.extended_kalman(*a, iterations=3, **k),
            "unscented": f.unscented_kalman,
            "ensemble": lambda *a, **k: f.ensemble_kalman(*a, generator=generator(), **k),
        }.items():
            if kind in ("student", "counts", "several", "no noise at the start"):
                continue
            yield from gaussian(f"{kind} {name}", filter(model, y, times=times))
        if model.linear:
            post = f.kalman(model, y, times=times)
            yield from gaussian(f"{kind} kalman", post)
            yield f"{kind} kalman, smoothed", post.smoothed()[0]
            yield f"{kind} kalman, lagged", post.smoothed(2)[1]
        if kind == "several":
            series = [([0.4, 0.7], y[:, :2, :1].nan_to_num()), ([0.7, 1.3, 1.5], y[:, 2:, 1:3].nan_to_num()),
                      ([0.8], y[:, :1, 3:])]  # fmt: skip
            post = f.particle_filter(model, series, particles=30, generator=generator())
            yield from laws("several series", post)
    wide = replace(
        model, initial=lambda shape, generator: torch.ones(*shape, 2, dtype=F64) / 3, dim=2
    )
    for name, proposal in proposals.items():
        post = f.particle_filter(
            wide, y, times=times, particles=40, proposal=proposal, generator=generator(7)
        )
        yield from laws(f"free start {name}", post)


class Positive:
    axes, flat = 1, False

    def retract(self, x, xi):
        return x * xi.exp()

    def local(self, base, x):
        return (x / base).log()

    def mean(self, x, w):
        return (w.unsqueeze(-1) * x.log()).sum(-2).exp()


def curved():
    model = f.StateSpace(
        f.GaussianPrior(torch.tensor([0.3], dtype=F64).exp(), 0.5 * eye(1)),
        lambda x, t: 0.5 * torch.sin(x.log()) - x.log(), 0.6, 0.1, space=Positive(),
        sensors=f.Sensor(lambda x, t: x.log() + 0.2 * x.log() ** 2, 0.05),
    )  # fmt: skip
    times = [0.4, 0.8, 1.2, 1.6]
    y = torch.tensor([[[0.5], [1.0], [math.nan], [2.0]], [[0.0], [0.2], [1.0], [0.0]]], dtype=F64)
    for name, proposal in {
        "bootstrap": f.Bootstrap(), "guided": f.GuidedProposal(), "auxiliary": f.AuxiliaryProposal(),
        "window": f.PathIntegral(0.8), "particle": f.PathIntegral(0.8, scope="particle"),
        "archive": f.PathIntegral(0.8, mode="archive", rao_blackwell=True),
        "refined": f.PathIntegral(0.8, iterations=2),
    }.items():  # fmt: skip
        post = f.particle_filter(
            model, y, times=times, particles=40, proposal=proposal, smooth=True,
            generator=generator(3),
        )  # fmt: skip
        yield from laws(f"positive {name}", post)
        yield f"positive {name}, quantile", post.quantile(0.9)


def relatives():
    problem = PROBLEMS["lorenz"]()
    y, times = simulated(problem, 6)
    for name, post in {
        "extended": f.extended_kalman(problem.model, y, times=times),
        "iterated": f.extended_kalman(problem.model, y, times=times, iterations=3),
        "unscented": f.unscented_kalman(problem.model, y, times=times, spread=0.7),
        "ensemble": f.ensemble_kalman(problem.model, y, times=times, members=20,
                                      generator=generator()),
    }.items():  # fmt: skip
        yield from gaussian(f"lorenz {name}", post)


def streams():
    for kind, proposal in (
        ("tracking", f.PathIntegral(0.5, rao_blackwell=True)),
        ("double-well", f.GuidedProposal()),
        ("lorenz", f.Bootstrap()),
    ):
        problem = PROBLEMS[kind]()
        y, times = simulated(problem, 12)
        filter = f.ParticleFilter(problem.model, 40, proposal, smooth=True)
        state = filter.init(2)
        for k, t in enumerate(times):
            state, law = filter.update(state, t, y[:, k], generator=generator(k))
        yield f"stream {kind}, mean", law.mean
        yield f"stream {kind}, cov", law.cov
        yield f"stream {kind}, log evidence", law.log_evidence


def parameters():
    def model(theta, time="continuous"):
        sensor = f.Sensor(torch.tensor([[1.0, 0.0]], dtype=F64), theta[1].exp())
        A = torch.stack(
            [
                torch.stack([0 * theta[0], 1 + 0 * theta[0]]),
                torch.stack([-theta[0], -1 + 0 * theta[0]]),
            ]
        )
        return f.StateSpace(f.GaussianPrior(torch.zeros(2, dtype=F64), eye(2)), A, 0.5, 0.1, sensor,
                            time=time)  # fmt: skip

    first = torch.tensor([1.0, -2.0], dtype=F64)
    times = [0.3 * k for k in range(1, 9)]
    _, y = model(first).simulate(times, generator=generator())
    for name, run in {
        "kalman": lambda m: f.kalman(m, y, times=times),
        "one window": lambda m: f.particle_filter(
            m, y, times=times, particles=3, proposal=f.PathIntegral(math.inf, math.inf),
            generator=generator(),
        ),
        "bootstrap": lambda m: f.particle_filter(m, y, times=times, generator=generator()),
        "guided": lambda m: f.particle_filter(
            m, y, times=times, proposal=f.GuidedProposal(scope="shared"), generator=generator()
        ),
    }.items():  # fmt: skip
        theta = first.clone().requires_grad_()
        run(model(theta)).log_evidence.sum().backward()
        yield f"gradient {name}", theta.grad
    chain = pmmh(
        model, lambda theta: -0.5 * (theta**2).sum(), y[0], first, scale=0.2, draws=5, times=times,
        particles=20, generator=generator(),
    )  # fmt: skip
    yield "pmmh", torch.cat([chain.theta, chain.log_evidence[:, None]], 1)
    start = f.StateSpace(f.GaussianPrior(torch.zeros(2, dtype=F64), eye(2)), 0.8 * eye(2), 1.0, 1.0,
                         f.Sensor(eye(2), 0.1), time="discrete")  # fmt: skip
    _, y = start.simulate(range(1, 15), generator=generator())
    found = em(start, y[0], times=range(1, 15), sweeps=2, generator=generator())
    yield "em", torch.stack([found[-1].drift, found[-1].scale])
