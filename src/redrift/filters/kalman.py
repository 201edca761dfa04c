r"""Kalman's filter and its relatives: exact for linear-Gaussian models, approximations for others.

`kalman` (and Rauch-Tung-Striebel through `.smoothed()`), `extended_kalman` (iterated too),
`unscented_kalman`, `ensemble_kalman`. All walk the grid of the particle filters, so that for linear
models the exact answer is that of the same discrete model, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.rng import Generators, normal
from redrift.filters._jacobian import jacobian
from redrift.filters.posterior import GaussianPosterior
from redrift.filters.record import Data, Record, read
from redrift.filters.statespace import Gaussian, StateSpace

# (mean, P, t, h) -> (mean, P, A) with A the regression of the next state on this one
Move = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor, Tensor]]
# (mean, P, record, k) -> (mean, P, log-likelihood)
Update = Callable[[Tensor, Tensor, Record, int], tuple[Tensor, Tensor, Tensor]]


def kalman(
    model: StateSpace, y: Data, *, times: Tensor | Sequence[float] | None = None
) -> GaussianPosterior:
    """Filter a linear-Gaussian model exactly; `.smoothed()` of the result is RTS.

    Args:
        model: with matrices for drift and sensors, and a Gaussian start.
        y: (K, p) or (B, K, p), NaN where missing, or one (times, y) per sensor.
        times: (K,), increasing.

    Returns:
        Laws at every time; log_evidence differentiable in the model's tensors.

    Raises:
        ValueError: if the model is not linear and Gaussian.

    Cost:
        O(K W d^3), W grid steps between measurements.

    Example:
        >>> from redrift.filters import Gaussian, Sensor
        >>> prior = Gaussian(torch.zeros(1), torch.eye(1))
        >>> model = StateSpace(prior, -torch.eye(1), sensors=Sensor(torch.eye(1), 0.5))
        >>> kalman(model, torch.zeros(3, 1), times=torch.arange(1.0, 4.0)).mean.shape
        torch.Size([3, 1])
    """
    if not model.linear:
        raise ValueError(
            "kalman needs a linear-Gaussian model (matrices for drift and h, a constant scale, a "
            "Gaussian start): use extended_kalman or particle_filter."
        )
    return extended_kalman(model, y, times=times)


def extended_kalman(
    model: StateSpace,
    y: Data,
    *,
    times: Tensor | Sequence[float] | None = None,
    iterations: int = 1,
) -> GaussianPosterior:
    """Filter by linearising around the mean; the iterated filter for iterations above 1.

    Args:
        model: with Gaussian sensors and a Gaussian start.
        y: as for `kalman`.
        times: as for `kalman`.
        iterations: of each measurement's update (Gauss-Newton).

    Raises:
        ValueError: if a sensor or the start is not Gaussian.
    """
    whole("iterations", iterations)

    def move(m: Tensor, P: Tensor, t: float, h: float) -> tuple[Tensor, Tensor, Tensor]:
        x = m.unsqueeze(-2)
        if isinstance(model.drift, Tensor):
            F, ahead = model.matrices(h, m)[0], model.advance(x, t, h)
        else:
            ahead, F = jacobian(lambda p: model.advance(p, t, h), x)
            F = F[:, 0]
        return ahead[:, 0], F @ P @ F.mT + _spread(model, x, t, h), F

    def update(m: Tensor, P: Tensor, record: Record, k: int) -> tuple[Tensor, Tensor, Tensor]:
        R, at = _covariance(model, record, k), m
        seen = record.seen(k)
        for i in range(iterations):
            value, H = _seen(model, record, k, at)
            H = H * seen.unsqueeze(-1)
            back = (H @ (m - at).unsqueeze(-1)).squeeze(-1)
            error = torch.where(seen, record.y[:, k] - value - back, torch.zeros_like(value))
            S = H @ P @ H.mT + R
            gain = torch.linalg.solve(S, H @ P).mT
            if i == 0:
                score = _log_normal(error, S, seen) + _shift(model, record, k)
            at = m + (gain @ error.unsqueeze(-1)).squeeze(-1)
        rest = torch.eye(m.shape[-1], dtype=m.dtype) - gain @ H  # pyright: ignore
        return at, rest @ P @ rest.mT + gain @ R @ gain.mT, score  # pyright: ignore

    return _run(model, y, times, move, update)


def unscented_kalman(
    model: StateSpace,
    y: Data,
    *,
    times: Tensor | Sequence[float] | None = None,
    spread: float = 1.0,
) -> GaussianPosterior:
    """Filter by 2 d + 1 sigma points, sqrt(d + lambda) standard deviations away.

    Args:
        model: with Gaussian sensors and a Gaussian start.
        y: as for `kalman`.
        times: as for `kalman`.
        spread: alpha; lambda = alpha^2 (d + kappa) - d with kappa = max(0, 3 - d), and beta = 2.

    Paper: Julier and Uhlmann (2004).
    """
    d = model.dim
    reach = spread**2 * (d + max(0, 3 - d))
    first = torch.full((2 * d + 1, 1), 0.5 / reach, dtype=torch.float64)
    first[0] = 1 - d / reach
    second = first.clone()
    second[0] += 3 - spread**2

    def points(m: Tensor, P: Tensor) -> Tensor:
        tiny = 1e-13 * torch.eye(d, dtype=m.dtype) * P.diagonal(dim1=-2, dim2=-1).amax()
        root = math.sqrt(reach) * torch.linalg.cholesky(P + tiny).mT
        m = m.unsqueeze(-2)
        return torch.cat([m, m + root, m - root], -2)

    def move(m: Tensor, P: Tensor, t: float, h: float) -> tuple[Tensor, Tensor, Tensor]:
        x = points(m, P)
        there = model.advance(x, t, h)
        ahead = (first * there).sum(-2)
        off, away = there - ahead.unsqueeze(-2), x - m.unsqueeze(-2)
        A = torch.linalg.solve(P, (second * away).mT @ off).mT
        return ahead, (second * off).mT @ off + _spread(model, m.unsqueeze(-2), t, h), A

    def update(m: Tensor, P: Tensor, record: Record, k: int) -> tuple[Tensor, Tensor, Tensor]:
        x, seen = points(m, P), record.seen(k)
        value = _values(model, record, k, x)
        mean = (first * value).sum(-2)
        off = (value - mean.unsqueeze(-2)) * seen.unsqueeze(-2)
        S = (second * off).mT @ off + _covariance(model, record, k)
        cross = (second * off).mT @ (x - m.unsqueeze(-2))
        gain = torch.linalg.solve(S, cross).mT
        error = torch.where(seen, record.y[:, k] - mean, torch.zeros_like(mean))
        score = _log_normal(error, S, seen) + _shift(model, record, k)
        return m + (gain @ error.unsqueeze(-1)).squeeze(-1), P - gain @ S @ gain.mT, score

    return _run(model, y, times, move, update)


def ensemble_kalman(
    model: StateSpace,
    y: Data,
    *,
    times: Tensor | Sequence[float] | None = None,
    members: int = 100,
    generator: Generators = None,
) -> GaussianPosterior:
    """Filter by an ensemble with perturbed measurements.

    Args:
        model: with Gaussian sensors.
        y: as for `kalman`.
        times: as for `kalman`.
        members: N, at least 2.
        generator: one, one per data set, or None.

    Paper: Evensen (1994); Burgers, van Leeuwen and Evensen (1998).
    """
    whole("members", members, least=2)
    record = read(model, y, times)
    x = model.draw(record.batch, members, generator, record.y)
    now, log_z = model.start, record.y.new_zeros(record.batch)
    means, covs = [], []
    for k, until in enumerate(record.clock):
        for then in model.grid(now, until):
            h = then - now
            G = model.root(x, now, h)
            z = normal((*x.shape[:2], G.shape[-1]), generator, dtype=x.dtype)
            noise = z @ G.mT if G.ndim < 4 else (G @ z.unsqueeze(-1)).squeeze(-1)
            x, now = model.advance(x, now, h) + noise, then
        seen = record.seen(k)
        if bool(seen.any()):
            value, R = _values(model, record, k, x), _covariance(model, record, k)
            mean = value.mean(-2)
            off = (value - mean.unsqueeze(-2)) * seen.unsqueeze(-2)
            away = x - x.mean(-2, keepdim=True)
            S = off.mT @ off / (members - 1) + R
            gain = torch.linalg.solve(S, off.mT @ away / (members - 1))
            z = normal((*x.shape[:2], R.shape[-1]), generator, dtype=x.dtype)
            aim = record.y[:, k].unsqueeze(-2) - value - z @ torch.linalg.cholesky(R).mT
            error = torch.where(seen, record.y[:, k] - mean, torch.zeros_like(mean))
            log_z = log_z + _log_normal(error, S, seen) + _shift(model, record, k)
            x = x + torch.where(seen.unsqueeze(-2), aim, torch.zeros_like(aim)) @ gain
        away = x - x.mean(-2, keepdim=True)
        means.append(x.mean(-2))
        covs.append(away.mT @ away / (members - 1))
    return record.gaussian(torch.stack(means, 1), torch.stack(covs, 1), log_z, None)


def _run(
    model: StateSpace, y: Data, times: Tensor | Sequence[float] | None, move: Move, update: Update
) -> GaussianPosterior:
    if not isinstance(model.initial, Gaussian):
        raise ValueError("initial is a function: this filter needs a Gaussian first state.")
    record = read(model, y, times)
    mean = model.initial.mean.to(record.y)
    mean = (mean if mean.ndim == 1 else mean[:, 0]).expand(record.batch, model.dim)
    P = model.initial.cov.to(record.y).expand(record.batch, model.dim, model.dim)
    now, log_z = model.start, record.y.new_zeros(record.batch)
    kept: list[tuple[Tensor, ...]] = []
    for k, until in enumerate(record.clock):
        cross = P
        for then in model.grid(now, until):
            mean, P, A = move(mean, P, now, then - now)
            cross, now = cross @ A.mT, then
        ahead, spread = mean, P
        if bool(record.seen(k).any()):
            mean, P, gain = update(mean, P, record, k)
            P, log_z = 0.5 * (P + P.mT), log_z + gain
        kept.append((mean, P, ahead, spread, cross))
    mean, P, ahead, spread, cross = (torch.stack(v, 1) for v in zip(*kept, strict=True))
    return record.gaussian(mean, P, log_z, (ahead, spread, cross))


def _spread(model: StateSpace, x: Tensor, t: float, h: float) -> Tensor:
    """Return the covariance G G' of a step at means (B, 1, d)."""
    G = model.root(x, t, h)
    return G @ G.mT if G.ndim < 4 else (G @ G.mT)[:, 0]


def _values(model: StateSpace, record: Record, k: int, x: Tensor) -> Tensor:
    """Return what all sensors would read at states (B, N, d): (B, N, p), times dt for increments."""
    t, gap = x.new_tensor(record.clock[k]), record.gap(k)
    return torch.cat(
        [s.predict(x, t) * (gap if s.kind == "increment" else 1.0) for s in model.parts], -1
    )


def _seen(model: StateSpace, record: Record, k: int, m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the readings at the mean (B, p), and their Jacobian."""
    if model.linear:
        rows = [
            s.h.to(m) * (record.gap(k) if s.kind == "increment" else 1.0)
            for s in model.parts
            if isinstance(s.h, Tensor)
        ]
        return _values(model, record, k, m.unsqueeze(-2))[:, 0], torch.cat(rows, -2)
    value, H = jacobian(lambda p: _values(model, record, k, p), m.unsqueeze(-2))
    return value[:, 0], H[:, 0]


def _covariance(model: StateSpace, record: Record, k: int) -> Tensor:
    """Return R of all sensors, with the identity where nothing was read: (B, p, p) or (p, p)."""
    blocks = []
    for s in model.parts:
        if s.nu is not None or s.log_prob is not None:
            raise ValueError("this filter needs Gaussian sensors: use particle_filter.")
        blocks.append(s.R().to(record.y) * (record.gap(k) if s.kind == "increment" else 1.0))
    R = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
    m = record.seen(k).to(R)
    return R * m.unsqueeze(-1) * m.unsqueeze(-2) + torch.diag_embed(1 - m)


def _shift(model: StateSpace, record: Record, k: int) -> Tensor | float:
    """Return -log N(dY; 0, R dt) of the sensors that read increments."""
    total: Tensor | float = 0.0
    if all(s.kind == "discrete" for s in model.parts):
        return total
    sizes = [s.size or 1 for s in model.parts]
    R, seen = _covariance(model, record, k), record.seen(k)
    first = 0
    for s, size in zip(model.parts, sizes, strict=True):
        part = slice(first, first + size)
        if s.kind == "increment":
            y = record.y[:, k, part].nan_to_num()
            total = total - _log_normal(y, R[..., part, part], seen[:, part])
        first += size
    return total


def _log_normal(error: Tensor, S: Tensor, seen: Tensor) -> Tensor:
    """Return log N(error; 0, S) of what was seen (B,)."""
    root = torch.linalg.cholesky(S)
    white = torch.linalg.solve_triangular(root, error.unsqueeze(-1), upper=False).squeeze(-1)
    half = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white * white).sum(-1) - half - 0.5 * math.log(2 * math.pi) * seen.sum(-1).to(S)
