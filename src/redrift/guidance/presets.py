"""The members of the family: strategies of `Particles` put together.

| preset | kept | what it is |
|---|---|---|
| `SCG` | 1 | greedy: the best of n draws at every step; minimises the rule, collapses to its minimum |
| `SVDD` | 1 | one of n draws by their potential: near the tilted law; `weighted=True` corrects it |
| `FKSteering` | K | particles with weights, resampled: consistent for the tilted law |
| `TwistedSMC` | K | the same, with proposals already bent by a gradient (`DPS`, `ClassifierGuidance`) |
| `TreeG` | A | beam search: the A best of A n draws at every step |
| `TreeGSD` | A | beam search over perturbed predictions, which cost no evaluations |
| `BestOfN` | n | plain sampling, the best at the end: the baseline |
"""

from __future__ import annotations

from typing import Any

from redrift.guidance.destinations import Destinations
from redrift.guidance.loss import Function
from redrift.guidance.particles import Particles
from redrift.guidance.potential import Form, Potential
from redrift.guidance.proposal import Draws, StepProposal, Twisted
from redrift.guidance.segments import Masks, Segments
from redrift.guidance.selection import Beam, Best, BySegment, Categorical, Resampling

Active = tuple[float, float]
_LATE = (0.75, 0.0)


class SCG(Particles):
    """Stochastic control guidance: take the best of n draws at every step.

    The zero-temperature limit of the path-integral control. It is an optimiser: with many candidates
    all samples end at the rule's minimum (documented as a law). Use `SVDD` or `FKSteering` for
    samples of the tilted law.

    Args:
        loss: of predicted clean samples (rows, *shape) -> (rows,), lower is better.
        candidates: n; 1 is plain sampling bit for bit.
        active: (first, last) fractions of the horizon between which steps are guided; predictions
            at high noise are blurry, so that thresholded rules read them as empty.
        noise_scale: factor on the noise of the draws; above 1 is the released code's larger variance.
        segments: guide parts of a canvas on their own.
        options: of `Particles`: every, decode, max_batch, watch.

    Paper: SCG, arXiv:2402.14285. Candidates are judged at the next noise level (the released code
    tells the network the level they came from), and the winner's prediction is used again.

    Cost: see `Particles`, K = 1; with segments each guided step costs one evaluation more.

    Example:
        >>> guide = SCG(lambda x: x.flatten(1).mean(1).abs(), candidates=4)
    """

    def __init__(
        self,
        loss: Function,
        *,
        candidates: int = 16,
        active: Active = _LATE,
        noise_scale: float = 1.0,
        segments: Segments | Masks | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            loss, proposal=Draws(candidates, noise_scale), active=active,
            selection=Best() if segments is None else BySegment(segments), **options,
        )  # fmt: skip


class SVDD(Particles):
    """Draw one of n candidates in proportion to exp(-potential) at every step; near the tilted law.

    Args:
        loss: see `SCG`.
        candidates: n.
        inverse_temperature: lambda of the tilt exp(-lambda J).
        particles: K; with more than one, one is drawn by weight at the end.
        weighted: resample the particles by their weights, which makes the law consistent in K. The
            weights in the result are unbiased either way.
        tempering: see `Potential`; None is 0 for one particle, as in the paper, whose choices have to lead
            to the tilt alone, and 2 where weights make up for what they lack.
        ess_threshold: see `Resampling`.
        options: of `Particles`, such as active.

    Paper: SVDD, arXiv:2408.08252; the weights are ours.
    """

    def __init__(
        self,
        loss: Function,
        *,
        candidates: int = 16,
        inverse_temperature: float = 1.0,
        particles: int = 1,
        weighted: bool = False,
        tempering: float | None = None,
        ess_threshold: float = 0.5,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if tempering is None:
            tempering = 2.0 if weighted or particles > 1 else 0.0
        super().__init__(
            loss, particles=particles, proposal=Draws(candidates), selection=Categorical(),
            potential=Potential(inverse_temperature, tempering),
            resampling=Resampling(ess_threshold) if weighted else None, **options,
        )  # fmt: skip


class FKSteering(Particles):
    """Feynman-Kac steering: K particles, weighted by their potentials and resampled.

    Args:
        loss: see `SCG`.
        particles: K.
        inverse_temperature: lambda of the tilt exp(-lambda J).
        tempering: see `Potential`; 0 trusts predictions at all levels alike, which makes the weights
            heavy-tailed.
        potential: "difference", "max" or "sum", see `Potential`.
        ess_threshold: see `Resampling`.
        method: of resampling, see `Resampling`.
        proposal: of the particles' moves, see `TwistedSMC`.
        options: of `Particles`.

    Paper: arXiv:2501.06848.
    """

    def __init__(
        self,
        loss: Function,
        *,
        particles: int = 16,
        inverse_temperature: float = 1.0,
        tempering: float = 2.0,
        potential: Form = "difference",
        ess_threshold: float = 0.5,
        method: str = "systematic",
        proposal: StepProposal = Draws(),  # noqa: B008
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            loss, particles=particles, proposal=proposal,
            potential=Potential(inverse_temperature, tempering, potential),
            resampling=Resampling(ess_threshold, method), **options,
        )  # fmt: skip


class TwistedSMC(FKSteering):
    """Twisted SMC: particles whose proposals a gradient has bent, weighted back to the tilted law.

    Sample a `DPS` or `ClassifierGuidance` wrapper with this policy: the step's law is then the bent one,
    and each particle's weight is corrected by the ratio of the plain law's density of its move to the
    bent one's, so that the weights stay unbiased for the plain model's tilt.

    Args:
        loss: see `SCG`.
        options: of `FKSteering`.

    Raises:
        TypeError: if the model is no wrapper of a plain one.
        ValueError: if the plan's steps are not of one evaluation, as those of `rd.ddpm` are.

    Paper: TDS, arXiv:2306.17775.

    Cost: that of `FKSteering`, and one evaluation of the plain model more at each step. Exact for plans
    without history (`rd.ddpm`, `rd.gddim(order=1)`).
    """

    def __init__(self, loss: Function, **options: Any) -> None:  # noqa: ANN401
        super().__init__(loss, proposal=Twisted(), **options)


class TreeG(Particles):
    """Beam search over draws: keep the A best of A n at every step, return the best.

    Args:
        loss: see `SCG`.
        beams: A.
        candidates: n draws of each.
        active: as for `SCG`.
        noise_scale: as for `SCG`.
        options: of `Particles`.

    Paper: TreeG-SC, arXiv:2502.11420.
    """

    def __init__(
        self,
        loss: Function,
        *,
        beams: int = 4,
        candidates: int = 4,
        active: Active = _LATE,
        noise_scale: float = 1.0,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            loss, particles=beams, proposal=Draws(candidates, noise_scale), selection=Beam(),
            final="best", active=active, **options,
        )  # fmt: skip


class TreeGSD(Particles):
    """Beam search over perturbed predictions of the clean sample, which cost no evaluations.

    Args:
        loss: see `SCG`.
        beams: A; more leave the data sooner than they leave the rule, see docs/papers/scg.md.
        candidates: n, rounds, spread and mixing: see `Destinations`.
        rounds: see `Destinations`.
        spread: see `Destinations`.
        mixing: see `Destinations`.
        active: as for `SCG`.
        options: of `Particles`.

    Paper: TreeG-SD, arXiv:2502.11420; see `destinations` for what is chosen.

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
        active: Active = _LATE,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            loss, particles=beams, proposal=Destinations(candidates, rounds, spread, mixing),
            selection=Beam(), final="best", active=active, **options,
        )  # fmt: skip


class BestOfN(Particles):
    """Draw n samples and return the one with the least loss.

    Args:
        loss: see `SCG`.
        n: how many.
        inverse_temperature: of the tilt that the weights in the result are for.
        options: of `Particles`.

    Cost: n plain runs.
    """

    def __init__(
        self,
        loss: Function,
        n: int = 16,
        *,
        inverse_temperature: float = 1.0,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            loss, particles=n, final="best", active=None,
            potential=Potential(inverse_temperature), **options,
        )  # fmt: skip
