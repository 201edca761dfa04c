"""Exact filters of models that are not linear: a grid in one dimension, and Benes' model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift.filters.posterior import GaussianPosterior
from redrift.statespace.dataset import Data, read_dataset
from redrift.statespace.model import StateSpace
from redrift.statespace.observation import stacked
from redrift.statespace.prior import GaussianPrior


def grid_filter(
    model: StateSpace,
    y: Data,
    *,
    times: Tensor | Sequence[float] | None = None,
    low: float,
    high: float,
    points: int = 1000,
) -> GaussianPosterior:
    """Filter a one-dimensional model on a grid of states: exact for its time grid, to quadrature.

    The density is kept by its values at equally spaced points; a step multiplies by the dense Gaussian
    kernel. Take low and high beyond all mass, and a spacing below the step's and the sensors'
    standard deviation.

    Args:
        model: with d = 1 and time-invariant drift and scale; any sensor.
        y: as for `kalman`.
        times: as for `kalman`.
        low: least state.
        high: largest state.
        points: how many.

    Returns:
        Means and variances at every time, and the log-evidence.

    Raises:
        ValueError: if d is not 1, the space is curved or the start is not Gaussian.

    Cost:
        points^3 per kind of interval between measurements, points^2 per measurement.
    """
    if model.dim != 1:
        raise ValueError(f"grid_filter is for one dimension, the model has {model.dim}.")
    if not model.space.flat:
        raise ValueError("grid_filter adds states, but the space is curved: use particle_filter.")
    data = read_dataset(model, y, times)
    x = torch.linspace(low, high, whole("points", points, least=3), dtype=torch.float64)
    p = _first(model, x).expand(data.batch, -1)
    log_z, kernels = data.y.new_zeros(data.batch), {}
    means, variances, now = [], [], model.start
    at = x.reshape(1, 1, -1, 1).expand(1, data.batch, -1, 1)
    for k, until in enumerate(data.times):
        steps = model.grid(now, until)
        key = (len(steps), round(steps[0] - now, 10))
        if key not in kernels:
            kernel = _kernel(model, x, now, steps[0] - now)
            kernels[key] = torch.linalg.matrix_power(kernel, len(steps))
        p, now = p @ kernels[key], until
        if bool(data.observed(k).any()):
            log_l = model.log_likelihood(stacked([data.observation(k)], x), at)[0]
            top = log_l.amax(-1, keepdim=True)
            p = p * (log_l - top).exp()
            total = p.sum(-1, keepdim=True)
            p, log_z = p / total, log_z + total.log()[:, 0] + top[:, 0]
        mean = p @ x
        means.append(mean)
        variances.append((p * (x - mean.unsqueeze(-1)) ** 2).sum(-1))
    mean, var = torch.stack(means, 1).unsqueeze(-1), torch.stack(variances, 1)[..., None, None]
    return GaussianPosterior.of(data, mean, var, log_z)


def _first(model: StateSpace, x: Tensor) -> Tensor:
    if not isinstance(model.initial, GaussianPrior):
        raise ValueError("grid_filter needs a Gaussian first state.")
    m, P = float(model.initial.mean.flatten()[0]), float(model.initial.cov[0, 0])
    p = (-0.5 * (x - m) ** 2 / P).exp()
    return p / p.sum()


def _kernel(model: StateSpace, x: Tensor, t: float, h: float) -> Tensor:
    at = x.unsqueeze(-1)
    m = model.advance(at, t, h)
    G = model.root(at, t, h)
    var = (G @ G.mT).reshape(-1, 1)
    kernel = (-0.5 * (x - m) ** 2 / var).exp()
    return kernel / kernel.sum(-1, keepdim=True)


def benes_filter(
    y: Tensor, *, times: Tensor | Sequence[float], cov: float, spread: float = 0.25
) -> GaussianPosterior:
    r"""Filter Benes' model exactly: dX = tanh X dt + dW, y = X + noise.

    The density stays cosh(x) N(x; m, P) / (e^{P/2} cosh m), where m and P are Kalman's for Brownian
    motion: mean m + P tanh m, variance P + P^2 / cosh^2 m. The start is of that form with m = 0, a
    mixture of N(+P, P) and N(-P, P).

    Args:
        y: (K, 1) or (B, K, 1), NaN where missing.
        times: (K,), from time 0.
        cov: variance of the sensor.
        spread: P of the start.

    Paper: Benes (1981), Exact finite-dimensional filters for certain diffusions.
    """
    single = y.ndim == 2
    y = (y.unsqueeze(0) if single else y).double()[..., 0]
    m, P, now = y.new_zeros(len(y)), y.new_full((len(y),), spread), 0.0
    log_z, means, variances = y.new_zeros(len(y)), [], []
    for k, t in enumerate(float(v) for v in times):
        P, now = P + t - now, t
        there = ~y[:, k].isnan()
        S = P + cov
        gain, error = torch.where(there, P / S, 0.0), torch.where(there, y[:, k] - m, 0.0)
        after, left = m + gain * error, P - gain * P
        score = -0.5 * error**2 / S - 0.5 * (2 * math.pi * S).log()
        score = score + _log_mass(after, left) - _log_mass(m, P)
        log_z = log_z + torch.where(there, score, 0.0)
        # P grows by the time passed before the update, which leaves the mass' ratio e^{dt/2}:
        m, P = after, left
        means.append(m + P * m.tanh())
        variances.append(P + P**2 / m.cosh() ** 2)
    mean, var = torch.stack(means, 1).unsqueeze(-1), torch.stack(variances, 1)[..., None, None]
    if single:
        mean, var, log_z = mean[0], var[0], log_z[0]
    return GaussianPosterior(torch.as_tensor(times, dtype=torch.float64), mean, var, log_z)


def _log_mass(m: Tensor, P: Tensor) -> Tensor:
    """Return log of the integral of cosh(x) N(x; m, P)."""
    return P / 2 + m.abs() + torch.log1p((-2 * m.abs()).exp()) - math.log(2)
