"""The tilted toy: two modes in one dimension under a rule, with its answer; used by laws of guidance."""

import math

import torch

import redrift as rd
from problems import F64, generator

VP = rd.VP()
MEAN, STD, LOSS = 0.790, 0.213, 0.489  # of the tilted toy, by Gauss's formulas


def generators(n, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(n)]


def toy():
    """Return the two-mode prior in one dimension; its rule wants x near .6."""
    return rd.denoise.GaussianMixture(
        torch.tensor([0.7, 0.3], dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64),
        torch.tensor([0.3, 0.3], dtype=F64), VP,
    )  # fmt: skip


def rule(x):
    return 6 * (x[:, 0] - 0.6) ** 2


def chain(steps=60):
    return rd.ddpm(VP, rd.timegrid(VP, steps))


def run(guide, n=256, model=None, plan=None, seed=0, **options):
    model, plan = model or toy(), plan or chain()
    x = rd.sample(
        model, plan, shape=(n, 1), dtype=F64, policy=guide, generator=generator(seed), **options
    )
    return x, guide.results[-1]


class Spied:
    """A strategy that shows every call of one of its methods, with what it returned."""

    def __init__(self, inner, method, see):
        self.inner, self.method, self.see = inner, method, see

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name != self.method:
            return found

        def call(*arguments):
            out = found(*arguments)
            self.see(*arguments, out)
            return out

        return call


def selected(guide, see):
    """Show every choice of a policy as see(run, law, candidates, move)."""
    guide.selection = Spied(
        guide.selection, "select", lambda run, law, found, _, move: see(run, law, found, move)
    )
    return guide


def chain_constant(plan, model, sites=600):
    """Return Z = E exp(-rule(x)) of the discrete chain itself, by a dense grid."""
    grid = torch.linspace(-7, 7, sites, dtype=F64)
    h = float(grid[1] - grid[0])
    value = torch.exp(-rule(grid[:, None]))
    for row in reversed(list(plan.rows)):
        e = model.ask(grid[:, None], row.start, plan.wants)[:, 0]
        mean = float(row.A[-1]) * grid + float(row.C[-1][0]) * e
        std = float(row.B)
        if std < 2 * h:  # a narrow step: five Gauss-Hermite nodes on the interpolated value
            nodes, weights = hermite()
            at = mean[:, None] + std * nodes
            value = (interpolate(value, at, grid, h) * weights).sum(1)
            continue
        density = torch.exp(-((grid[None] - mean[:, None]) ** 2) / (2 * std**2))
        value = (density * value[None]).sum(1) * h / (std * math.sqrt(2 * math.pi))
    start = float(plan.process.root(plan.times[0]))
    first = torch.exp(-(grid**2) / (2 * start**2)) / (start * math.sqrt(2 * math.pi))
    return float((first * value).sum() * h)


def hermite():
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def interpolate(value, at, grid, h):
    place = ((at - grid[0]) / h).clamp(0, len(grid) - 1.001)
    i = place.floor().long()
    share = place - i
    return (1 - share) * value[i] + share * value[i + 1]
