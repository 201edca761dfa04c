r"""One engine behind guidance by rules: K particles, each moved by what its strategies choose.

The rule's law is the base law tilted by $e^{-\lambda J(x_0)}$. A guided step

    proposes   n candidates for each particle, with their losses    `Draws`, `Twisted`, `Destinations`
    weighs     them by a potential $G = e^{-U}$                       `Potential`
    selects    one for each particle, or the K best of all            `Best`, `Categorical`, `Beam`, ...
    resamples  a sample's particles where their weights are uneven    `Resampling`

With one candidate, or a choice drawn by G, the weights

    log w += logmeanexp(-U_j) + U_before

make $\hat Z = \mathrm{mean}\, w$ unbiased for $Z = E\, e^{-\lambda J(x_0)}$ whatever the network, the
tempering, K and n. `Best` and `Beam` leave no weights: these minimise the rule and do not sample from the
tilted law.

Paper: SCG, arXiv:2402.14285 (the best, K = 1); SVDD, 2408.08252; Feynman-Kac steering, 2501.06848; TreeG,
2502.11420.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.rng import Generators
from redrift.denoise import Denoiser
from redrift.guidance.loss import Function, as_loss
from redrift.guidance.potential import Potential
from redrift.guidance.proposal import Draws, StepProposal
from redrift.guidance.result import Guidance
from redrift.guidance.run import ParticleRun
from redrift.guidance.selection import Best, BySegment, Resampling, Selection
from redrift.measure import Weights, resample
from redrift.solvers import NextState, Transition


class Particles:
    """A policy that chooses among draws of each step's noise by a rule; see the module.

    `SCG`, `SVDD`, `FKSteering`, `TreeG` and `BestOfN` put it together. Results of the runs are appended to
    `results`, newest last.

    Args:
        loss: of predicted clean samples, lower is better: a callable (rows, *shape) -> (rows,).
        particles: K, kept for each sample.
        proposal: how candidates are made.
        potential: how much their losses count at a step.
        selection: how the next states are chosen among them.
        resampling: when particles are resampled by weight; None never does.
        final: of the K particles return one drawn by weight ("draw") or the best ("best"); the best
            where there are no weights.
        active: (first, last) fractions of the horizon between which steps are guided; None guides none
            but the last step, which always is: it costs nothing.
        every: guide every so many steps of the active range.
        decode: from clean samples to what the loss is of, such as a VAE's decoder.
        max_batch: most rows of one network call; candidates are asked in chunks, and a `Pooled` rule
            judges one while the network is asked for the next.
        watch: called after each guided step as watch(step, losses of the states kept (B, K)).

    Raises:
        ValueError: for zero particles, an empty active range, or strategies that do not go together.

    Cost: per sample K (1 + n A + I) evaluations, A guided steps but the last, I other steps but the
    last: the winner's prediction is the next step's evaluation, and the last step is judged on the
    sample itself.

    Example:
        >>> from redrift.guidance import Categorical, Draws, Resampling
        >>> policy = Particles(lambda x: x.flatten(1).mean(1).abs(), particles=4, proposal=Draws(2),
        ...                    selection=Categorical(), resampling=Resampling(ess_threshold=0.9))
        >>> policy.weighted
        True
    """

    coupled = False
    needs_noise = True

    def __init__(
        self,
        loss: Function,
        *,
        particles: int = 1,
        proposal: StepProposal = Draws(),  # noqa: B008
        potential: Potential = Potential(),  # noqa: B008
        selection: Selection = Best(),  # noqa: B008
        resampling: Resampling | None = None,
        final: Literal["draw", "best"] = "draw",
        active: tuple[float, float] | None = (1.0, 0.0),
        every: int = 1,
        decode: Callable[[Tensor], Tensor] | None = None,
        max_batch: int | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        self.loss = as_loss(loss)
        self.width = whole("particles", particles)
        self.proposal, self.potential, self.selection = proposal, potential, selection
        self.resampling, self.active, self.every = resampling, active, whole("every", every)
        self.final = choose("final", final, ("draw", "best"))
        self.decode, self.watch = decode, watch
        self.max_batch = None if max_batch is None else whole("max_batch", max_batch)
        self.results: list[Guidance] = []
        if active is not None and not 1 >= active[0] > active[1] >= 0:
            raise ValueError(
                f"active={active} must be (first, last) fractions of the horizon, 1 >= first > last >= 0: "
                "with an empty range nothing would be guided."
            )
        if resampling is not None and not proposal.exact:
            raise ValueError(
                "noise_scale other than 1 leaves the law that weights are for; use SCG or TreeG."
            )
        if isinstance(selection, BySegment):
            if particles > 1:
                raise ValueError("segments are chosen one by one: particles=1.")
            if not isinstance(proposal, Draws):
                raise ValueError("TreeGSD moves whole samples; use SCG for segments.")

    @property
    def weighted(self) -> bool:
        """Return whether the run has weights."""
        return self.proposal.exact and self.selection.weighted(self.proposal.candidates)

    def submit(self, clean: Tensor) -> Callable[[], Tensor]:
        """Begin to evaluate the rule on clean samples, decoded."""
        data = clean if self.decode is None else self.decode(clean)
        return self.selection.submit(self.loss, data)

    @contextmanager
    def begin(self) -> Generator[Acting, None, None]:
        """Give a run; what it finds is appended to `results` at its end."""
        yield Acting(self)

    def __call__(
        self, law: Transition, model: Denoiser, wants: str, *, generator: Generators
    ) -> NextState:
        """Refuse: the states live in a run."""
        raise TypeError("a policy acts in a run: with policy.begin() as run.")

    def finish(self, x: Tensor) -> Tensor:
        """Refuse: the states live in a run."""
        raise TypeError("a policy acts in a run: with policy.begin() as run.")


class Acting(ParticleRun):
    """A run of `Particles`: a policy with the state of one run."""

    coupled = False

    def __init__(self, policy: Particles) -> None:
        super().__init__(policy.width, policy.weighted, policy.submit, policy.max_batch)
        self.policy = policy
        self._within = 0  # steps in the active range so far

    @contextmanager
    def begin(self) -> Generator[Acting, None, None]:
        """Give another run."""
        yield Acting(self.policy)

    def __call__(
        self, law: Transition, model: Denoiser, wants: str, *, generator: Generators
    ) -> NextState:
        """Choose the next states."""
        policy = self.policy
        self.enter(law, model, wants, generator)
        if not self._guided(law, model):
            self.result.evaluations += self.width * (not law.last)
            return NextState(policy.proposal.draw(self, law))
        candidates = policy.proposal.propose(self, law)
        move = policy.selection.select(self, law, candidates, policy.potential)
        if policy.watch is not None and self.kept is not None:
            policy.watch(law.step, self.kept)
        if policy.resampling is None or self.width == 1 or not self.weighted:
            return move
        return policy.resampling.resample(self, law, move)

    def _guided(self, law: Transition, model: Denoiser) -> bool:
        share = float(law.start.t) / model.process.horizon
        high, low = (0.0, 1.0) if self.policy.active is None else self.policy.active
        within = low < share <= high or (share <= 0 == low)
        counted = self._within % self.policy.every == 0
        self._within += within
        # weights have to end at the tilt itself, and a loss has to be known of what is returned
        return (within and counted) or law.last

    def finish(self, x: Tensor) -> Tensor:
        """Return one row per sample: drawn by weight, or the best."""
        policy, result = self.policy, self.result
        loss = self.kept if self.ended and self.kept is not None else self._judge_end(x)
        if policy.active not in (None, (1.0, 0.0)) and self._within == 0:
            raise ValueError(
                f"no step of the plan begins within active={policy.active} of the horizon, so nothing was "
                "guided; widen it or use more steps."
            )
        B, K = len(x) // self.width, self.width
        result.particles, result.roots = loss, self.roots
        result.weights = Weights(self.log_w) if self.weighted else None
        if policy.final == "best" or not self.weighted:
            pick = loss.argmin(1)
        else:
            pick = resample(self.log_w, 1, "multinomial", self.generator)[:, 0]
        if K == 1:
            pick = torch.zeros(B, dtype=torch.long)
        result.loss = loss.gather(1, pick[:, None])[:, 0]
        policy.results.append(result)
        return x if K == 1 else x[(pick + K * torch.arange(B)).to(x.device)]

    def _judge_end(self, x: Tensor) -> Tensor:
        """Evaluate the rule on the samples of a plan whose last rows draw no noise."""
        if not self.log_w.numel():
            raise ValueError("the plan drew no noise, so nothing was guided; use rd.ddpm.")
        loss = self.submit(self.model.process.data(x))().cpu()
        loss = loss.reshape(*self.log_w.shape, -1).sum(2)
        if self.weighted:
            tilt = self.policy.potential.inverse_temperature * loss
            self.log_w = self.log_w - tilt + self.before
        return loss
