r"""TreeG: beam search over the draws of a step, proposed in the state or at the destination.

TreeG-SC draws n next states of each beam and judges the clean samples predicted there: n evaluations a
beam. TreeG-SD perturbs the clean sample predicted *here*,

    x_j = x0-hat + s \rho \eta_j,    \rho = \sqrt{1 - \bar\alpha},

keeps the A best of A n, perturbs these again, and lets the noise that was chosen, H, drive the step:

    z' = mean + scale \sqrt D m / |m|,    m = (1 - r) \xi + r \sqrt D H / |H|,

with D the number of coordinates and \xi a fresh draw. So candidates cost evaluations of the rule, but none
of the network. \rho is the deviation of x0 given the state for data of unit variance.

Paper: TreeG, arXiv:2502.11420; the step along a direction on the sphere of the noise's norm: DSG,
arXiv:2402.03201.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.linalg import apply, combine
from redrift._core.rng import Generators, normal
from redrift.denoise import Denoiser
from redrift.guidance import choices
from redrift.guidance.guided import alpha_bar
from redrift.guidance.loss import Function
from redrift.guidance.particles import Particles
from redrift.process import convert
from redrift.solvers import Law, Move


class TreeG(Particles):
    """Beam search over draws: keep the A best of A n at every step, return the best.

    Args:
        loss: see `SCG`.
        beams: A.
        candidates: n draws of each.
        active: as for `SCG`.
        options: of `Particles`.

    Paper: TreeG-SC, arXiv:2502.11420.
    """

    def __init__(
        self,
        loss: Function,
        *,
        beams: int = 4,
        candidates: int = 4,
        active: tuple[float, float] = (0.75, 0.0),
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            loss, particles=beams, candidates=candidates, across="top", end="best", active=active,
            **options,
        )  # fmt: skip


class TreeGSD(TreeG):
    """Beam search over perturbed predictions of the clean sample, which cost no evaluations.

    Args:
        loss: see `SCG`.
        beams: A; more leave the data sooner than they leave the rule, see docs/papers/scg.md.
        candidates: n perturbations of each beam and round; 1 is plain sampling.
        rounds: times that the best are perturbed again.
        spread: s, of a perturbation over the deviation of clean samples given the state, > 0.
        mixing: r, 0 to 1: how far the chosen noise replaces the step's own.
        active: as for `SCG`.
        options: of `Particles`.

    Raises:
        ValueError: if the plan's steps are not of one evaluation, as those of `rd.ddpm` are; where the
            noise does not drive the data itself (CLD); for segments; or a spread or mixing outside its
            range.

    Paper: TreeG-SD, arXiv:2502.11420; see the module for what is chosen.

    Cost: A plain runs; rounds A n evaluations of the rule at each guided step.

    Example:
        >>> guide = TreeGSD(lambda x: x.flatten(1).mean(1).abs(), candidates=8)
    """

    def __init__(
        self,
        loss: Function,
        *,
        beams: int = 1,
        candidates: int = 16,
        rounds: int = 2,
        spread: float = 0.5,
        mixing: float = 1.0,
        active: tuple[float, float] = (0.75, 0.0),
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(loss, beams=beams, candidates=candidates, active=active, **options)
        self.rounds = whole("rounds", rounds)
        self.spread, self.mixing = float(spread), float(mixing)
        if not 0 < self.spread < math.inf or not 0 <= self.mixing <= 1:
            raise ValueError(
                f"spread must be positive and mixing in [0, 1], got {spread} and {mixing}."
            )
        if self.segments is not None:
            raise ValueError("TreeGSD moves whole samples; use SCG for segments.")

    def _choose(self, law: Law, model: Denoiser, wants: str, generator: Generators) -> Move:
        """Choose the step's noise by what it does to the predicted clean sample."""
        if law.last or self.candidates == 1:
            return super()._choose(law, model, wants, generator)
        process, n, rows = model.process, self.candidates, len(law.z)
        if law.prediction is None or process.k > 1:
            raise ValueError(
                f"TreeGSD needs steps of one evaluation, as of rd.ddpm, and noise on the data itself, which "
                f"{type(process).__name__} with k = {process.k} may not have: use TreeG."
            )
        self._result.evaluations += self.width
        P, Q = convert(process, law.start, wants, "x0")
        clean = combine(((P, law.z), (Q, law.prediction)), process.modes)
        rho = self.spread * math.sqrt(1 - alpha_bar(law.start))
        total, owner = torch.zeros_like(clean), torch.arange(rows, device=clean.device)
        for _ in range(self.rounds):
            noise = normal((rows * n, *clean.shape[1:]), generator, dtype=clean.dtype,
                           device=clean.device)  # fmt: skip
            moved = total.repeat_interleave(n, 0) + noise
            x = process.data(clean[owner].repeat_interleave(n, 0) + rho * moved)
            loss = self._losses(x).reshape(-1, self.width * n)
            best = choices.lowest(loss, self.width, generator)
            flat = (best + self.width * n * torch.arange(len(best))[:, None]).reshape(-1)
            flat = flat.to(clean.device)
            total, owner = moved[flat], owner[flat // n]
            self._roots = self._roots.gather(1, best // n)
        self._saw(law, loss.gather(1, best))  # pyright: ignore
        own = normal(law.mean.shape, generator, dtype=clean.dtype, device=clean.device)
        mixed = own + self.mixing * (_to_sphere(total) - own)
        return Move(law.mean[owner] + apply(law.scale, _to_sphere(mixed), process.modes), owner)

    def _losses(self, x: Tensor) -> Tensor:
        began = time.perf_counter()
        waiting = [self._submit(part) for part in x.split(self.max_batch or len(x))]
        loss = torch.cat([wait() for wait in waiting]).cpu()
        self._result.waited += time.perf_counter() - began
        return loss


def _to_sphere(noise: Tensor) -> Tensor:
    """Return noise (rows, ...) scaled to the root of its number of coordinates."""
    flat = noise.flatten(1)
    norm = flat.norm(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    return (flat * (math.sqrt(flat.shape[1]) / norm)).reshape(noise.shape)
