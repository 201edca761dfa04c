r"""Sensors: the log-potential of a measurement, and its quadratic form around a point.

Every kind of measurement is a log-potential l(x) at a point of the time grid:

    discrete      y ~ N(h(x), R)                 l = log N(y; h(x), R)
    increment     dY = h(X) dt + R^(1/2) dB      l = dY' R^-1 h - |h|^2_{R^-1} dt / 2
    Student       (y - h) / scale ~ t_nu         each component alone
    anything      log_prob(y, x, t)

An increment is over the interval that ends at its time and is read there; sensor and signal noise
are independent, so the limit is Ito's. It is the density against Brownian motion, so l differs from
the discrete one of dY / dt with covariance R / dt by log N(dY; 0, R dt), whatever x is.
NaN is a missing value: l is then the density of the components that are there, 0 if there are none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift.statespace.cache import Cache
from redrift.statespace.columns import is_diagonal, linear_map, whitened_residual
from redrift.statespace.jacobian import hessian, jacobian
from redrift.statespace.observation import ObservationBatch, Quadratic, as_time
from redrift.statespace.prior import positive_root
from redrift.statespace.space import Space

Field = Callable[[Tensor, Tensor], Tensor]
KINDS = ("discrete", "increment")


class Whitened(NamedTuple):
    """Hold R^(-1/2), log (2 pi R)^(-1/2), and the two factors of the residual R^(-1/2) (y - H x).

    The factors, R^(-1/2) and R^(-1/2) H, are diagonals where they have nothing else, and None where h
    is a function or one matrix per data set.
    """

    root: Tensor
    log_norm: Tensor
    left: Tensor | None = None
    pull: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sensor:
    """State what is measured: y = h(x, t) plus noise, or any log-density of y given x.

    A subclass is another noise: it gives `log_density` and `information`, and `draw` to simulate.

    Args:
        h: a matrix (p, d), or a function (x, t) of points (..., *point), giving (..., p). t is a
            number or a tensor that broadcasts against (..., 1).
        cov: covariance R: a number (variance), (p,) variances or (p, p). Per measurement for
            kind="discrete"; per unit of time for kind="increment" (dY has covariance R dt).
        kind: "discrete" or "increment".
        nu: degrees of freedom of Student's t in place of the Gaussian, with scales sqrt(diag R):
            outliers then lose their pull.
        log_prob: (y, x, t) -> (...), in place of h and cov; t as for h.
        size: p, where h is a function and cov a number.

    Raises:
        ValueError: if R is not symmetric and positive definite, or the arguments do not fit.

    Example:
        >>> Sensor(torch.tensor([[1.0, 0.0]]), 0.01).size
        1
    """

    h: Tensor | Field | None = None
    cov: float | Tensor = 1.0
    kind: str = "discrete"
    nu: float | None = None
    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    size: int | None = None
    _root: Tensor = field(init=False, repr=False)
    _cache: Cache = field(init=False, repr=False, default_factory=Cache)

    def __post_init__(self) -> None:
        """Check, and fix the size and the root of R."""
        choose("kind", self.kind, KINDS)
        if (self.h is None) == (self.log_prob is None):
            raise ValueError("give h (and cov) or log_prob, one of them.")
        if self.nu is not None and not (self.nu > 0 and self.kind == "discrete"):
            raise ValueError(f"nu={self.nu!r} must be positive, and needs kind='discrete'.")
        cov = torch.as_tensor(self.cov, dtype=torch.float64).detach()
        size = self.size or (len(cov) if cov.ndim else None)
        if isinstance(self.h, Tensor):
            if self.h.ndim < 2:
                raise ValueError(f"h has shape {tuple(self.h.shape)}, expected a matrix (p, d).")
            size = size or self.h.shape[-2]
            if size != self.h.shape[-2]:
                raise ValueError(f"h has {self.h.shape[-2]} rows and cov is for {size} numbers.")
        size = size or 1
        object.__setattr__(self, "size", size)
        if cov.ndim < 2:
            cov = torch.diag_embed(cov.expand(size))
        object.__setattr__(self, "_root", positive_root("cov", cov))

    @cached_property
    def gaussian(self) -> bool:
        """Say whether y given x is Gaussian with mean h(x), as Kalman's filters need."""
        own = type(self).log_density is not Sensor.log_density
        return self.nu is None and self.log_prob is None and not own

    @cached_property
    def linear(self) -> bool:
        """Say whether y is linear in x with Gaussian noise."""
        return isinstance(self.h, Tensor) and self.gaussian

    def R(self) -> Tensor:
        """Return the covariance (p, p), with its gradient if it has one."""
        cov = torch.as_tensor(
            self.cov, dtype=None if isinstance(self.cov, Tensor) else torch.float64
        )
        return cov if cov.ndim >= 2 else torch.diag_embed(cov.expand(self.size or 1))

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """Return h(x) (..., p) at points (..., *point)."""
        if isinstance(self.h, Tensor):
            return linear_map(x, self.h.to(x))
        if self.h is None:
            raise ValueError("a sensor given by log_prob predicts no value.")
        return self.h(x, t)

    def log_likelihood(self, obs: ObservationBatch, x: Tensor) -> Tensor:
        """Return l (J, B, N) at states (J, B, N, d)."""
        if self.log_prob is not None:
            return self._free(obs, x)
        if self.linear and obs.fully_observed and self.kind == "discrete":
            _, log_norm, left, pull = self._whitened(x)
            if left is not None and pull is not None:
                axis = -1 if left.ndim == 1 else 0
                return _normal(whitened_residual(obs.y, x, left, pull), log_norm, axis)
        return self.log_density(obs, self.predict(x, obs.times))

    def quadratic(self, obs: ObservationBatch, x: Tensor, space: Space, d: int) -> Quadratic:
        """Return the quadratic form of l around states (J, B, n, *point): Gauss-Newton, or clipped.

        It is one in the space's d coordinates around x. The curvature of a free log_prob is minus its
        Hessian with negative parts cut off.
        """
        lead = x.shape[: x.ndim - space.axes]
        origin = x.new_zeros(*lead, d)
        if self.log_prob is not None:
            value, slope, second = hessian(
                lambda xi: self._free(obs, space.retract(x, xi)), origin
            )
            lam, vec = torch.linalg.eigh(-second)
            return Quadratic(vec @ (lam.clamp(min=0).unsqueeze(-1) * vec.mT), slope, value)
        if isinstance(self.h, Tensor):
            at, H = x @ self.h.to(x).mT, self.h.to(x)
        else:
            at, H = jacobian(lambda xi: self.predict(space.retract(x, xi), obs.times), origin)
        precision, error = self.information(obs, at)
        pulled = H.mT @ precision
        slope = (pulled @ error.unsqueeze(-1)).squeeze(-1)
        return Quadratic(pulled @ H, slope, self.log_density(obs, at))

    def draw(self, x: Tensor, t: Tensor, interval: Tensor, noise: Tensor) -> Tensor:
        """Return a measurement at points (..., *point) from standard normal noise (..., p)."""
        if not self.gaussian:
            raise ValueError("simulate draws Gaussian sensors only: draw y from the states.")
        value, spread = self.predict(x, t), noise @ self._root.to(x).mT
        if self.kind == "discrete":
            return value + spread
        return value * interval + spread * interval.sqrt()

    def log_density(self, obs: ObservationBatch, at: Tensor) -> Tensor:
        """Return the log-density (...) of measurements given what was expected, h(x) (..., p)."""
        if obs.fully_observed and self.kind == "discrete" and self.nu is None:
            white = self._whitened(at)
            return _normal(linear_map(obs.y - at, white.root), white.log_norm, -1)
        R, seen = self.R().to(at), ~obs.y.isnan()
        y = obs.y if obs.fully_observed else obs.y.nan_to_num()
        if self.nu is not None:
            nu, s = self.nu, R.diagonal(dim1=-2, dim2=-1)
            head = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2)
            each = head - 0.5 * (math.pi * nu * s).log()
            each = each - (nu + 1) / 2 * torch.log1p((y - at) ** 2 / (nu * s))
            return torch.where(seen, each, torch.zeros_like(each)).sum(-1)
        W, log_norm = _masked(R, seen, obs.fully_observed)
        if self.kind == "increment":
            return (_times(W, at) * (y - 0.5 * obs.interval * at)).sum(-1)
        error = y - at
        return log_norm - 0.5 * (_times(W, error) * error).sum(-1)

    def information(self, obs: ObservationBatch, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return W (..., p, p) and e (..., p): the log-density's slope in h(x) is W e, its curvature W.

        W is at least 0, and 0 where y is missing.
        """
        R, seen = self.R().to(at), ~obs.y.isnan()
        y = obs.y if obs.fully_observed else obs.y.nan_to_num()
        if self.nu is not None:
            s, error = R.diagonal(dim1=-2, dim2=-1), y - at
            w = (self.nu + 1) / (self.nu * s + error * error)
            return torch.diag_embed(w * seen), error
        W = _masked(R, seen, obs.fully_observed)[0]
        if self.kind == "discrete":
            return W, y - at
        interval = as_time(obs.interval, at)
        return interval.unsqueeze(-1) * W, y / interval - at

    def _free(self, obs: ObservationBatch, x: Tensor) -> Tensor:
        if self.log_prob is None:
            raise AssertionError
        value = self.log_prob(obs.y.nan_to_num(), x, obs.times)
        return torch.where(obs.y.isnan().any(-1), torch.zeros_like(value), value)

    def _whitened(self, at: Tensor) -> Whitened:
        """Return the roots of R with nothing missing, in the dtype of `at`."""
        return self._cache.keep((at.dtype, at.device), self._whiten, at)

    def _whiten(self, at: Tensor) -> Whitened:
        R = self.R().to(at)
        root = torch.linalg.cholesky(R)
        eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
        white = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
        half = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_norm = -0.5 * R.shape[-1] * math.log(2 * math.pi) - half
        if not isinstance(self.h, Tensor) or self.h.ndim > 2 or R.ndim > 2:
            return Whitened(white, log_norm)
        left, pull = white, white @ self.h.to(at)
        plain = not (log_norm.requires_grad or pull.requires_grad)
        if plain and is_diagonal(left) and is_diagonal(pull):
            left, pull = left.diagonal().contiguous(), pull.diagonal().contiguous()
        return Whitened(white, log_norm, left, pull)


def _normal(white: Tensor, log_norm: Tensor, axis: int) -> Tensor:
    """Return log_norm - |white|^2 / 2 over an axis."""
    if white.shape[axis] == 1:
        white = white.squeeze(axis)
        return torch.addcmul(log_norm, white, white, value=-0.5)
    return torch.add(log_norm, (white * white).sum(axis), alpha=-0.5)


def _times(W: Tensor, v: Tensor) -> Tensor:
    """Return W v for symmetric W (p, p) or (..., 1, p, p) and v (..., N, p)."""
    if W.shape[-1] == 1:
        return v * W[..., 0]
    return v @ W if W.ndim == 2 else (W @ v.unsqueeze(-1)).squeeze(-1)


def _masked(R: Tensor, seen: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """Return the precision of the components that are seen, 0 elsewhere, and log (2 pi R)^(-1/2).

    Missing rows and columns of R are replaced by those of the identity before it is inverted.
    """
    if full:
        if R.shape[-1] == 1:
            return 1 / R, -0.5 * (2 * math.pi * R[..., 0, 0]).log()
        root = torch.linalg.cholesky(R)
        count = R.shape[-1]
    else:
        m = seen.to(R)
        both = m.unsqueeze(-1) * m.unsqueeze(-2)
        root = torch.linalg.cholesky(R * both + torch.diag_embed(1 - m))
        count = m.sum(-1)
    precision = torch.cholesky_inverse(root)
    half = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_norm = -0.5 * count * math.log(2 * math.pi) - half
    return (precision if full else precision * both), log_norm  # pyright: ignore[reportPossiblyUnboundVariable]
