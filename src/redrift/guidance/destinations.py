r"""Candidates that cost no evaluations: perturbed predictions of the clean sample, which set the noise.

The clean sample predicted *here* is perturbed,

    x_j = x0-hat + s \rho \eta_j,    \rho = \sqrt{1 - \bar\alpha},

the A best of A n are kept, perturbed again, and the noise H that was chosen drives the step:

    z' = mean + scale \sqrt D m / |m|,    m = (1 - r) \xi + r \sqrt D H / |H|,

with D the number of coordinates and \xi a fresh draw. \rho is the deviation of x0 given the state for data
of unit variance.

Paper: TreeG-SD, arXiv:2502.11420; the step along a direction on the sphere of the noise's norm: DSG,
arXiv:2402.03201.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.linalg import apply, combine
from redrift._core.rng import normal
from redrift.guidance import choices
from redrift.guidance.potential import alpha_bar
from redrift.guidance.proposal import Candidates, Draws, StepProposal
from redrift.guidance.run import ParticleRun
from redrift.process import convert
from redrift.solvers import NextState, Transition


@dataclass(frozen=True)
class Destinations(StepProposal):
    """Perturb the predicted clean sample; the perturbation that is chosen becomes the step's noise.

    Args:
        candidates: n perturbations of each particle and round; 1 is plain sampling.
        rounds: times that the best are perturbed again.
        spread: s, of a perturbation over the deviation of clean samples given the state, > 0.
        mixing: r, 0 to 1: how far the chosen noise replaces the step's own.

    Raises:
        ValueError: in a run, if the plan's steps are not of one evaluation, as those of `rd.ddpm` are, or
            the noise does not drive the data itself (CLD).

    Cost: rounds * n evaluations of the rule for each particle, and none of the network.
    """

    candidates: int = 16
    rounds: int = 2
    spread: float = 0.5
    mixing: float = 1.0

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        whole("rounds", self.rounds)
        if not 0 < self.spread < math.inf or not 0 <= self.mixing <= 1:
            raise ValueError(
                f"spread must be positive and mixing in [0, 1], got {self.spread} and {self.mixing}."
            )

    @property
    def exact(self) -> bool:
        """Return False: the chosen noise drives the step."""
        return False

    def propose(self, run: ParticleRun, law: Transition) -> Candidates:
        """Return the last round's perturbations; at the last step, draws of the law."""
        if law.last or self.candidates == 1:
            return Draws(self.candidates).propose(run, law)
        process, n, rows = run.model.process, self.candidates, len(law.z)
        if law.prediction is None or process.k > 1:
            raise ValueError(
                f"TreeGSD needs steps of one evaluation, as of rd.ddpm, and noise on the data itself, which "
                f"{type(process).__name__} with k = {process.k} may not have: use TreeG."
            )
        run.result.evaluations += run.width
        P, Q = convert(process, law.start, run.wants, "x0")
        clean = combine(((P, law.z), (Q, law.prediction)), process.modes)
        rho = self.spread * math.sqrt(1 - alpha_bar(law.start))
        total, owner = torch.zeros_like(clean), torch.arange(rows, device=clean.device)
        for i in range(self.rounds):
            noise = normal((rows * n, *clean.shape[1:]), run.generator, dtype=clean.dtype,
                           device=clean.device)  # fmt: skip
            moved = total.repeat_interleave(n, 0) + noise
            x = process.data(clean[owner].repeat_interleave(n, 0) + rho * moved)
            found = Perturbed(
                run, law, moved, owner, _losses(run, x).reshape(rows, n), self.mixing
            )
            if i + 1 < self.rounds:
                nth, parents = choices.beam(run, found.loss)
                total, owner = found.at(nth, parents)
        return found  # pyright: ignore[reportPossiblyUnboundVariable]


class Perturbed(NamedTuple):
    """Hold perturbed predictions: their noise (rows * n, ...), and the particles they began with."""

    run: ParticleRun
    law: Transition
    noise: Tensor
    owner: Tensor
    loss: Tensor
    mixing: float

    def at(self, nth: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise and the first owners of some perturbations."""
        nth, rows = nth.to(self.noise.device), rows.to(self.noise.device)
        return self.noise[rows * self.loss.shape[1] + nth], self.owner[rows]

    def take(self, nth: Tensor, rows: Tensor | None = None) -> NextState:
        """Return the step that the chosen noise drives."""
        law, process = self.law, self.run.model.process
        total, owner = self.at(nth, torch.arange(len(nth)) if rows is None else rows)
        own = normal(law.mean.shape, self.run.generator, dtype=total.dtype, device=total.device)
        mixed = own + self.mixing * (_to_sphere(total) - own)
        return NextState(
            law.mean[owner] + apply(law.scale, _to_sphere(mixed), process.modes), owner
        )


def _losses(run: ParticleRun, x: Tensor) -> Tensor:
    """Return the losses of clean samples (rows,), on the CPU."""

    def found() -> Tensor:
        pending = [run.submit(part) for part in x.split(run.max_batch or len(x))]
        return torch.cat([wait() for wait in pending]).cpu()

    return run.waiting(found)


def _to_sphere(noise: Tensor) -> Tensor:
    """Return noise (rows, ...) scaled to the root of its number of coordinates."""
    flat = noise.flatten(1)
    norm = flat.norm(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    return (flat * (math.sqrt(flat.shape[1]) / norm)).reshape(noise.shape)
