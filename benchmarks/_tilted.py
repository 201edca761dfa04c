"""A tilted mixture in one dimension whose answer is known: the table of guidance methods.

Prior: modes -1 and 1 with weights .7 and .3, standard deviation .3. Rule: J = 6 (x - .6)^2. The tilted
law is proportional to the prior times exp(-J); 60 steps of DDPM.
"""

import math

import numpy as np
import torch

import redrift as rd
from redrift.guidance import (
    DPS,
    SCG,
    SVDD,
    BestOfN,
    Draws,
    FKSteering,
    Particles,
    TreeG,
    TwistedSMC,
)

F64 = torch.float64
STEPS = 60


def model():
    return rd.denoise.GaussianMixture(
        torch.tensor([0.7, 0.3], dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64),
        torch.tensor([0.3, 0.3], dtype=F64), rd.VP(),
    )  # fmt: skip


def rule(x):
    return 6 * (x[:, 0] - 0.6) ** 2


class AtTheOldLevel(Draws):
    """SCG as released: candidates are judged at the level they came from, and the last step is a draw."""

    def propose(self, run, law):
        drawn = super().propose(run, law._replace(level=law.start))
        if law.last:
            drawn = drawn._replace(loss=torch.zeros_like(drawn.loss))
        # its prediction is of another level: the next step asks again
        return drawn._replace(prediction=None)


METHODS = {
    "no guidance": lambda: BestOfN(rule, 1),
    "SCG n=4": lambda: SCG(rule, candidates=4, active=(1.0, 0.0)),
    "SCG n=16": lambda: SCG(rule, candidates=16, active=(1.0, 0.0)),
    "SCG n=16, at the old level": lambda: Particles(rule, proposal=AtTheOldLevel(16)),
    "TreeG 4 x 4": lambda: TreeG(rule, beams=4, candidates=4, active=(1.0, 0.0)),
    "best of 16": lambda: BestOfN(rule, 16),
    "SVDD n=4": lambda: SVDD(rule, candidates=4),
    "SVDD n=16": lambda: SVDD(rule, candidates=16),
    "SVDD n=16, tempered": lambda: SVDD(rule, candidates=16, tempering=2.0),
    "weighted SVDD n=16, K=16": lambda: SVDD(rule, candidates=16, particles=16, weighted=True),
    "FK K=64": lambda: FKSteering(rule, particles=64),
    "FK K=64, max": lambda: FKSteering(rule, particles=64, potential="max"),
    "FK K=64, sum": lambda: FKSteering(rule, particles=64, potential="sum"),
    "FK K=16": lambda: FKSteering(rule, particles=16),
    "FK K=16, not tempered": lambda: FKSteering(rule, particles=16, tempering=0.0),
    "twisted K=64, DPS .1": lambda: TwistedSMC(rule, particles=64),
}


def truth():
    """Return mean, standard deviation and E[J] of the tilted law, on a grid."""
    x = torch.linspace(-6, 6, 200_001, dtype=F64)
    prior = sum(w * torch.exp(-((x - m) ** 2) / 0.18) for w, m in ((0.7, -1), (0.3, 1)))
    J = rule(x[:, None])
    p = prior * torch.exp(-J)
    p = p / p.sum()
    mean = float((p * x).sum())
    std = math.sqrt(float((p * x**2).sum()) - mean**2)
    return {"mean": mean, "sd": std, "loss": float((p * J).sum())}


def constant(plan, prior, sites=7200):
    """Return E exp(-J) of the discrete chain itself, backwards on a grid of states."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    grid = torch.linspace(-7, 7, sites, dtype=F64)
    value = -rule(grid[:, None])  # its logarithm, which is smooth
    for row in reversed(list(plan.rows)):
        e = prior.ask(grid[:, None], row.start, plan.wants)[:, 0]
        mean = float(row.A[-1]) * grid + float(row.C[-1][0]) * e
        at = (mean[:, None] + float(row.B) * nodes).numpy()
        found = torch.tensor(np.interp(at, grid.numpy(), value.numpy()))
        value = (found + weights.log()).logsumexp(1)
    at = float(plan.process.root(plan.times[0])) * nodes
    return float(
        (torch.tensor(np.interp(at.numpy(), grid.numpy(), value.numpy())).exp() * weights).sum()
    )


def table(runs):
    """Return mean, standard deviation, E[J] and Z-hat / Z of every method over independent runs."""
    prior = model()
    plan = rd.ddpm(rd.VP(), rd.timegrid(rd.VP(), STEPS))
    Z = constant(plan, prior)
    rows = {}
    for name, make in METHODS.items():
        guide = make()
        asked = DPS(prior, rule, 0.1, root=False) if name.startswith("twisted") else prior
        x = rd.sample(asked, plan, shape=(runs, 1), dtype=F64, policy=guide, batch_size=250,
                      generator=[torch.Generator().manual_seed(i) for i in range(runs)])  # fmt: skip
        row = {"mean": float(x.mean()), "sd": float(x.std()), "loss": float(rule(x).mean()),
               "evaluations": guide.results[-1].evaluations}  # fmt: skip
        if guide.weighted:
            z = torch.cat([r.weights.log_z for r in guide.results]).exp() / Z
            row |= {"z": float(z.mean()), "z_se": float(z.std()) / math.sqrt(runs)}
        rows[name] = row
        print(f"{name:36s}" + "".join(f" {k} {v:.4g}" for k, v in row.items()), flush=True)
    found = {"runs": runs, "steps": STEPS, "Z": Z, "truth": truth(), "methods": rows}
    return found | {"few particles": few(runs, plan, prior, Z)}


def few(runs, plan, prior, Z):
    """Return how Z-hat / Z of Feynman-Kac steering is spread over very many runs, against K.

    Beside mean and standard error: the median run, the share of runs that carry half of the mean, and
    how often a set of 500 runs would report a mean more than two of its own standard errors below 1.
    """
    rows = {}
    for K, times in ((2, 100), (4, 200), (8, 100), (16, 100), (64, 20)):
        n = runs * times
        guide = FKSteering(rule, particles=K)
        rd.sample(prior, plan, shape=(n, 1), dtype=F64, policy=guide, batch_size=10_000,
                  generator=torch.Generator().manual_seed(100 + K))  # fmt: skip
        z = torch.cat([r.weights.log_z for r in guide.results]).exp() / Z
        carried = z.sort(descending=True).values.cumsum(0) < z.sum() / 2
        sets = z[: n // 500 * 500].reshape(-1, 500)
        low = sets.mean(1) < 1 - 2 * sets.std(1) / math.sqrt(500)
        rows[K] = {
            "runs": n, "z": float(z.mean()), "z_se": float(z.std()) / math.sqrt(n),
            "median": float(z.median()), "largest": float(z.max()),
            "half carried by": float(carried.double().mean()), "low": float(low.double().mean()),
        }  # fmt: skip
        print(f"FK K={K}", rows[K], flush=True)
    return rows
