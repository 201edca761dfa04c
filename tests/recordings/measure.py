"""Weights, resampling by every method, kernels, rollouts and Girsanov's formula."""

import torch

from redrift import measure as m
from redrift.measure.resampling import comb, shifts
from redrift.rollout import rollout

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def outputs():
    for shape in ((7,), (3, 40), (2, 3, 600)):
        log_w = 2 * torch.randn(shape, generator=generator(), dtype=F64)
        log_w[..., 0] = -torch.inf
        w = m.Weights(log_w)
        for figure in ("log_z", "log_z_se", "ess", "max_share", "k_hat", "log_normalised"):
            yield f"{figure} {shape}", getattr(w, figure)
        for method in ("systematic", "stratified", "multinomial", "residual"):
            for n in (5, 700):
                yield f"{method} {n} {shape}", m.resample(log_w, n, method, generator())
        if len(shape) == 2:
            sound = w.normalised
            shift = shifts(shape[0], shape[1], sound, generator())
            yield f"comb {shape}", comb(sound, shape[1], shift)
    base = m.GaussianKernel(lambda x: 0.9 * x, 0.3)
    q = [base.controlled(lambda x: -x)] * 4
    x0 = torch.randn(6, 2, generator=generator())
    for options in ({}, {"antithetic": True}, {"reverse": True}):
        run = rollout(q, [base] * 4, x0, generator=generator(), path=True, **options)
        yield f"rollout {options}", run.log_weight
        yield f"rollout {options}, path", run.path
    u, dB = torch.randn(2, 4, 6, 2, generator=generator())
    yield "girsanov", m.log_girsanov(u, dB, torch.full((4,), 0.25))
    yield "cost", m.control_cost(u, torch.full((4,), 0.25))
