r"""The tail of importance weights: k-hat, and weights smoothed by the fitted tail.

The largest M = min(N / 5, 3 sqrt N) weights beyond a threshold are fitted by a generalised Pareto law,
P(w > x) = (1 + k x / sigma)^(-1/k). Moments of order below 1 / k exist: k < 1/2 means a finite
variance, beyond .7 no useful number of samples makes the estimate reliable, k >= 1 means no mean.

Paper: Vehtari, Simpson, Gelman, Yao and Gabry, arXiv:1507.02646 (M, the threshold .7, smoothing by
expected order statistics); Zhang and Stephens (2009), Technometrics 51, the estimator of k.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST = 5  # numbers that a tail needs to be fitted


def pareto_k(log_w: Tensor) -> Tensor:
    """Return k-hat of each set of log-weights (..., N): (...), float64.

    NaN is never returned: fewer than 25 weights above 0 cannot be judged and give +inf; equal
    weights give -inf.
    """
    flat = log_w.detach().double().reshape(-1, log_w.shape[-1])
    found = [_fit(row)[0] for row in flat]
    return torch.tensor(found, dtype=torch.float64).reshape(log_w.shape[:-1])


def smooth(log_w: Tensor) -> Tensor:
    """Return log-weights (..., N) whose tail is replaced by the fitted law's order statistics.

    None becomes larger than the largest. Biased, with less variance; sets whose tail cannot be
    fitted are returned as they are.
    """
    flat = log_w.detach().double().reshape(-1, log_w.shape[-1])
    return torch.stack([_smooth(row) for row in flat]).reshape(log_w.shape).to(log_w.dtype)


def _fit(row: Tensor) -> tuple[float, float, float, Tensor]:
    """Return k, log sigma (relative to the largest weight), log threshold, and the tail's places."""
    none = torch.empty(0, dtype=torch.long)
    top = row.amax()
    if not bool(torch.isfinite(top)):
        return math.inf, 0.0, 0.0, none
    values, places = (row - top).sort()
    n = len(row)
    size = math.ceil(min(0.2 * n, 3 * math.sqrt(n)))
    size = min(size, int(torch.isfinite(values).sum()) - 1)
    if float(values[0]) > -1e-12:
        return -math.inf, 0.0, 0.0, none
    if size < _LEAST:
        return math.inf, 0.0, 0.0, none
    threshold = values[-size - 1]
    excess = values[-size:].exp() - threshold.exp()
    excess = excess[excess > 0]
    if len(excess) < _LEAST:  # most of the largest weights are equal: no tail at all
        return -math.inf, 0.0, 0.0, none
    k, sigma = _zhang_stephens(excess)
    # a weak prior at 1/2, worth ten observations, as in the paper
    k = (k * len(excess) + 5) / (len(excess) + 10)
    return k, math.log(sigma), float(threshold), places[-size:]


def _zhang_stephens(x: Tensor) -> tuple[float, float]:
    """Return k and sigma of a generalised Pareto law for sorted x > 0."""
    n = len(x)
    grid = torch.arange(1, 30 + int(math.sqrt(n)) + 1, dtype=x.dtype)
    quarter = x[max(0, int(n / 4 + 0.5) - 1)]
    theta = 1 / x[-1] + (1 - (len(grid) / (grid - 0.5)).sqrt()) / (3 * quarter)
    k = torch.log1p(-theta[:, None] * x).mean(1)
    likelihood = n * (torch.log(-theta / k) - k - 1)
    mean = float((likelihood.softmax(0) * theta).sum())
    k_hat = float(torch.log1p(-mean * x).mean())
    return k_hat, -k_hat / mean


def _smooth(row: Tensor) -> Tensor:
    k, log_sigma, threshold, places = _fit(row)
    if not math.isfinite(k) or len(places) == 0:
        return row
    p = (torch.arange(len(places), dtype=row.dtype) + 0.5) / len(places)
    quantile = torch.expm1(-k * torch.log1p(-p)) / k if abs(k) > 1e-12 else -torch.log1p(-p)
    tail = torch.logaddexp(torch.full_like(p, threshold), log_sigma + quantile.log())
    out = row.clone()
    out[places] = tail.clamp(max=0.0) + row.amax()
    return out
