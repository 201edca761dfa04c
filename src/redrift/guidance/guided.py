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
        weights: their `Weights` (B, K), or None where choices leave no weights.
        ess: (step, mean ESS over samples) after each guided step, before resampling.
        resampled: steps at which samples were resampled, with how many.
        evaluations: network evaluations of one sample.
        waited: seconds the network stood still for the rules.
    """

    loss: Tensor = field(default_factory=lambda: torch.empty(0))
    particles: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Weights | None = None
    ess: list[tuple[int, float]] = field(default_factory=list)
    resampled: list[tuple[int, int]] = field(default_factory=list)
    evaluations: int = 0
    waited: float = 0.0
