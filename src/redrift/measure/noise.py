"""The Gaussian laws of a step's noise: draws, densities, and the roots of covariances.

A root S stands for the map eta -> S eta on noise of shape (B, *noise) and has one of four shapes:
() a multiple of the identity, (B,) one multiple per sample, (D, E) a matrix on the last axis,
(B, D, E) one matrix per sample. The rank alone tells them apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Diagonal(NamedTuple):
    """Mark standard deviations (B, *noise), one per number of noise and sample, as a root."""

    std: Tensor


class NoiseLaw(NamedTuple):
    """Hold the law N(mean, chol chol') of one step's noise, for each sample.

    Attributes:
        mean: (B, *noise).
        chol: None for the identity; () or (B,) for a multiple of it; (E, E) or (B, E, E), lower
            triangular, acting on the last axis of the noise; `Diagonal` for one positive number
            per number of noise.
    """

    mean: Tensor
    chol: Tensor | Diagonal | None = None


def realise(law: NoiseLaw | None, eta: Tensor) -> Tensor:
    """Return noise of the law, mean + chol eta, from standard normal eta (B, *noise).

    Raises:
        ValueError: if mean or chol do not fit the noise, or chol is not lower triangular.
    """
    if law is None:
        return eta
    _check(law, eta)
    return law.mean + (eta if law.chol is None else apply_root(law.chol, eta))


def whiten(law: NoiseLaw | None, xi: Tensor) -> tuple[Tensor, Tensor]:
    """Return eta with realise(law, eta) = xi, and log|det chol| of shape (B,)."""
    if law is None:
        return xi, xi.new_zeros(len(xi))
    _check(law, xi)
    rest = xi - law.mean
    white = rest if law.chol is None else solve_root(law.chol, rest, lower=True)
    return white, log_det(law, xi)


def log_det(law: NoiseLaw | None, xi: Tensor) -> Tensor:
    """Return log|det chol| of shape (B,) for noise shaped like xi (B, *noise)."""
    if law is None or law.chol is None:
        return xi.new_zeros(len(xi))
    return log_det_root(law.chol, xi, lower=True)


def log_ratio(p: NoiseLaw | None, q: NoiseLaw | None, xi: Tensor, eta: Tensor) -> Tensor:
    """Return log p(xi) - log q(xi) of shape (B,), where xi = realise(q, eta).

    With a shared covariance it is -delta'(eta + delta / 2), delta the whitened difference of the
    means: no two large numbers are subtracted, so small controls keep their digits.
    """
    chol_p, chol_q = (None if law is None else law.chol for law in (p, q))
    if chol_p is not chol_q:
        white, determinant = whiten(p, xi)
        white, eta = white.reshape(len(eta), -1), eta.reshape(len(eta), -1)
        return white_log_ratio(white, eta, log_det(q, xi)) - determinant
    if p is not None:
        _check(p, xi)
    shift = (torch.zeros_like(xi) if q is None else q.mean) - (0 if p is None else p.mean)
    delta = shift if chol_p is None else solve_root(chol_p, shift, lower=True)
    return -total(delta * (eta + delta / 2))


def white_log_ratio(xi: Tensor, eta: Tensor, log_det: Tensor, dim: int = -1) -> Tensor:
    """Return log N(xi; 0, I) - log N(xi; u, L L') over one axis, where xi = u + L eta.

    Args:
        xi: noise.
        eta: the standard normal numbers that it is made of, of the same shape.
        log_det: log|det L|, without that axis.
        dim: the axis.
    """
    ratio = (eta - xi).mul_(eta + xi)
    ratio = ratio.squeeze(dim) if ratio.shape[dim] == 1 else ratio.sum(dim)
    return torch.add(log_det, ratio, alpha=0.5)


def total(x: Tensor) -> Tensor:
    """Return the sum over all axes but the first, of shape (B,)."""
    return x.reshape(len(x), -1).sum(1)


def apply_root(root: Tensor | Diagonal, eta: Tensor) -> Tensor:
    """Return S eta."""
    if isinstance(root, Diagonal):
        return root.std * eta
    if root.ndim < 2:
        return _multiples(root, eta) * eta
    if root.ndim == 2:
        return eta @ root.mT
    return (_matrices(root, eta) @ eta.unsqueeze(-1)).squeeze(-1)


def solve_root(root: Tensor | Diagonal, y: Tensor, *, lower: bool = False) -> Tensor:
    """Return S^-1 y for a square root, lower triangular if so stated."""
    if isinstance(root, Diagonal):
        return y / root.std
    if root.ndim < 2:
        return y / _multiples(root, y)
    matrix, column = _matrices(root, y), y.unsqueeze(-1)
    if lower:
        return torch.linalg.solve_triangular(matrix, column, upper=False).squeeze(-1)
    return torch.linalg.solve(matrix, column).squeeze(-1)


def log_det_root(root: Tensor | Diagonal, like: Tensor, *, lower: bool = False) -> Tensor:
    """Return log|det| of shape (B,) of eta -> S eta on noise shaped like (B, *noise)."""
    if isinstance(root, Diagonal):
        return total(root.std.log())
    size = like[0].numel()
    if root.ndim < 2:
        return (size * root.abs().log()).expand(len(like))
    if lower:
        one = root.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    else:
        one = torch.linalg.slogdet(root).logabsdet
    return (size // root.shape[-1] * one).expand(len(like))


def _check(law: NoiseLaw, xi: Tensor) -> None:
    mean, chol = law
    if mean.shape != xi.shape:
        raise ValueError(
            f"the law's mean has shape {tuple(mean.shape)}, expected {tuple(xi.shape)} as the "
            "noise: a control returns one number per number of noise and sample."
        )
    if isinstance(chol, Diagonal):
        if chol.std.shape != xi.shape:
            raise ValueError(
                f"the law's Diagonal has shape {tuple(chol.std.shape)}, expected "
                f"{tuple(xi.shape)}: one standard deviation per number of noise."
            )
        return
    if chol is None or chol.ndim == 0 or (chol.ndim == 1 and len(chol) == len(xi)):
        return
    size = xi.shape[-1] if xi.ndim > 1 else 0
    if chol.shape not in ((size, size), (len(xi), size, size)):
        raise ValueError(
            f"the law's chol has shape {tuple(chol.shape)}, expected (), (B,), (E, E) or "
            f"(B, E, E) with B = {len(xi)}, E = {size}: use torch.diag_embed for a diagonal."
        )
    if chol.triu(1).any():
        raise ValueError(
            "the law's chol is not lower triangular: pass torch.linalg.cholesky(covariance)."
        )


def _multiples(root: Tensor, like: Tensor) -> Tensor:
    return root if root.ndim == 0 else root.reshape(-1, *[1] * (like.ndim - 1))


def _matrices(root: Tensor, like: Tensor) -> Tensor:
    if root.ndim == 2:
        return root
    return root.reshape(len(root), *[1] * (like.ndim - 2), *root.shape[1:])
