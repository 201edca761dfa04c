"""What a run of a policy of this package found, and how far predictions are trusted on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from redrift.measure import Weights
from redrift.process import Level


@dataclass(eq=False)
class Guidance:
    """What one run of a policy found.

    Attributes:
        loss: (B,) loss of the samples returned, summed over segments.
        particles: (B, K) loss of all final particles.
        weights: their `Weights` (B, K), or None where choices leave no weights.
        roots: (B, K) from which of a sample's K first states each final particle descends; few different
            ones mean that the particles are copies of each other's past.
        ess: (step, mean ESS over samples) after each guided step, before resampling.
        resampled: steps at which samples were resampled, with how many.
        evaluations: network evaluations of one sample.
        waited: seconds the network stood still for the rules.
    """

    loss: Tensor = field(default_factory=lambda: torch.empty(0))
    particles: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Weights | None = None
    roots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    ess: list[tuple[int, float]] = field(default_factory=list)
    resampled: list[tuple[int, int]] = field(default_factory=list)
    evaluations: int = 0
    waited: float = 0.0


def alpha_bar(level: Level) -> float:
    """Return alpha-bar = S^2 / (S^2 + R^2) at a level, averaged over tables."""
    signal, root = level.signal.square(), level.root.square()
    return float(signal.mean() / (signal + root).mean())
