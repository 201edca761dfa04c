"""What a run of a policy of this package found."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from redrift.measure import Weights


@dataclass(eq=False)
class Guidance:
    """What one run of a policy found.

    Attributes:
        loss: (B,) loss of the samples returned, summed over segments.
        particles: (B, K) loss of all final particles.
        weights: their `Weights` (B, K), or None where the choices leave no weights.
        roots: (B, K) from which of a sample's K first states each final particle descends; few different
            ones mean that the particles are copies of each other's past.
        ess: (step, mean ESS over samples) after each guided step, before resampling.
        resampled: (step, number of samples whose particles were resampled there).
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
