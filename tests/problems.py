"""Test problems with exact answers, and the two processes that stand for what is to come."""

import dataclasses
import functools
import math

import torch

import redrift as rd
from redrift._core.dct import dct, idct
from redrift.denoise import GaussianMixture
from redrift.process import PROCESSES, Process, ScalarProcess, TableProcess
from redrift.solvers import walk

F64 = torch.float64


def double(*values):
    return torch.tensor(values, dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclasses.dataclass(frozen=True)
class Spring(Process):
    """k = 2: a critically damped spring under noise on the velocity, from a small clean cloud."""

    k = 2

    @property
    def horizon(self):
        return 3.0

    @property
    def interval(self):
        return (3.0, 0.05)

    def _F(self):
        return torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=F64)

    def signal(self, t):
        return torch.matrix_exp(self._F() * t[..., None, None])

    def cov(self, t):
        # the stationary covariance is I, so the deviation from it decays with the signal
        start = torch.diag(double(1e-2, 4e-2)) - torch.eye(2, dtype=F64)
        signal = self.signal(t)
        return torch.eye(2, dtype=F64) + signal @ start @ signal.mT

    def drift(self, t):
        return self._F().expand(*t.shape, 2, 2)

    def diffusion(self, t):
        return torch.diag(double(0.0, 2.0)).expand(*t.shape, 2, 2)


@dataclasses.dataclass(frozen=True)
class Melt(Process):
    """modes (4, 4): high frequencies of the cosine basis fade first."""

    modes = (4, 4)

    @property
    def horizon(self):
        return 0.99

    @property
    def interval(self):
        return (0.95, 0.05)

    def _decay(self):
        f = math.pi * torch.arange(4, dtype=F64) / 4
        return 0.2 * (f[:, None] ** 2 + f**2)

    def signal(self, t):
        t = t[..., None, None]
        return (torch.cos(t * math.pi / 2) * torch.exp(-self._decay() * t))[..., None, None]

    def cov(self, t):
        full = torch.sin(t * math.pi / 2)[..., None, None, None, None] ** 2
        return full.expand(*t.shape, 4, 4, 1, 1)

    def drift(self, t):
        t = t[..., None, None]
        rate = -math.pi / 2 * torch.tan(t * math.pi / 2) - self._decay()
        return rate[..., None, None]

    def diffusion(self, t):
        # G^2 = d cov / dt - 2 F cov
        angle = t[..., None, None, None, None] * math.pi / 2
        growth = math.pi * torch.sin(angle) * torch.cos(angle)
        return (growth - 2 * self.drift(t) * self.cov(t)).sqrt()

    def to(self, x):
        return dct(x, 2)

    def back(self, z):
        return idct(z, 2)


@functools.cache
def discrete():
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=F64)
    return TableProcess(tuple(torch.cumprod(1 - betas, 0).tolist()))


def scalar_processes():
    """Return one of each registered scalar process, by name."""
    kinds = {n: kind for n, kind in PROCESSES.items() if issubclass(kind, ScalarProcess)}
    own = {name: kind() for name, kind in kinds.items() if kind is not TableProcess}
    return {**own, "cosine": rd.VP(schedule="cosine"), "TableProcess": discrete()}


def all_processes():
    own = {"CLD": rd.CLD(), "CLD, other": rd.CLD(beta=3.0, beta_slope=2.0, mass=0.5, gamma=0.1)}
    own["Blur"] = rd.Blur((4, 4), blur=2.0)
    return {**scalar_processes(), **own, "Spring": Spring(), "Melt": Melt()}


def mixture(process, *, components=4, dim=4, low=0.15, high=0.3, seed=0):
    """Return the smooth mixture of the order laws on a process."""
    g = generator(seed)
    weights = torch.rand(components, generator=g, dtype=F64) + 0.3
    if process.modes:
        means = torch.randn(components, 1, *process.modes, generator=g, dtype=F64) / 2
        return GaussianMixture(weights, means, torch.full((components,), 0.3, dtype=F64), process)
    means = torch.randn(components, dim, generator=g, dtype=F64) / 2
    means = means - (weights / weights.sum()) @ means
    std = low + (high - low) * torch.rand(components, dim, generator=g, dtype=F64)
    return GaussianMixture(weights, means, std, process)


def wide(process, *, components=8, dim=12, seed=0):
    """Return a mixture with the spectrum of pictures: standard deviations from 12 down to .03."""
    g = generator(seed)
    scale = 12.0 * (0.03 / 12.0) ** torch.linspace(0, 1, dim, dtype=F64)
    means = 0.6 * scale * torch.randn(components, dim, generator=g, dtype=F64)
    std = scale * (0.5 + 0.3 * torch.rand(components, dim, generator=g, dtype=F64))
    return GaussianMixture(torch.ones(components, dtype=F64), means, std, process)


def noisy_start(model, t, n, seed=1):
    """Draw states from the exact marginal at time t, modal."""
    g = generator(seed)
    process = model.process
    level = process.level(torch.as_tensor(t, dtype=F64))
    clean = process.lift(model.sample(n, generator=g))
    noise = torch.randn(clean.shape, generator=g, dtype=F64)
    from redrift._core.linalg import apply

    return apply(level.signal, clean, process.modes) + apply(level.root, noise, process.modes)


def follow(model, plan, z, *, rows=None, past=()):
    """Walk a plan from a modal state and return the modal result."""
    process = plan.process
    steps = walk(
        plan.rows if rows is None else rows,
        z,
        modes=process.modes,
        history=plan.history,
        past=past,
    )
    try:
        ask = next(steps)
        while True:
            ask = steps.send(model.ask(ask.z, ask.level, plan.wants))
    except StopIteration as stop:
        return stop.value


def flow_exactly(model, z, start, stop, steps=1500):
    """Solve the probability-flow ODE from start to stop to about 1e-12."""
    process = model.process
    grid = rd.timegrid(process, steps, _even(process), start=start, stop=stop)
    variable = "logrho" if _even(process) == "logsnr" else "t"
    return follow(model, rd.deis(process, grid, order=4, variable=variable), z)


def _even(process):
    return "logsnr" if process.k == 1 and not process.modes else "uniform"


def even_grid(process, steps, start, stop):
    return rd.timegrid(process, steps, _even(process), start=start, stop=stop)


def slopes(errors):
    return [math.log2(a / b) for a, b in zip(errors, errors[1:])]
