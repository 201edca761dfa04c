"""Selections: which candidates become the next states, and which particles are resampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift.guidance import choices
from redrift.guidance.loss import Loss, Waiting
from redrift.guidance.potential import Potential
from redrift.guidance.proposal import Candidates, Drawn
from redrift.guidance.run import ParticleRun
from redrift.guidance.segments import Masks, Segments
from redrift.measure import Weights, adaptive_resample
from redrift.measure.resampling import METHODS, check_ess_threshold
from redrift.solvers import NextState, Transition


class Selection:
    """How the next states are chosen among the candidates; subclasses give `select`."""

    def weighted(self, candidates: int) -> bool:
        """Return whether the choice among so many keeps weights."""
        return False

    def submit(self, loss: Loss, x: Tensor) -> Waiting:
        """Begin to evaluate the losses that it chooses by: (rows,), or (rows, S) for segments."""
        return loss.submit(x)

    def select(
        self, run: ParticleRun, law: Transition, candidates: Candidates, potential: Potential
    ) -> NextState:
        """Return the move to the states that are chosen."""
        raise NotImplementedError


class Categorical(Selection):
    """Draw one candidate of each particle in proportion to exp(-U).

    The weight gains the mean of exp(-U) over the candidates, and gives up the last step's exp(-U).
    """

    def weighted(self, candidates: int) -> bool:
        """Return True: a drawn choice has a weight."""
        return True

    def pick(self, potential: Tensor, loss: Tensor, run: ParticleRun) -> Tensor:
        """Return which candidate (B, K) is chosen, by potentials or losses (B, K, n)."""
        return choices.drawn(potential, run.generator)

    def select(
        self, run: ParticleRun, law: Transition, candidates: Candidates, potential: Potential
    ) -> NextState:
        """Choose one candidate of each particle."""
        loss = candidates.loss.reshape(*run.log_w.shape, -1)
        U = potential(run, law, loss)
        n = U.shape[2]
        pick = self.pick(U, loss, run) if n > 1 else torch.zeros(U.shape[:2], dtype=torch.long)
        if run.weighted:
            run.log_w = run.log_w + ((-U).logsumexp(2) - math.log(n)) + run.before
        run.before, kept = (value.gather(2, pick[..., None])[..., 0] for value in (U, loss))
        run.best = torch.minimum(run.best, kept)
        run.kept = kept
        return candidates.take(pick.reshape(-1))


class Best(Categorical):
    """Take the candidate of each particle with the least loss; ties are drawn.

    There are no weights, unless there is one candidate only and so no choice.
    """

    def weighted(self, candidates: int) -> bool:
        """Return whether there is nothing to choose."""
        return candidates == 1

    def pick(self, potential: Tensor, loss: Tensor, run: ParticleRun) -> Tensor:
        """Return which candidate (B, K) has the least loss."""
        return choices.least(loss, run.generator)


class Beam(Selection):
    """Keep the K best of the K n candidates of all a sample's particles, without weights."""

    def select(
        self, run: ParticleRun, law: Transition, candidates: Candidates, potential: Potential
    ) -> NextState:
        """Choose the K best candidates of each sample."""
        nth, rows = choices.beam(run, candidates.loss)
        run.kept = candidates.loss[rows, nth].reshape(run.roots.shape)
        return candidates.take(nth, rows)


@dataclass(frozen=True)
class BySegment(Selection):
    """Put the best candidate of each segment of the canvas together, for one particle, without weights.

    Args:
        segments: `Segments` or `Masks`.

    Cost: one evaluation more at each guided step, since the result has no prediction yet.
    """

    segments: Segments | Masks

    def submit(self, loss: Loss, x: Tensor) -> Waiting:
        """Begin to evaluate the losses of the segments (rows, S)."""
        return self.segments.submit(loss, x)

    def select(
        self, run: ParticleRun, law: Transition, candidates: Candidates, potential: Potential
    ) -> NextState:
        """Choose one candidate for each segment."""
        if run.model.process.modes:
            raise ValueError("segments need a state of sites; this process acts on frequencies.")
        assert isinstance(candidates, Drawn)
        states, loss = candidates.x, candidates.loss
        masks = self.segments.masks(states.shape[2:]).to(states.device)
        rows, n, count = loss.shape
        pick = torch.zeros(rows, count, dtype=torch.long)
        if n > 1:
            pick = choices.least(loss.movedim(2, 1), run.generator)
        index = torch.arange(rows, device=states.device)
        x = states[:, 0].clone()
        for s in range(count):
            x = torch.where(masks[s], states[index, pick[:, s].to(x.device)], x)
        run.kept = loss.amin(1).sum(1, keepdim=True)
        run.result.evaluations += not law.last
        alone = candidates.prediction is not None and n == 1
        return NextState(x, None, candidates.prediction[:, 0] if alone else None)  # pyright: ignore


@dataclass(frozen=True)
class Resampling:
    """Resample a sample's particles when their effective sample size falls.

    Args:
        ess_threshold: resample below this share of the particles, in [0, 1]; 0 never, 1 always.
        method: "systematic", "stratified", "multinomial" or "residual".
    """

    ess_threshold: float = 0.5
    method: str = "systematic"

    def __post_init__(self) -> None:
        """Check."""
        check_ess_threshold(self.ess_threshold)
        choose("method", self.method, METHODS)

    def resample(self, run: ParticleRun, law: Transition, move: NextState) -> NextState:
        """Return a move, its particles resampled; those of the last step are left with their weights."""
        B, K = run.log_w.shape
        run.result.ess.append((law.step, float(Weights(run.log_w).ess.mean())))
        # every sample draws at every step, so that its numbers do not depend on its neighbours' weights
        done = adaptive_resample(
            run.log_w, self.ess_threshold, self.method, run.generator, always_draw=True
        )
        if law.last or done.ancestors is None:
            return move
        run.log_w = done.log_w
        run.result.resampled.append((law.step, done.sets))
        index = (done.ancestors + K * torch.arange(B)[:, None]).reshape(-1)
        run.take(index)
        index = index.to(move.x.device)
        prediction = None if move.prediction is None else move.prediction[index]
        return NextState(move.x[index], index, prediction)
