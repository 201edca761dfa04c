"""Proposals: the candidates of a step, with their losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.linalg import apply, combine, inverse
from redrift._core.rng import normal
from redrift.guidance.run import ParticleRun
from redrift.process import convert
from redrift.sampling import draw
from redrift.solvers import NextState, Transition


class Candidates(Protocol):
    """The candidates of a step, n for each row; rows are the particles of all samples."""

    @property
    def loss(self) -> Tensor:
        """Return their losses (rows, n), or (rows, n, S) for S segments."""
        ...

    def take(self, nth: Tensor, rows: Tensor | None = None) -> NextState:
        """Return the move to the candidates nth (rows,) of their own row, or of the rows named."""
        ...


@dataclass(frozen=True)
class StepProposal:
    """How candidates are made; subclasses give `propose`."""

    candidates: int = 1

    def __post_init__(self) -> None:
        """Check."""
        whole("candidates", self.candidates)

    @property
    def exact(self) -> bool:
        """Return whether candidates follow the law that weights refer to."""
        return True

    def draw(self, run: ParticleRun, law: Transition) -> Tensor:
        """Return the next states at a step that is not guided."""
        return draw(law, run.model.process, run.generator)

    def propose(self, run: ParticleRun, law: Transition) -> Candidates:
        """Return the candidates of a guided step."""
        raise NotImplementedError


class Drawn(NamedTuple):
    """Hold draws of a step's law with their predictions and losses, all (rows, n, ...)."""

    x: Tensor
    prediction: Tensor | None
    loss: Tensor

    def take(self, nth: Tensor, rows: Tensor | None = None) -> NextState:
        """Return the move to these draws."""
        nth = nth.to(self.x.device)
        index = torch.arange(len(nth), device=nth.device) if rows is None else rows.to(nth.device)
        prediction = None if self.prediction is None else self.prediction[index, nth]
        return NextState(self.x[index, nth], None if rows is None else index, prediction)


@dataclass(frozen=True)
class Draws(StepProposal):
    """Draw candidates from the step's law, and judge each by what is predicted at *its* noise level.

    Args:
        candidates: n for each particle.
        noise_scale: factor on the step's noise, > 0; other than 1 the draws leave the law, and there are
            no weights.

    Cost: n evaluations for each particle; none at the last step, which is judged on the sample itself.
    """

    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if not 0 < self.noise_scale < math.inf:
            raise ValueError(f"noise_scale must be positive and finite, got {self.noise_scale}.")

    @property
    def exact(self) -> bool:
        """Return whether the noise is the step's own."""
        return self.noise_scale == 1

    def propose(self, run: ParticleRun, law: Transition) -> Drawn:
        """Draw candidates, predict at their own level, and evaluate the rule on them."""
        n, rows, process = self.candidates, len(law.mean), run.model.process
        noise = normal((rows * n, *law.mean.shape[1:]), run.generator, dtype=law.mean.dtype,
                       device=law.mean.device)  # fmt: skip
        spread = self.noise_scale * apply(law.scale, noise, process.modes)
        x = (law.mean if n == 1 else law.mean.repeat_interleave(n, 0)) + spread
        x = x.unflatten(0, (rows, n))
        pending, predictions = [], []
        limit = max(1, (run.max_batch or rows * n) // rows)
        for chunk in x.split(
            limit, 1
        ):  # a pooled rule judges one while the network is asked the next
            prediction, clean = _predict(run, law, chunk)
            predictions.append(prediction)
            pending.append(run.waiting(lambda clean=clean: run.submit(clean)))
        found = run.waiting(lambda: [wait().unflatten(0, (rows, -1)) for wait in pending])
        run.result.evaluations += run.width * n * (not law.last)
        prediction = None if law.last else torch.cat(predictions, 1)
        return Drawn(x, prediction, torch.cat(found, 1).cpu())


def _predict(run: ParticleRun, law: Transition, chunk: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return predictions (rows, m, ...) and clean samples (rows * m, *shape) of states (rows, m, ...)."""
    rows, m = chunk.shape[:2]
    z, model, process = chunk.flatten(0, 1), run.model, run.model.process
    if law.last:
        return None, process.data(z)
    index = torch.arange(rows, device=z.device)
    if m > 1:
        model.take(index.repeat_interleave(m))
    prediction = model.ask(z, law.level, run.wants)
    if m > 1:
        model.take(index * m)
    P, Q = convert(process, law.level, run.wants, "x0")
    clean = process.data(combine(((P, z), (Q, prediction)), process.modes))
    return prediction.unflatten(0, (rows, m)), clean


class Twisted(Draws):
    r"""One draw of the law that a wrapper's gradient has bent, weighted back to the plain model's law.

    A move with noise $\xi$ from the bent mean has $\log p / q = \delta'(\xi - \delta / 2)$, with $\delta$ the
    plain mean less the bent one in units of the noise.

    Raises:
        TypeError: in a run, if the model is no wrapper of a plain one.
        ValueError: in a run, if the plan's steps are not of one evaluation, as those of `rd.ddpm` are.

    Paper: TDS, arXiv:2306.17775.

    Cost: one evaluation of the plain model at each step, and one of the wrapper's.
    """

    def draw(self, run: ParticleRun, law: Transition) -> Tensor:
        """Return one draw for each particle, and correct its weight."""
        x = super().draw(run, law)
        self._correct(run, law, x)
        return x

    def propose(self, run: ParticleRun, law: Transition) -> Drawn:
        """Return one draw for each particle, and correct its weight."""
        drawn = super().propose(run, law)
        self._correct(run, law, drawn.x[:, 0])
        return drawn

    def _correct(self, run: ParticleRun, law: Transition, x: Tensor) -> None:
        """Add the log-ratio of the plain law to the bent one at the moves x to the weights."""
        plain = getattr(run.model, "model", None)
        if plain is None:
            raise TypeError(
                "TwistedSMC weighs the moves of a wrapper such as DPS(model, loss); use FKSteering."
            )
        if law.prediction is None or law.gain is None:
            raise ValueError("TwistedSMC needs one evaluation per step: use rd.ddpm.")
        modes = run.model.process.modes
        undo = inverse(law.scale)
        other = plain.ask(law.z, law.start, run.wants) - law.prediction
        shift = apply(undo, apply(law.gain, other, modes), modes)  # plain mean - bent mean
        noise = apply(undo, x - law.mean, modes)
        ratio = (shift * (noise - shift / 2)).flatten(1).sum(1).double().cpu()
        run.log_w = run.log_w + ratio.reshape(run.log_w.shape)
        run.result.evaluations += run.width
