"""Potentials: how much a step trusts the loss of a predicted clean sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift.guidance.run import ParticleRun
from redrift.process import Level
from redrift.solvers import Transition

Form = Literal["difference", "max", "sum"]


@dataclass(frozen=True)
class Potential:
    r"""The energy U of a step's states, tempered by the noise level.

    $U = \lambda \bar\alpha^p J(\hat x_0)$ before the last step and $U = \lambda J(x_0)$ at it: the
    smaller the share $\bar\alpha$ of the signal, the blurrier the predictions and the less they count.

    Args:
        inverse_temperature: lambda of the tilt exp(-lambda J), > 0.
        tempering: power p, >= 0; 0 trusts predictions at all levels alike.
        form: "difference" weighs by the change of U; "max" takes the least loss of all steps so far for
            J; "sum" adds the energies of the steps up. All end at the same tilt.
    """

    inverse_temperature: float = 1.0
    tempering: float = 2.0
    form: Form = "difference"

    def __post_init__(self) -> None:
        """Check."""
        choose("potential", self.form, ("difference", "max", "sum"))
        if not 0 < self.inverse_temperature < math.inf:
            raise ValueError(
                f"inverse_temperature must be positive and finite, got {self.inverse_temperature}."
            )
        if not self.tempering >= 0:
            raise ValueError(f"tempering must be at least 0, got {self.tempering}.")

    def __call__(self, run: ParticleRun, law: Transition, loss: Tensor) -> Tensor:
        """Return U (B, K, n) of candidates with losses (B, K, n)."""
        if law.last:
            return self.inverse_temperature * loss
        if self.form == "max":
            loss = torch.minimum(loss, run.best[..., None])
        own = self.inverse_temperature * alpha_bar(law.level) ** self.tempering * loss
        return own + run.before[..., None] if self.form == "sum" else own


def alpha_bar(level: Level) -> float:
    """Return the share of the signal, alpha-bar = S^2 / (S^2 + R^2), at a level, averaged over tables."""
    signal, root = level.signal.square(), level.root.square()
    return float(signal.mean() / (signal + root).mean())
