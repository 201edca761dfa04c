"""The members of the family, each a setting of `Particles`.

| preset | kept | what it is |
|---|---|---|
| `SCG` | 1 | greedy: the best of n draws at every step; minimises the rule, collapses to its minimum |
| `SVDD` | 1 | one of n draws by their potential: near the tilted law; `weighted=True` corrects it |
| `FKSteering` | K | particles with weights, resampled: consistent for the tilted law |
| `TwistedSMC` | K | the same, with proposals already bent by a gradient (`DPS`, `ClassifierGuidance`) |
| `TreeG` | A | beam search: the A best of A n draws at every step (`tree`) |
| `TreeGSD` | A | beam search over perturbed predictions, which cost no evaluations (`tree`) |
| `BestOfN` | n | plain sampling, the best at the end: the baseline |
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from redrift._core.linalg import apply, inverse
from redrift.denoise import Denoiser
from redrift.guidance.loss import Function
from redrift.guidance.particles import Particles
from redrift.solvers import Law


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
        every: guide every so many steps.
        options: of `Particles`: decode, authority, segments, max_batch.

    Paper: SCG, arXiv:2402.14285. Candidates are judged at the next noise level (the released code
    tells the network the level they came from), and the winner's prediction is used again.

    Cost: see `Particles`, K = 1.

    Example:
        >>> guide = SCG(lambda x: x.flatten(1).mean(1).abs(), candidates=4)
    """

    def __init__(
        self,
        loss: Function,
        *,
        candidates: int = 16,
        active: tuple[float, float] = (0.75, 0.0),
        every: int = 1,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(loss, candidates=candidates, active=active, every=every, **options)


class SVDD(Particles):
    """Take one of n draws by its potential at every step; near the tilted law.

    Args:
        loss: see `SCG`.
        candidates: n.
        strength: lambda of the tilt exp(-lambda J).
        particles: K; with more than one, one is drawn by weight at the end.
        weighted: resample the particles by their weights, which makes the law consistent in K. The
            weights in the result are unbiased either way.
        temper: of `Particles`; None is 0 for one particle, as in the paper, whose choices have to lead
            to the tilt alone, and 2 where weights make up for what they lack.
        options: of `Particles`.

    Paper: SVDD, arXiv:2408.08252; the weights are ours.
    """

    def __init__(
        self,
        loss: Function,
        *,
        candidates: int = 16,
        strength: float = 1.0,
        particles: int = 1,
        weighted: bool = False,
        temper: float | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        across = "weights" if weighted else "none"
        if temper is None:
            temper = 2.0 if weighted or particles > 1 else 0.0
        super().__init__(
            loss, candidates=candidates, particles=particles, select="categorical", across=across,
            strength=strength, temper=temper, **options,
        )  # fmt: skip


class FKSteering(Particles):
    """Feynman-Kac steering: K particles, weighted by their potentials and resampled.

    Args:
        loss: see `SCG`.
        particles: K.
        strength: lambda of the tilt exp(-lambda J).
        potential: "difference", "max" or "sum".
        options: of `Particles`; `temper=0` trusts predictions at all levels alike, which makes the
            weights heavy-tailed.

    Paper: arXiv:2501.06848.
    """

    def __init__(
        self,
        loss: Function,
        *,
        particles: int = 16,
        strength: float = 1.0,
        potential: Any = "difference",  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(
            loss, particles=particles, across="weights", strength=strength, potential=potential,
            **options,
        )  # fmt: skip


class BestOfN(Particles):
    """Draw n samples and return the one with the least loss.

    Args:
        loss: see `SCG`.
        n: how many.
        options: of `Particles`.

    Cost: n plain runs.
    """

    def __init__(self, loss: Function, n: int = 16, **options: Any) -> None:  # noqa: ANN401
        super().__init__(loss, particles=n, end="best", **options)

    def _guided(self, law: Law, model: Denoiser) -> bool:
        return law.last


class TwistedSMC(FKSteering):
    """Twisted SMC: particles whose proposals a gradient has bent, weighted back to the tilted law.

    Sample a `DPS` or `ClassifierGuidance` wrapper with this policy: the step's law is then the bent one,
    and each particle's weight is corrected by the ratio of the plain law's density of its move to the
    bent one's, so that the weights stay unbiased for the plain model's tilt.

    Args:
        loss: see `SCG`.
        particles: K.
        options: of `FKSteering`.

    Raises:
        TypeError: if the model is no wrapper of a plain one.
        ValueError: if the plan's steps are not of one evaluation, as those of `rd.ddpm` are.

    Paper: TDS, arXiv:2306.17775.

    Cost: that of `FKSteering`, and one evaluation of the plain model more at each step. Exact for plans
    without history (`rd.ddpm`, `rd.gddim(order=1)`).
    """

    def _correct(self, law: Law, model: Denoiser, wants: str, x: Tensor) -> None:
        plain = getattr(model, "model", None)
        if plain is None:
            raise TypeError(
                "TwistedSMC weighs the moves of a wrapper such as DPS(model, loss); use FKSteering."
            )
        if law.prediction is None or law.gain is None:
            raise ValueError("TwistedSMC needs one evaluation per step: use rd.ddpm.")
        modes = model.process.modes
        undo = inverse(law.scale)
        other = plain.ask(law.z, law.start, wants) - law.prediction
        shift = apply(undo, apply(law.gain, other, modes), modes)  # plain mean - bent mean
        noise = apply(undo, x - law.mean, modes)
        ratio = (shift * (noise - shift / 2)).flatten(1).sum(1).double().cpu()
        self._log_w = self._log_w + ratio.reshape(self._log_w.shape)
        self._result.evaluations += self.width
