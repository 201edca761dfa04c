r"""One engine behind guidance by rules: K particles, n proposals each, potentials, selection, weights.

The rule's law is the base law tilted by $e^{-\lambda J(x_0)}$. A step's potential is
$G = e^{-U}$ with $U = \lambda \beta J(\hat x_0)$, $\beta = \bar\alpha^p$ a temper that trusts the blurry
predictions at high noise less, and U = \lambda J(x_0) at the last step. Proposals are draws of the step's
law, judged at the *next* noise level, where they will be. Then

    choose among the n proposals of each particle: the best ("argmax"), or by G ("categorical"),
        log w += logmeanexp(-U_j) + U_before
    choose among the K particles: by weight when the ESS falls, or the K best of all proposals ("top").

With categorical choices the weights make $\hat Z = \mathrm{mean}\, w$ unbiased for
$Z = E\, e^{-\lambda J(x_0)}$ whatever the network, the temper, K and n. With "argmax" and "top" there are no
weights: these minimise the rule and do not sample from the tilted law.

Paper: SCG, arXiv:2402.14285 (argmax, K = 1); SVDD, 2408.08252; Feynman-Kac steering, 2501.06848; TreeG,
2502.11420.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.linalg import apply, combine
from redrift._core.rng import Generators, normal
from redrift.denoise import Denoiser
from redrift.guidance import choices
from redrift.guidance.guided import Guidance, alpha_bar
from redrift.guidance.loss import Function, as_loss
from redrift.guidance.segments import Masks, Segments
from redrift.measure import Weights, resample
from redrift.process import convert
from redrift.sampling import draw
from redrift.solvers import Law, Move

Potential = Literal["difference", "max", "sum"]


class _Judged(NamedTuple):
    """Candidates with their predictions and losses; all (rows, n, ...)."""

    x: Tensor
    prediction: Tensor | None
    loss: Tensor  # (rows, n) or (rows, n, S)


class Particles:
    """A policy that chooses among draws of each step's noise by a rule; see the module.

    `SCG`, `SVDD`, `FKSteering`, `TreeG` and `BestOfN` set it up. Results of the runs are appended to
    `results`, newest last.

    Args:
        loss: of predicted clean samples, lower is better: a callable (rows, *shape) -> (rows,).
        particles: K, kept for each sample.
        candidates: n proposals of each particle.
        select: among proposals, "argmax" or "categorical".
        across: among particles, "none", "weights" (systematic resampling) or "top".
        end: of the K particles return one drawn by weight ("draw") or the best ("best").
        strength: lambda of the tilt; it matters where weights or categorical choices do.
        temper: power p of alpha-bar.
        potential: "difference" is U as above; "max" takes the least loss of all steps so far for J,
            "sum" adds the potentials up; all end at the same tilt.
        threshold: resample when the ESS falls below this fraction; 0 never, above 1 always.
        active: (first, last) fractions of the horizon between which steps are guided. The last step
            always is: it costs nothing.
        every: guide every so many steps.
        authority: scale of the noise among which is chosen; other than 1 leaves the law and the weights.
        decode: from clean samples to what the loss is of, such as a VAE's decoder.
        segments: guide parts of a canvas on their own (K = 1, "argmax").
        max_batch: most rows of one network call; proposals are asked in chunks, and a `Pooled` rule
            judges one while the network is asked for the next.
        watch: called after each guided step as watch(step, losses of the states kept (B, K)).

    Raises:
        ValueError: for zero particles or candidates, an empty active range, or combinations without a
            meaning.

    Cost: per sample K (1 + n A + I) evaluations, A guided steps but the last, I other steps but the
    last: the winner's prediction is the next step's evaluation, and the last step is judged on the
    sample itself. With segments each guided step costs one more.
    """

    coupled = False
    needs_noise = True

    def __init__(
        self,
        loss: Function,
        *,
        particles: int = 1,
        candidates: int = 1,
        select: str = "argmax",
        across: str = "none",
        end: str = "draw",
        strength: float = 1.0,
        temper: float = 2.0,
        potential: Potential = "difference",
        threshold: float = 0.5,
        active: tuple[float, float] = (1.0, 0.0),
        every: int = 1,
        authority: float = 1.0,
        decode: Callable[[Tensor], Tensor] | None = None,
        segments: Segments | Masks | None = None,
        max_batch: int | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        self.loss = as_loss(loss)
        self.width = whole("particles", particles)
        self.candidates = whole("candidates", candidates)
        self.select = choose("select", select, ("argmax", "categorical"))
        self.across = choose("across", across, ("none", "weights", "top"))
        self.end = choose("end", end, ("draw", "best"))
        self.potential = choose("potential", potential, ("difference", "max", "sum"))
        self.every = whole("every", every)
        self.strength, self.temper, self.threshold = map(float, (strength, temper, threshold))
        self.active, self.authority = (float(active[0]), float(active[1])), float(authority)
        self.decode, self.segments = decode, segments
        self.max_batch = None if max_batch is None else whole("max_batch", max_batch)
        self.watch = watch
        self.results: list[Guidance] = []
        self._check()

    def _check(self) -> None:
        high, low = self.active
        if not 1 >= high > low >= 0:
            raise ValueError(
                f"active={self.active} must be (first, last) fractions of the horizon, 1 >= first > last "
                ">= 0: with an empty range nothing would be guided."
            )
        if not (0 < self.strength < math.inf and 0 < self.authority < math.inf):
            raise ValueError("strength and authority must be positive and finite.")
        if not (self.temper >= 0 and self.threshold >= 0):
            raise ValueError("temper and threshold must be at least 0.")
        if self.authority != 1 and self.across == "weights":
            raise ValueError("authority leaves the law that weights are for; use SCG or TreeG.")
        if self.segments is not None and (self.width > 1 or self.select != "argmax"):
            raise ValueError("segments are chosen one by one: particles=1, select='argmax'.")

    @property
    def weighted(self) -> bool:
        """Return whether the run has weights."""
        greedy = self.candidates > 1 and self.select == "argmax"
        return not greedy and self.across != "top" and self.authority == 1

    @contextmanager
    def begin(self) -> Generator[Particles, None, None]:
        """Give a policy with fresh per-run state; its result is appended to `results` at the end."""
        run = copy.copy(self)
        run._result = Guidance(evaluations=self.width)
        yield run

    # ------------------------------------------------------------------ one step

    def __call__(self, law: Law, model: Denoiser, wants: str, *, generator: Generators) -> Move:
        """Choose the next states."""
        self._generator, self._process = generator, model.process
        if self._log_w is None:
            B, K = len(law.mean) // self.width, self.width
            self._log_w = self._before = torch.zeros(B, K, dtype=torch.float64)
            self._best = torch.full_like(self._log_w, math.inf)
            self._roots = torch.arange(K).repeat(B, 1)
        if not self._guided(law, model):
            self._result.evaluations += self.width * (not law.last)
            x = draw(law, model.process, generator)
            self._correct(law, model, wants, x)
            return Move(x)
        return self._choose(law, model, wants, generator)

    def _guided(self, law: Law, model: Denoiser) -> bool:
        share = float(law.start.t) / model.process.horizon
        within = self.active[1] < share <= self.active[0] or (share <= 0 == self.active[1])
        counted = self._step % self.every == 0
        self._step += within
        # weights have to end at the tilt itself, and a loss has to be known of what is returned
        return (within and counted) or law.last

    def _choose(self, law: Law, model: Denoiser, wants: str, generator: Generators) -> Move:
        """Propose, judge and choose at a guided step."""
        judged = self._judge(law, model, wants, generator)
        if self.segments is not None:
            return self._by_segment(law, model, judged, generator)
        if self.across == "top":
            return self._top(law, judged, generator)
        self._correct(law, model, wants, judged.x[:, 0])
        return self._weigh(law, judged, generator)

    def _judge(self, law: Law, model: Denoiser, wants: str, generator: Generators) -> _Judged:
        """Draw candidates, predict at their own level, and evaluate the rule on them."""
        n, rows, process = self.candidates, len(law.mean), model.process
        noise = normal((rows * n, *law.mean.shape[1:]), generator, dtype=law.mean.dtype,
                       device=law.mean.device)  # fmt: skip
        spread = self.authority * apply(law.scale, noise, process.modes)
        x = (law.mean if n == 1 else law.mean.repeat_interleave(n, 0)) + spread
        x = x.unflatten(0, (rows, n))
        waiting, predictions = [], []
        limit = max(1, (self.max_batch or rows * n) // rows)
        for first in range(0, n, limit):
            chunk = x[:, first : first + limit]
            e, clean = self._clean(chunk, law, model, wants)
            predictions.append(e)
            began = time.perf_counter()
            waiting.append((self._submit(clean), chunk.shape[1]))
            self._result.waited += time.perf_counter() - began
        began = time.perf_counter()
        losses = [wait().reshape(rows, count, -1) for wait, count in waiting]
        self._result.waited += time.perf_counter() - began
        loss = torch.cat(losses, 1).cpu()
        prediction = None if law.last else torch.cat(predictions, 1)
        self._result.evaluations += self.width * n * (not law.last)
        return _Judged(x, prediction, loss if self.segments is not None else loss.sum(-1))

    def _clean(
        self, chunk: Tensor, law: Law, model: Denoiser, wants: str
    ) -> tuple[Tensor | None, Tensor]:
        """Return the predictions (rows, m, ...) and clean samples (rows * m, *shape) of a chunk."""
        rows, m = chunk.shape[:2]
        z, process = chunk.flatten(0, 1), model.process
        if law.last:
            return None, process.data(z)
        index = torch.arange(rows, device=z.device)
        if m > 1:
            model.take(index.repeat_interleave(m))
        e = model.ask(z, law.level, wants)
        if m > 1:
            model.take(index * m)
        P, Q = convert(process, law.level, wants, "x0")
        clean = process.data(combine(((P, z), (Q, e)), process.modes))
        return e.unflatten(0, (rows, m)), clean

    def _submit(self, clean: Tensor) -> Callable[[], Tensor]:
        data = clean if self.decode is None else self.decode(clean)
        if self.segments is None:
            return self.loss.submit(data)
        return self.segments.submit(self.loss, data)

    def _correct(self, law: Law, model: Denoiser, wants: str, x: Tensor) -> None:
        """Weigh moves x that were drawn from another law than the model's; none are, here."""

    # ------------------------------------------------------------------ choices

    def _potentials(self, law: Law, loss: Tensor) -> Tensor:
        """Return U (B, K, n) of candidates with losses (B, K, n)."""
        if law.last:
            return self.strength * loss
        if self.potential == "max":
            loss = torch.minimum(loss, self._best[..., None])
        own = self.strength * alpha_bar(law.level) ** self.temper * loss
        return own + self._before[..., None] if self.potential == "sum" else own

    def _weigh(self, law: Law, judged: _Judged, generator: Generators) -> Move:
        """Choose one proposal of each particle, then among particles by weight."""
        B, K = self._log_w.shape
        loss = judged.loss.reshape(B, K, -1)
        U = self._potentials(law, loss)
        pick = self._pick(U if self.select == "categorical" else loss, generator)
        chosen = U.gather(2, pick[..., None])[..., 0]
        if self.weighted:
            gain = (-U).logsumexp(2) - math.log(U.shape[2])
            self._log_w = self._log_w + gain + self._before
        self._before = chosen
        kept = loss.gather(2, pick[..., None])[..., 0]
        self._best = torch.minimum(self._best, kept)
        flat = pick.reshape(-1).to(judged.x.device)
        index = torch.arange(len(flat), device=flat.device)
        x = judged.x[index, flat]
        prediction = None if judged.prediction is None else judged.prediction[index, flat]
        ancestors = self._resample(law, generator)
        self._saw(law, kept)
        if ancestors is None:
            return Move(x, None, prediction)
        self._before, self._best, self._roots = (
            value.reshape(-1)[ancestors].reshape(B, K)
            for value in (self._before, self._best, self._roots)
        )
        ancestors = ancestors.to(x.device)
        return Move(x[ancestors], ancestors, None if prediction is None else prediction[ancestors])

    def _pick(self, score: Tensor, generator: Generators) -> Tensor:
        """Return the chosen proposal (B, K) for scores (B, K, n), lower is better; ties are drawn."""
        if score.shape[2] == 1:
            return torch.zeros(score.shape[:2], dtype=torch.long)
        return (
            choices.drawn(score, generator)
            if self.select == "categorical"
            else choices.least(score, generator)
        )

    def _resample(self, law: Law, generator: Generators) -> Tensor | None:
        """Return ancestors (B * K,) where some samples' weights have degenerated; not at the end."""
        B, K = self._log_w.shape
        if self.across != "weights" or K == 1 or not self.weighted:
            return None
        ess = Weights(self._log_w).ess
        self._result.ess.append((law.step, float(ess.mean())))
        low = ess < self.threshold
        # every sample draws at every step, so that its numbers do not depend on its neighbours' weights
        drawn = resample(self._log_w, K, "systematic", generator)
        if law.last or not bool(low.any()):
            return None
        pick = torch.where(low[:, None], drawn, torch.arange(K))
        mean = self._log_w.logsumexp(1, keepdim=True) - math.log(K)
        self._log_w = torch.where(low[:, None], mean.expand(B, K), self._log_w)
        self._result.resampled.append((law.step, int(low.sum())))
        return (pick + K * torch.arange(B)[:, None]).reshape(-1)

    def _top(self, law: Law, judged: _Judged, generator: Generators) -> Move:
        """Keep the K best of all K n proposals of each sample."""
        B, K = self._log_w.shape
        n = judged.loss.shape[1]
        loss = judged.loss.reshape(B, K * n)
        best = choices.lowest(loss, K, generator)
        rows = (best // n + K * torch.arange(B)[:, None]).reshape(-1).to(judged.x.device)
        nth = (best % n).reshape(-1).to(judged.x.device)
        self._roots = self._roots.gather(1, best // n)
        self._saw(law, loss.gather(1, best))
        x = judged.x[rows, nth]
        prediction = None if judged.prediction is None else judged.prediction[rows, nth]
        return Move(x, rows, prediction)

    def _by_segment(
        self, law: Law, model: Denoiser, judged: _Judged, generator: Generators
    ) -> Move:
        """Put the best candidate of each segment together; the result has no prediction yet."""
        process = model.process
        if process.modes:
            raise ValueError("segments need a state of sites; this process acts on frequencies.")
        assert self.segments is not None
        masks = self.segments.masks(judged.x.shape[2:]).to(judged.x.device)
        rows, n, count = judged.loss.shape
        pick = self._pick(judged.loss.movedim(2, 1), generator)  # (rows, S)
        index = torch.arange(rows, device=judged.x.device)
        x = judged.x[:, 0].clone()
        for s in range(count):
            x = torch.where(masks[s], judged.x[index, pick[:, s].to(x.device)], x)
        self._saw(law, judged.loss.amin(1).sum(1, keepdim=True))
        self._result.evaluations += not law.last
        alone = judged.prediction is not None and n == 1
        return Move(x, None, judged.prediction[:, 0] if alone else None)  # pyright: ignore

    def _saw(self, law: Law, kept: Tensor) -> None:
        """Keep the last step's losses (B, K) of the states that were chosen, and tell who watches."""
        if law.last:
            self._ended = kept
        if self.watch is not None:
            self.watch(law.step, kept)

    # ------------------------------------------------------------------ the end

    def finish(self, x: Tensor) -> Tensor:
        """Return one row per sample: drawn by weight, or the best."""
        loss = self._judge_end(x) if self._ended is None else self._ended
        if self.active != (1.0, 0.0) and self._step == 0:
            raise ValueError(
                f"no step of the plan begins within active={self.active} of the horizon, so nothing was "
                "guided; widen it or use more steps."
            )
        B, K = len(x) // self.width, self.width
        result = self._result
        result.particles, result.roots = loss, self._roots
        result.weights = Weights(self._log_w) if self.weighted else None
        if self.end == "best" or not self.weighted:
            pick = loss.argmin(1)
        else:
            pick = resample(self._log_w, 1, "multinomial", self._generator)[:, 0]
        if K == 1:
            pick = torch.zeros(B, dtype=torch.long)
        result.loss = loss.gather(1, pick[:, None])[:, 0]
        self.results.append(result)
        return x if K == 1 else x[(pick + K * torch.arange(B)).to(x.device)]

    def _judge_end(self, x: Tensor) -> Tensor:
        """Evaluate the rule on the samples of a plan whose last rows draw no noise."""
        if self._process is None:
            raise ValueError("the plan drew no noise, so nothing was guided; use rd.ddpm.")
        B, K = self._log_w.shape
        loss = self._submit(self._process.data(x))().cpu().reshape(B, K, -1).sum(2)
        if self.weighted:
            self._log_w = self._log_w - self.strength * loss + self._before
        return loss

    # per-run state, set by `begin`
    _process: Any = None
    _log_w: Any = None
    _before: Any = None
    _best: Any = None
    _roots: Any = None
    _ended: Any = None
    _step: int = 0
    _generator: Generators = None
    _result: Guidance = Guidance()
