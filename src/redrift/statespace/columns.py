"""Matrix products for many small vectors, laid out in memory by coordinate.

States (..., N, d) have few columns and many rows. Kept as (d, ..., N) in memory (the shape stays), their
products, sums over coordinates and selections along N are several times as fast.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_map(x: Tensor, matrix: Tensor) -> Tensor:
    """Return M x for states (..., N, d), laid out by coordinate where M is one matrix."""
    if matrix.shape == (1, 1):
        return x * matrix
    if matrix.ndim > 2:
        return x @ matrix.mT
    lead = x.shape[:-1]
    return (matrix @ _columns(x)).view(-1, *lead).movedim(0, -1)


def scale_noise(G: Tensor, eps: Tensor) -> Tensor:
    """Return G eps for noise (..., N, m) and G (d, m), one per data set, or one per state."""
    if G.ndim == 2:
        return linear_map(eps, G)
    if G.ndim == 3:  # one per data set
        return eps @ G.mT
    return (G @ eps.unsqueeze(-1)).squeeze(-1)


def matvec(matrix: Tensor, v: Tensor) -> Tensor:
    """Return M v for matrices (..., n, a, b) and vectors (..., N, b), n = 1 or N."""
    if matrix.shape[-3] == 1:
        if matrix.ndim == 4 and len(matrix) == 1 and v.ndim == 3:
            return linear_map(v, matrix[0, 0])
        return v @ matrix.squeeze(-3).mT
    return (matrix @ v.unsqueeze(-1)).squeeze(-1)


def whitened_residual(y: Tensor, x: Tensor, white: Tensor, pull: Tensor) -> Tensor:
    """Return W y - P x for measurements (..., 1, p) and states (..., N, d).

    W and P are matrices, then the result is (p, ..., N), or both diagonals, then (..., N, p).
    """
    if pull.ndim == 1:
        return torch.addcmul(y * white, coordinate_major(x), pull, value=-1)
    p, shape = pull.shape[0], x.shape[:-1]
    if y.numel() == p:
        seen = white @ y.reshape(p, 1)
        return torch.addmm(seen, pull, _columns(x), alpha=-1).view(p, *shape)
    seen = white @ y.reshape(-1, p).mT
    return seen.view(p, *y.shape[:-1]) - (pull @ _columns(x)).view(p, *shape)


def affine_step(x: Tensor, z: Tensor, F: Tensor, G: Tensor | None) -> Tensor:
    """Return F x + G z for states (B, N, d) and noise (m, B, N), laid out by coordinate.

    F and G are matrices, or both diagonals; None for G is the identity.
    """
    B, N, d = x.shape
    if F.ndim == 1:
        z = z.permute(1, 2, 0)
        return torch.addcmul(z if G is None else z * G, x, F)
    flat = z.reshape(z.shape[0], -1)
    moved = torch.addmm(flat, F, _columns(x)) if G is None else (G @ flat).addmm_(F, _columns(x))
    return moved.view(d, B, N).permute(1, 2, 0)


def diagonal_form(F: Tensor, G: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return two matrices as their diagonals if they have nothing else, and None for G = I."""
    one = G.shape[0] == G.shape[1] and torch.equal(G, torch.eye(len(G)).to(G))
    if is_diagonal(F) and is_diagonal(G):
        F, G = F.diagonal().contiguous(), G.diagonal().contiguous()
    return F, None if one else G


def is_diagonal(matrix: Tensor) -> bool:
    """Say whether a matrix is square and has nothing but its diagonal."""
    square = matrix.shape[0] == matrix.shape[1]
    return square and torch.equal(matrix, matrix.diagonal().diag())


def coordinate_major(x: Tensor) -> Tensor:
    """Return states (..., N, d) laid out by coordinate, so that sums over d round alike."""
    if x.shape[-1] == 1 or x.stride(-2) == 1:
        return x
    return x.movedim(-1, 0).contiguous().movedim(0, -1)


def _columns(x: Tensor) -> Tensor:
    """Return states (..., N, d) as (d, ... N), without a copy if they lie by coordinate."""
    return x.permute(-1, *range(x.ndim - 1)).reshape(x.shape[-1], -1)
