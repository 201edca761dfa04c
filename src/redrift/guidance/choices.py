"""Choices among scores, lower is better: ties are drawn, so that rules which count have no favourites."""

from __future__ import annotations

import torch
from torch import Tensor

from redrift._core.rng import Generators, normal, uniform
from redrift.guidance.run import ParticleRun


def least(score: Tensor, generator: Generators) -> Tensor:
    """Return the index (B, K) of the least of scores (B, K, n)."""
    tied = score == score.amin(2, keepdim=True)
    return torch.where(tied, own_uniform(score, generator), -1.0).argmax(2)


def drawn(score: Tensor, generator: Generators) -> Tensor:
    """Return an index (B, K) drawn from exp(-score), scores (B, K, n), by Gumbel's way."""
    return (-score - (-own_uniform(score, generator).log()).log()).argmax(2)


def lowest(score: Tensor, count: int, generator: Generators) -> Tensor:
    """Return the indices (B, count) of the lowest of scores (B, M), in rising order."""
    if score.shape[1] == 1:
        return torch.zeros(len(score), 1, dtype=torch.long)
    keys = normal(score.shape, generator, dtype=torch.float64)
    order = torch.argsort(keys, 1)  # ties in a drawn order
    return order.gather(1, score.gather(1, order).argsort(dim=1, stable=True))[:, :count]


def beam(run: ParticleRun, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the K best of each sample's K n candidates with losses (B * K, n); roots follow.

    Returns:
        (B * K,) twice: which candidate, and of which row it is one.
    """
    n, (B, K) = loss.shape[1], run.roots.shape
    best = lowest(loss.reshape(B, K * n), K, run.generator)
    run.roots = run.roots.gather(1, best // n)
    return (best % n).reshape(-1), (best // n + K * torch.arange(B)[:, None]).reshape(-1)


def own_uniform(score: Tensor, generator: Generators) -> Tensor:
    """Draw uniform numbers in the shape of scores (B, K, n), a sample's by its own generator."""
    B, K, n = score.shape
    return uniform((B * K, n), generator, dtype=torch.float64).reshape(score.shape)
