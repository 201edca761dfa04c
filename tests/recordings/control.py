"""Samplers of densities: every loss and option of a short fit, samples and weights, baselines, files."""

import dataclasses
import tempfile
import warnings

import torch

import redrift as rd
from redrift import control as c
from redrift.control.density import checked
from redrift.process import OrnsteinUhlenbeck
from redrift.targets import TARGETS, grid9


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters(pis):
    return torch.cat([value.flatten() for value in pis.net.state_dict().values()])


def sampler(**options):
    names = ("gradient", "spread", "dtype")
    net = {name: options.pop(name) for name in names if name in options}
    return c.PIS(grid9(), **({"steps": 12, "network": c.Architecture(16, 1, **net)} | options))


def fit(pis, iterations, *, samples=None, start=None, refresh=250, own=0.5, search=2, **options):
    """Fit with options by name: each goes into the object of its concern."""
    objective, optimiser = pis.objective, pis.optimiser
    names = {"loss", "batch", "points", "explore", "detach", "recompute"}
    given = {name: options.pop(name) for name in names & set(options)}
    objective = dataclasses.replace(objective, **given)
    given = {name: options.pop(name) for name in {"decay", "lr", "ema"} & set(options)}
    optimiser = dataclasses.replace(optimiser, **given)
    buffer = c.Buffer(samples, start=start, refresh=refresh, on_policy=own, moves=search)
    return pis.fit(iterations, objective=objective, optimiser=optimiser, buffer=buffer, **options)


def tell(name, pis, n=64):
    """Yield all that a sampler says of itself."""
    yield f"{name}, parameters", parameters(pis)
    yield f"{name}, coordinates", torch.cat([pis.loc.flatten(), pis.scale.flatten()])
    x, w = pis.sample(n, warn=False, generator=generator(5))
    yield f"{name}, samples", x
    yield f"{name}, weights", w.log_w


def outputs():
    warnings.simplefilter("ignore")
    yield from fits()
    yield from samples()
    yield from baselines()
    yield from targets()


def fits():
    """Yield short fits of every loss and option."""
    short = {"particles": 200, "generator": None, "check": False}
    for loss in ("kl", "kl-stl", "lv", "tb", "am", "bm", "mixed"):
        pis = sampler(reference=rd.process.Brownian(horizon=20.0))
        options = short | {"generator": generator()}
        history = fit(pis, 6, loss=loss, batch=16, points=96, **options)
        name = "match" if loss == "mixed" else loss
        yield from tell(f"fit {name}", pis)
        yield f"fit {name}, iterations", torch.tensor(history.iterations)
    for name, options in {
        "measured": {},
        "whole covariance": {"full": True},
        "no gradient": {"gradient": False},
        "fixed variance": {"spread": 0.0},
        "double": {"dtype": torch.float64},
        "OU": {"reference": OrnsteinUhlenbeck(scale=5.0, horizon=3.0)},
        "VP": {"reference": rd.VP(), "scale": torch.full((2,), 5.0)},
        "even grid": {"power": 0.0},
    }.items():
        pis = sampler(**options)
        rows = []
        fit(pis, 
            6, points=96, every=2, callback=lambda row, rows=rows: rows.append(row),
            **short | {"generator": generator()},
        )  # fmt: skip
        yield from tell(f"fit {name}", pis)
        values = [[row["value"], row["elbo"], row["ess"]] for row in rows]
        yield f"fit {name}, rows", torch.tensor(values, dtype=torch.float64)
    for name, options in {
        "phases": {"loss": [("mixed", 0.5), ("kl", 0.5)], "batch": 16},
        "two losses": {"loss": ["bm", "lv"], "batch": 16},
        "explored": {"loss": "lv", "explore": 0.3, "batch": 16},
        "refreshed": {"refresh": 2, "own": 0.5, "search": 2},
        "not refreshed": {"refresh": 0},
        "by epochs": {"decay": "epoch", "lr": 1e-2, "ema": 0.0},
        "with second derivatives": {"loss": "kl", "detach": False, "batch": 16},
        "checkpointed": {"loss": "kl-stl", "recompute": True, "batch": 16},
        "own buffer": {"samples": grid9().sample(300, generator=generator(3))},
        "narrow start": {"start": 2.0},
    }.items():
        pis = sampler()
        fit(pis, 8, **short | {"points": 96, "generator": generator()} | options)
        yield from tell(f"fit {name}", pis)
    paper = c.PIS.paper(grid9(), steps=10)
    fit(paper, 4, batch=16, check=False, generator=generator())
    yield from tell("fit of the paper", paper)
    for name, pis in (
        ("dds", c.dds(grid9(), std=5.0, steps=10)),
        ("dis", c.dis(grid9(), steps=10)),
    ):
        fit(pis, 4, points=96, **short | {"generator": generator()})
        yield from tell(name, pis)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/fit.safetensors"
        for total in (None, 8):
            pis = sampler()
            if total is None:
                with_stop = Stop(4)
                try:
                    fit(pis, 
                        8, points=96, every=4, checkpoint=c.Checkpoint(file), callback=with_stop,
                        **short | {"generator": generator()},
                    )  # fmt: skip
                except KeyboardInterrupt:
                    continue
            fit(pis, 
                8, points=96, every=4, checkpoint=c.Checkpoint(file, resume=True),
                **short | {"generator": generator()},
            )  # fmt: skip
            yield from tell("resumed", pis)
        pis.save(f"{folder}/pis.safetensors")
        yield from tell("loaded", c.PIS.load(f"{folder}/pis.safetensors", grid9()))


class Stop:
    def __init__(self, at):
        self.at = at

    def __call__(self, row):
        if row["iteration"] >= self.at + 4:
            raise KeyboardInterrupt


def samples():
    """Yield what a fitted sampler gives in all its ways."""
    pis = sampler()
    fit(pis, 30, points=240, particles=500, check=False, generator=generator())
    x, w = pis.sample(40, antithetic=True, batch_size=20, generator=generator())
    yield "antithetic", torch.cat([x, w.log_w[:, None]], 1)
    x, w = pis.sample(6, generator=[generator(i) for i in range(6)])
    yield "one generator a sample", torch.cat([x, w.log_w[:, None]], 1)
    yield "log Z", torch.tensor(pis.log_z(200, generator=generator()))
    yield "ELBO", torch.tensor(pis.elbo(200, generator=generator()))
    own = grid9().sample(100, generator=generator(1))
    yield "EUBO", torch.tensor(pis.eubo(own, generator=generator()))
    yield "weights of paths", pis.path_log_weight(own, generator=generator())
    for given in (None, own):
        verdict = pis.check(given, n=200, generator=generator())
        figures = (verdict.log_z, verdict.log_z_se, verdict.ess, verdict.k_hat, verdict.elbo,
                   verdict.eubo, verdict.forward_ess, verdict.missed)  # fmt: skip
        yield f"check {given is None}", torch.tensor(figures, dtype=torch.float64)
    for below in (0.0, 0.5, 0.9, 1.0):
        x, w = c.sample_smc(
            pis, 80, ess_threshold=below, blocks=6, pilot=200, generator=generator()
        )
        yield f"resampled {below}", torch.cat([x, w.log_w[:, None]], 1)
    x, w = c.sample_smc(pis, 80, moves=3, blocks=6, pilot=200, generator=generator())
    yield "resampled and moved", torch.cat([x, w.log_w[:, None]], 1)


def baselines():
    target = grid9()
    density = checked(target.log_prob, target.dim), target.score, target.dim
    for name, options in {
        "adaptive": {},
        "coarse": {"ess_ratio": 0.7},
        "fixed": {"temperatures": 6},
        "importance": {"temperatures": 6, "ess_threshold": 0.0},
        "double": {"dtype": torch.float64, "loc": 0.5, "scale": 6.0},
        "moves": {"moves": 1, "leapfrog_steps": 2},
    }.items():
        run = c.anneal(*density, 150, **{"scale": 4.0} | options, generator=generator())
        yield f"annealed {name}", torch.cat([run.x.double(), run.weights.log_w[:, None]], 1)
        yield (
            f"annealed {name}, facts",
            torch.tensor([run.temperatures, run.acceptance, run.survivors], dtype=torch.float64),
        )
    both = lambda x: (target.log_prob(x), target.score(x))  # noqa: E731
    x, rate = c.hmc(both, torch.randn(20, 2, generator=generator()), 8, generator=generator())
    yield "hmc", x
    yield "hmc, acceptance", torch.tensor(rate)
    for process in (rd.process.Brownian(25.0), OrnsteinUhlenbeck(scale=5.0, horizon=3.0)):
        for curvature in (False, True):
            chain = c.reference_chain(process, 10)
            steer = c.MixtureControl(target, chain, curvature=curvature)
            x = torch.randn(5, 2, generator=generator())
            b, s = steer(3, x)
            yield f"optimal {type(process).__name__} {curvature}", b if s is None else b + s


def targets():
    for name, make in TARGETS.items():
        target = make()
        x = torch.randn(5, target.dim, generator=generator())
        yield f"target {name}", target.log_prob(x)
        yield f"target {name}, score", target.score(x)
