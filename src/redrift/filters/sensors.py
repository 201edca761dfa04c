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
from typing import NamedTuple

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift.filters._jacobian import hessian, jacobian
from redrift.filters.space import Space

Field = Callable[[Tensor, Tensor], Tensor]
KINDS = ("discrete", "increment")


class Reading(NamedTuple):
    """Hold measurements at J points of time, or at one, then without the axis J.

    Attributes:
        y: (J, B, 1, p), NaN where missing.
        t: times (J, 1, 1, 1), or a number.
        gap: time since the measurement before, likewise.
        full: whether nothing is missing.
    """

    y: Tensor
    t: Tensor | float
    gap: Tensor | float
    full: bool


class Quadratic(NamedTuple):
    """Hold l(retract(x, xi)) ~ value + slope' xi - xi' curvature xi / 2, curvature >= 0."""

    curvature: Tensor
    slope: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class Sensor:
    """Describe one sensor.

    Args:
        h: a matrix (p, d), or a function (x, t) of states (..., d) and times, giving (..., p).
        cov: covariance R: a number (variance), (p,) variances or (p, p). Per measurement for
            kind="discrete"; per unit of time for kind="increment" (dY has covariance R dt).
        kind: "discrete" or "increment".
        nu: degrees of freedom of Student's t in place of the Gaussian, with scales sqrt(diag R):
            outliers then lose their pull.
        log_prob: (y, x, t) -> (...), in place of h and cov.
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
    _norm: tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor] | None = field(
        init=False, repr=False, default=None
    )

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

    @property
    def linear(self) -> bool:
        """Say whether y is linear in x with Gaussian noise."""
        return isinstance(self.h, Tensor) and self.nu is None

    def R(self) -> Tensor:
        """Return the covariance (p, p), with its gradient if it has one."""
        cov = torch.as_tensor(
            self.cov, dtype=None if isinstance(self.cov, Tensor) else torch.float64
        )
        return cov if cov.ndim >= 2 else torch.diag_embed(cov.expand(self.size or 1))

    def predict(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return h(x) (..., p)."""
        if isinstance(self.h, Tensor):
            return turned(x, self.h.to(x))
        if self.h is None:
            raise ValueError("a sensor given by log_prob predicts no value.")
        return self.h(x, wide(t, x))

    def log_likelihood(self, reading: Reading, x: Tensor) -> Tensor:
        """Return l (J, B, N) at states (J, B, N, d)."""
        if self.log_prob is not None:
            return self._free(reading, x)
        if self.linear and reading.full and self.kind == "discrete":
            _, both, log_norm = self._white(x)
            if both is not None:
                axis = -1 if both[0].ndim == 1 else 0
                return _normal(missed(reading.y, x, *both), log_norm, axis)
        return self._score(reading, self.predict(x, reading.t))

    def quadratic(self, reading: Reading, x: Tensor, space: Space, d: int) -> Quadratic:
        """Return the quadratic form of l around states (J, B, n, *point): Gauss-Newton, or clipped.

        It is one in the space's d coordinates around x. The curvature of a free log_prob is minus its
        Hessian with negative parts cut off.
        """
        lead = x.shape[: x.ndim - space.axes]
        origin = x.new_zeros(*lead, d)
        if self.log_prob is not None:
            value, slope, second = hessian(
                lambda xi: self._free(reading, space.retract(x, xi)), origin
            )
            lam, vec = torch.linalg.eigh(-second)
            return Quadratic(vec @ (lam.clamp(min=0).unsqueeze(-1) * vec.mT), slope, value)
        if isinstance(self.h, Tensor):
            at, H = x @ self.h.to(x).mT, self.h.to(x)
        else:
            at, H = jacobian(lambda xi: self.predict(space.retract(x, xi), reading.t), origin)
        precision, error = self._precision(reading, at)
        pulled = H.mT @ precision
        slope = (pulled @ error.unsqueeze(-1)).squeeze(-1)
        return Quadratic(pulled @ H, slope, self._score(reading, at))

    def draw(self, x: Tensor, t: Tensor, gap: Tensor, noise: Tensor) -> Tensor:
        """Return a measurement at states (..., d) from standard normal noise (..., p)."""
        if self.log_prob is not None or self.nu is not None:
            raise ValueError("simulate draws Gaussian sensors only: draw y from the states.")
        value, spread = self.predict(x, t), noise @ self._root.to(x).mT
        return value * gap + spread * gap.sqrt() if self.kind == "increment" else value + spread

    def _free(self, reading: Reading, x: Tensor) -> Tensor:
        seen = ~reading.y.isnan().any(-1)
        if self.log_prob is None:
            raise AssertionError
        value = self.log_prob(reading.y.nan_to_num(), x, wide(reading.t, x))
        return torch.where(seen, value, torch.zeros_like(value))

    def _precision(self, reading: Reading, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return W and e with the slope H' W e: W is 0 where y is missing."""
        R = self.R().to(at)
        y = reading.y if reading.full else reading.y.nan_to_num()
        if self.nu is not None:
            s = R.diagonal(dim1=-2, dim2=-1)
            error = y - at
            w = (self.nu + 1) / (self.nu * s + error * error)
            return torch.diag_embed(w * ~reading.y.isnan()), error
        if self.kind == "increment":
            gap = wide(reading.gap, at)
            seen = ~reading.y.isnan()
            return gap.unsqueeze(-1) * _masked(R, seen, reading.full)[0], y / gap - at
        return _masked(R, ~reading.y.isnan(), reading.full)[0], y - at

    def _white(self, at: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor]:
        """Return R^(-1/2), this beside R^(-1/2) H, and log (2 pi R)^(-1/2), nothing missing.

        The two are diagonals if they have nothing else, and None where h is a function, or not one
        matrix. Kept where there is no gradient.
        """
        kept = self._norm
        if kept is not None and kept[0].dtype == at.dtype and kept[0].device == at.device:
            return kept
        R = self.R().to(at)
        root = torch.linalg.cholesky(R)
        eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
        white = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
        half = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_norm = -0.5 * R.shape[-1] * math.log(2 * math.pi) - half
        both = None
        if isinstance(self.h, Tensor) and self.h.ndim == 2 and R.ndim == 2:
            both = white, white @ self.h.to(at)
        if R.ndim > 2 or log_norm.requires_grad or (both and both[1].requires_grad):
            return white, both, log_norm
        if both and is_diagonal(both[0]) and is_diagonal(both[1]):
            both = both[0].diagonal().contiguous(), both[1].diagonal().contiguous()
        found = white, both, log_norm
        object.__setattr__(self, "_norm", found)
        return found

    def _score(self, reading: Reading, at: Tensor) -> Tensor:
        if reading.full and self.kind == "discrete" and self.nu is None:
            white, _, log_norm = self._white(at)
            return _normal(turned(reading.y - at, white), log_norm, -1)
        R = self.R().to(at)
        seen = reading.y if reading.full else ~reading.y.isnan()
        y = reading.y if reading.full else reading.y.nan_to_num()
        if self.nu is not None:
            nu, s = self.nu, R.diagonal(dim1=-2, dim2=-1)
            head = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2)
            each = head - 0.5 * (math.pi * nu * s).log()
            each = each - (nu + 1) / 2 * torch.log1p((y - at) ** 2 / (nu * s))
            return torch.where(reading.y.isnan(), torch.zeros_like(each), each).sum(-1)
        W, log_norm = _masked(R, seen, reading.full)
        if self.kind == "increment":
            pulled = _times(W, at)
            return (pulled * (y - 0.5 * reading.gap * at)).sum(-1)
        error = y - at
        return log_norm - 0.5 * (_times(W, error) * error).sum(-1)


def _normal(white: Tensor, log_norm: Tensor, axis: int) -> Tensor:
    """Return log_norm - |white|^2 / 2 over an axis."""
    if white.shape[axis] == 1:
        white = white.squeeze(axis)
        return torch.addcmul(log_norm, white, white, value=-0.5)
    return torch.add(log_norm, (white * white).sum(axis), alpha=-0.5)


def turned(x: Tensor, matrix: Tensor) -> Tensor:
    """Return M x for states (..., N, d).

    The result lies in memory by coordinate, (p, ..., N): products with few columns, sums over them
    and selections along N are then several times as fast.
    """
    if matrix.shape == (1, 1):
        return x * matrix
    if matrix.ndim > 2:
        return x @ matrix.mT
    lead = x.shape[:-1]
    return (matrix @ _columns(x)).view(-1, *lead).movedim(0, -1)


def missed(y: Tensor, x: Tensor, white: Tensor, pull: Tensor) -> Tensor:
    """Return W y - P x for measurements (..., 1, p) and states (..., N, d).

    W and P are matrices, then the result is (p, ..., N), or both diagonals, then (..., N, p).
    """
    if pull.ndim == 1:
        return torch.addcmul(y * white, by_coordinate(x), pull, value=-1)
    p, shape = pull.shape[0], x.shape[:-1]
    if y.numel() == p:
        seen = white @ y.reshape(p, 1)
        return torch.addmm(seen, pull, _columns(x), alpha=-1).view(p, *shape)
    seen = white @ y.reshape(-1, p).mT
    return seen.view(p, *y.shape[:-1]) - (pull @ _columns(x)).view(p, *shape)


def stepped(x: Tensor, z: Tensor, F: Tensor, G: Tensor | None) -> Tensor:
    """Return F x + G z for states (B, N, d) and noise (m, B, N), laid out as by `turned`.

    F and G are matrices, or both diagonals; None for G is the identity.
    """
    B, N, d = x.shape
    if F.ndim == 1:
        z = z.permute(1, 2, 0)
        return torch.addcmul(z if G is None else z * G, x, F)
    flat = z.reshape(z.shape[0], -1)
    moved = torch.addmm(flat, F, _columns(x)) if G is None else (G @ flat).addmm_(F, _columns(x))
    return moved.view(d, B, N).permute(1, 2, 0)


def slim(F: Tensor, G: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return two matrices as their diagonals if they have nothing else, and None for G = I."""
    one = G.shape[0] == G.shape[1] and torch.equal(G, torch.eye(len(G)).to(G))
    if is_diagonal(F) and is_diagonal(G):
        F, G = F.diagonal().contiguous(), G.diagonal().contiguous()
    return F, None if one else G


def is_diagonal(matrix: Tensor) -> bool:
    """Say whether a matrix is square and has nothing but its diagonal."""
    square = matrix.shape[0] == matrix.shape[1]
    return square and torch.equal(matrix, matrix.diagonal().diag())


def by_coordinate(x: Tensor) -> Tensor:
    """Return states (..., N, d) laid out as by `turned`, so that sums over d round alike."""
    if x.shape[-1] == 1 or x.stride(-2) == 1:
        return x
    return x.movedim(-1, 0).contiguous().movedim(0, -1)


def wide(value: Tensor | float, x: Tensor) -> Tensor:
    """Return a time as it is, or a number as a tensor of as many axes as x."""
    return value if isinstance(value, Tensor) else x.new_full((1,) * x.ndim, value)


def _columns(x: Tensor) -> Tensor:
    """Return states (..., N, d) by coordinate (d, ... N), without a copy if `turned` made them."""
    return x.permute(-1, *range(x.ndim - 1)).reshape(x.shape[-1], -1)


def push(G: Tensor, eps: Tensor) -> Tensor:
    """Return G eps for G (d, m) or (..., d, m)."""
    if G.ndim == 2:
        return turned(eps, G)
    if G.ndim == 3:  # one per data set
        return eps @ G.mT
    return (G @ eps.unsqueeze(-1)).squeeze(-1)


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


def positive_root(name: str, cov: Tensor, *, semi: bool = False) -> Tensor:
    """Return a root of a covariance (..., d, d).

    Raises:
        ValueError: if it is not finite, symmetric, and positive definite (semi-definite if semi).
    """
    if cov.ndim < 2 or cov.shape[-1] != cov.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(cov.shape)}, expected square matrices (d, d).")
    scale = cov.abs().amax()
    if not bool(torch.isfinite(cov).all()) or bool((cov - cov.mT).abs().amax() > 1e-9 * scale):
        raise ValueError(f"{name} is not a finite symmetric matrix: {cov.tolist()}.")
    root, info = torch.linalg.cholesky_ex(cov)
    if not bool(info.any()):
        return root
    lam, vec = torch.linalg.eigh(cov)
    least = float(lam.amin())
    if not semi or least < -1e-12 * float(scale):
        raise ValueError(
            f"{name} is not positive definite: its smallest eigenvalue is {least:.3g}. Give a "
            "covariance (variances, not standard deviations), or add a small multiple of I."
        )
    return vec * lam.clamp(min=0).sqrt().unsqueeze(-2)
