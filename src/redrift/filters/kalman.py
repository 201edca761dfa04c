r"""Kalman's filter and its relatives: exact for linear-Gaussian models, approximations for others.

`kalman` (and Rauch-Tung-Striebel through `.smoothed()`), `extended_kalman` (iterated too),
`unscented_kalman`, `ensemble_kalman`. All walk the grid of the particle filters, so that for linear
models the exact answer is that of the same discrete model, to rounding. On a curved space means are
points and covariances are those of coordinates around them; they are carried to the coordinates of
the next mean by the derivative of the change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.rng import Generators, normal
from redrift.filters.posterior import GaussianPosterior
from redrift.statespace.columns import scale_noise
from redrift.statespace.dataset import Data, Dataset, read_dataset
from redrift.statespace.jacobian import jacobian
from redrift.statespace.model import StateSpace
from redrift.statespace.prior import GaussianPrior
from redrift.statespace.space import covariance

# (mean, P, t, h) -> (mean, P, A) with A the regression of the next state on this one
Predict = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor, Tensor]]
# (mean, P, data, k) -> (mean, P, log-likelihood)
Update = Callable[[Tensor, Tensor, Dataset, int], tuple[Tensor, Tensor, Tensor]]


def kalman(
    model: StateSpace, y: Data, *, times: Tensor | Sequence[float] | None = None
) -> GaussianPosterior:
    """Filter a linear-Gaussian model exactly; `.smoothed()` of the result is RTS.

    Args:
        model: with matrices for drift and sensors, and a Gaussian start.
        y: (K, p) or (B, K, p), NaN where missing, or one (times, y) per sensor.
        times: (K,), increasing.

    Returns:
        Means and covariances at every time; log_evidence differentiable in the model's tensors.

    Raises:
        ValueError: if the model is not linear and Gaussian.

    Cost:
        O(K W d^3), W grid steps between measurements.

    Example:
        >>> from redrift.filters import GaussianPrior, Sensor
        >>> prior = GaussianPrior(torch.zeros(1), torch.eye(1))
        >>> model = StateSpace(prior, -torch.eye(1), sensors=Sensor(torch.eye(1), 0.5))
        >>> kalman(model, torch.zeros(3, 1), times=torch.arange(1.0, 4.0)).mean.shape
        torch.Size([3, 1])
    """
    if not model.linear:
        raise ValueError(
            "kalman needs a linear-Gaussian model (matrices for drift and h, a constant scale, a "
            "Gaussian start, a flat space): use extended_kalman or particle_filter."
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

    space, d = model.space, model.dim

    def predict(m: Tensor, P: Tensor, t: float, h: float) -> tuple[Tensor, Tensor, Tensor]:
        x = m.unsqueeze(1)
        ahead = model.advance(x, t, h)
        if model.affine:
            F = model.matrices(h, m)[0]
        else:
            F = _derivative(
                lambda xi: space.local(ahead, model.advance(space.retract(x, xi), t, h)), m, d
            )
        return ahead[:, 0], F @ P @ F.mT + _spread(model, x, t, h), F

    def update(m: Tensor, P: Tensor, data: Dataset, k: int) -> tuple[Tensor, Tensor, Tensor]:
        R, seen, xi = _covariance(model, data, k), data.observed(k), m.new_zeros(len(m), d)
        for i in range(iterations):
            value, H = _expected(model, data, k, m, xi)
            H = H * seen.unsqueeze(-1)
            error = data.y[:, k] - value + (H @ xi.unsqueeze(-1)).squeeze(-1)
            error = torch.where(seen, error, torch.zeros_like(value))
            S = H @ P @ H.mT + R
            gain = torch.linalg.solve(S, H @ P).mT
            if i == 0:
                score = _log_normal(error, S, seen) + _shift(model, data, k)
            xi = (gain @ error.unsqueeze(-1)).squeeze(-1)
        rest = torch.eye(d, dtype=m.dtype) - gain @ H  # pyright: ignore
        P = rest @ P @ rest.mT + gain @ R @ gain.mT  # pyright: ignore
        return *_moved(model, m, xi, P), score  # pyright: ignore

    return _run(model, y, times, predict, update)


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
    eye = torch.eye(d, dtype=torch.float64)
    spokes = math.sqrt(reach) * torch.cat([0 * eye[:1], eye, -eye])

    space = model.space

    def points(m: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
        """Return sigma points around a mean, and their coordinates (B, 2 d + 1, d)."""
        tiny = 1e-13 * eye * P.diagonal(dim1=-2, dim2=-1).amax()
        xi = spokes @ torch.linalg.cholesky(P + tiny).mT
        return space.retract(m.unsqueeze(1), xi), xi

    def predict(m: Tensor, P: Tensor, t: float, h: float) -> tuple[Tensor, Tensor, Tensor]:
        x, away = points(m, P)
        there = model.advance(x, t, h)
        centre = there[:, :1]
        ahead = space.retract(centre, (first * space.local(centre, there)).sum(-2, keepdim=True))
        off = space.local(ahead, there)
        A = torch.linalg.solve(P, (second * away).mT @ off).mT
        spread = _spread(model, m.unsqueeze(1), t, h)
        return ahead[:, 0], (second * off).mT @ off + spread, A

    def update(m: Tensor, P: Tensor, data: Dataset, k: int) -> tuple[Tensor, Tensor, Tensor]:
        (x, away), seen = points(m, P), data.observed(k)
        value = _values(model, data, k, x)
        mean = (first * value).sum(-2)
        off = (value - mean.unsqueeze(-2)) * seen.unsqueeze(-2)
        S = (second * off).mT @ off + _covariance(model, data, k)
        gain = torch.linalg.solve(S, (second * off).mT @ away).mT
        error = torch.where(seen, data.y[:, k] - mean, torch.zeros_like(mean))
        score = _log_normal(error, S, seen) + _shift(model, data, k)
        xi = (gain @ error.unsqueeze(-1)).squeeze(-1)
        return *_moved(model, m, xi, P - gain @ S @ gain.mT), score

    return _run(model, y, times, predict, update)


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
    data, space = read_dataset(model, y, times), model.space
    x = model.draw(data.batch, members, generator, data.y)
    now, log_z = model.start, data.y.new_zeros(data.batch)
    w = x.new_full((data.batch, members), 1 / members)
    means, covs = [], []
    for k, until in enumerate(data.times):
        for then in model.grid(now, until):
            G = model.root(x, now, then - now)
            z = normal((*x.shape[:2], G.shape[-1]), generator, dtype=x.dtype)
            x, now = space.retract(model.advance(x, now, then - now), scale_noise(G, z)), then
        seen = data.observed(k)
        if bool(seen.any()):
            value, R = _values(model, data, k, x), _covariance(model, data, k)
            mean = value.mean(-2)
            off = (value - mean.unsqueeze(-2)) * seen.unsqueeze(-2)
            centre = space.mean(x, w).unsqueeze(1)
            away = space.local(centre, x)
            S = off.mT @ off / (members - 1) + R
            gain = torch.linalg.solve(S, off.mT @ away / (members - 1))
            z = normal((*x.shape[:2], R.shape[-1]), generator, dtype=x.dtype)
            aim = data.y[:, k].unsqueeze(-2) - value - z @ torch.linalg.cholesky(R).mT
            error = torch.where(seen, data.y[:, k] - mean, torch.zeros_like(mean))
            log_z = log_z + _log_normal(error, S, seen) + _shift(model, data, k)
            aim = torch.where(seen.unsqueeze(-2), aim, torch.zeros_like(aim))
            x = space.retract(centre, away + aim @ gain)
        means.append(space.mean(x, w))
        covs.append(covariance(space, means[-1], x, w) * (members / (members - 1)))
    mean, cov = torch.stack(means, 1), torch.stack(covs, 1)
    return GaussianPosterior.of(data, mean, cov, log_z, space=space)


def _run(
    model: StateSpace,
    y: Data,
    times: Tensor | Sequence[float] | None,
    predict: Predict,
    update: Update,
) -> GaussianPosterior:
    if not isinstance(model.initial, GaussianPrior):
        raise ValueError("initial is a function: this filter needs a GaussianPrior.")
    data = read_dataset(model, y, times)
    mean = model.initial.means(data.batch, model.space.axes, data.y)[:, 0]
    P = model.initial.cov.to(data.y).expand(data.batch, model.dim, model.dim)
    now, log_z = model.start, data.y.new_zeros(data.batch)
    kept: list[tuple[Tensor, ...]] = []
    for k, until in enumerate(data.times):
        cross = P
        for then in model.grid(now, until):
            mean, P, A = predict(mean, P, now, then - now)
            cross, now = cross @ A.mT, then
        ahead, spread = mean, P
        if bool(data.observed(k).any()):
            mean, P, gain = update(mean, P, data, k)
            P, log_z = 0.5 * (P + P.mT), log_z + gain
        kept.append((mean, P, ahead, spread, cross))
    mean, P, *gains = (torch.stack(v, 1) for v in zip(*kept, strict=True))
    return GaussianPosterior.of(data, mean, P, log_z, tuple(gains), model.space)


def _derivative(function: Callable[[Tensor], Tensor], m: Tensor, d: int) -> Tensor:
    """Return the Jacobian (B, p, d) at 0 of a function of coordinates (B, 1, d)."""
    return jacobian(function, m.new_zeros(len(m), 1, d))[1][:, 0]


def _moved(model: StateSpace, m: Tensor, xi: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Return the point at coordinates xi around m, and P in the coordinates around that point."""
    space = model.space
    if space.flat:
        return space.retract(m, xi), P
    at = space.retract(m.unsqueeze(1), xi.unsqueeze(1))
    J = _derivative(
        lambda more: space.local(at, space.retract(m.unsqueeze(1), xi.unsqueeze(1) + more)),
        m, xi.shape[-1],
    )  # fmt: skip
    return at[:, 0], J @ P @ J.mT


def _spread(model: StateSpace, x: Tensor, t: float, h: float) -> Tensor:
    """Return the covariance G G' of a step at means (B, 1, d)."""
    G = model.root(x, t, h)
    return G @ G.mT if G.ndim < 4 else (G @ G.mT)[:, 0]


def _values(model: StateSpace, data: Dataset, k: int, x: Tensor) -> Tensor:
    """Return what sensors would read at points (B, N, *point): (B, N, p), times dt for increments."""
    t, interval = x.new_tensor(data.times[k]), data.interval(k)
    return torch.cat(
        [s.predict(x, t) * (interval if s.kind == "increment" else 1.0) for s in model.parts], -1
    )


def _expected(
    model: StateSpace, data: Dataset, k: int, m: Tensor, xi: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the readings (B, p) at coordinates xi around the mean, and their Jacobian."""
    space, m = model.space, m.unsqueeze(1)
    if model.linear:
        rows = [
            s.h.to(m) * (data.interval(k) if s.kind == "increment" else 1.0)
            for s in model.parts
            if isinstance(s.h, Tensor)
        ]
        at = space.retract(m, xi.unsqueeze(1))
        return _values(model, data, k, at)[:, 0], torch.cat(rows, -2)
    value, H = jacobian(lambda v: _values(model, data, k, space.retract(m, v)), xi.unsqueeze(1))
    return value[:, 0], H[:, 0]


def _covariance(model: StateSpace, data: Dataset, k: int) -> Tensor:
    """Return R of all sensors, with the identity where nothing was read: (B, p, p) or (p, p)."""
    blocks = []
    for s in model.parts:
        if not s.gaussian:
            raise ValueError("this filter needs Gaussian sensors: use particle_filter.")
        blocks.append(s.R().to(data.y) * (data.interval(k) if s.kind == "increment" else 1.0))
    R = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
    m = data.observed(k).to(R)
    return R * m.unsqueeze(-1) * m.unsqueeze(-2) + torch.diag_embed(1 - m)


def _shift(model: StateSpace, data: Dataset, k: int) -> Tensor | float:
    """Return -log N(dY; 0, R dt) of the sensors that read increments."""
    total: Tensor | float = 0.0
    if all(s.kind == "discrete" for s in model.parts):
        return total
    sizes = [s.size or 1 for s in model.parts]
    R, seen = _covariance(model, data, k), data.observed(k)
    first = 0
    for s, size in zip(model.parts, sizes, strict=True):
        part = slice(first, first + size)
        if s.kind == "increment":
            y = data.y[:, k, part].nan_to_num()
            total = total - _log_normal(y, R[..., part, part], seen[:, part])
        first += size
    return total


def _log_normal(error: Tensor, S: Tensor, seen: Tensor) -> Tensor:
    """Return log N(error; 0, S) of what was seen (B,)."""
    root = torch.linalg.cholesky(S)
    white = torch.linalg.solve_triangular(root, error.unsqueeze(-1), upper=False).squeeze(-1)
    half = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white * white).sum(-1) - half - 0.5 * math.log(2 * math.pi) * seen.sum(-1).to(S)
