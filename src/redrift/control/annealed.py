r"""Annealed sampling: from a Gaussian to the target through $\mu_0^{1-\beta} \mu^{\beta}$, with HMC moves.

With fixed temperatures and no resampling it is annealed importance sampling; with temperatures chosen
so that each costs a fixed share of the effective sample size, and resampling, adaptive annealed SMC.
Either gives weights with log Z, the baseline of every learned sampler, and samples to learn from.

Paper: Neal (2001), Annealed importance sampling; Del Moral, Doucet and Jasra (2006), Sequential Monte
Carlo samplers. Adapting temperatures and step lengths on the particles themselves adds a bias of
order 1 / n to Z; fixed temperatures have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redrift._core.errors import NumericalError, whole
from redrift._core.rng import normal
from redrift.control.hmc import ChainState, Tuner, hmc_step
from redrift.measure import Weights, adaptive_resample, effective_share
from redrift.measure.resampling import check_ess_threshold
from redrift.targets import Target

Function = Callable[[Tensor], Tensor]
_LONGEST = 2000  # temperatures at most


@dataclass(frozen=True, eq=False)
class Annealed:
    """Hold weighted samples of an annealed run.

    Attributes:
        x: (n, dim).
        weights: unnormalised, so weights.log_z is the estimate of log Z.
        temperatures: how many were used.
        acceptance: mean acceptance of the moves.
        survivors: distinct starts that have offspring among x.
    """

    x: Tensor
    weights: Weights
    temperatures: int
    acceptance: float
    survivors: int


def anneal(
    log_prob: Function,
    score: Function,
    dim: int,
    n: int = 2000,
    *,
    loc: Tensor | float = 0.0,
    scale: Tensor | float = 1.0,
    temperatures: int | None = None,
    ess_threshold: float = 0.5,
    moves: int = 2,
    leapfrog_steps: int = 5,
    ess_ratio: float = 0.95,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Annealed:
    """Anneal n particles from N(loc, scale^2) to the target.

    Args:
        log_prob: target (B, dim) to (B,).
        score: its gradient.
        dim: of x.
        n: particles, >= 2.
        loc: mean of the start, a number or (dim,).
        scale: standard deviation of the start, a number or (dim,); it must cover the target.
        temperatures: a fixed number, evenly spaced; None chooses them by effective sample size.
        ess_threshold: resample where the effective sample size falls below this share of the particles,
            in [0, 1]; 0 never does: annealed importance sampling.
        moves: of HMC at each temperature.
        leapfrog_steps: of each move.
        ess_ratio: effective sample size after a chosen temperature over the one before it.
        dtype: of the particles.
        generator: one, or None.

    Raises:
        NumericalError: if no temperature below 2000 reaches the target.

    Cost:
        temperatures * moves * leapfrog_steps evaluations of log_prob and score for each particle.
    """
    n = whole("n", n, least=2)
    check_ess_threshold(ess_threshold)
    loc, scale = _row(loc, dim, dtype), _row(scale, dim, dtype)
    constant = float(scale.log().sum()) + dim * math.log(2 * math.pi) / 2
    x = loc + scale * normal((n, dim), generator, dtype=dtype)
    state = ChainState(x, log_prob(x), score(x))
    log_w, log_z = torch.full((n,), -math.log(n), dtype=torch.float64), 0.0
    origin = torch.arange(n)
    tuner, beta, count, rates = Tuner(), 0.0, 0, []
    while beta < 1:
        base = -((state.x - loc) / scale).square().sum(-1) / 2 - constant
        gap = (state.log_prob - base).double()
        step = 1 / temperatures if temperatures else _next(log_w, gap, 1 - beta, ess_ratio)
        step = min(step, 1 - beta)
        beta = 1.0 if beta + step > 1 - 1e-9 else beta + step
        log_w = log_w + step * gap
        mass = log_w.logsumexp(0)
        if not bool(torch.isfinite(mass)):
            raise NumericalError("all particles lost their weight.", step=count, time=beta)
        log_z, log_w = log_z + float(mass), log_w - mass
        done = adaptive_resample(log_w, ess_threshold, generator=generator)
        log_w = done.log_w
        if done.ancestors is not None:
            state = ChainState(*(part[done.ancestors] for part in state))
            origin = origin[done.ancestors]
        width = _width(state.x, log_w)
        density = _Tempered(log_prob, score, beta, loc, scale)
        raw = _Raw(density)
        inner = ChainState(state.x, *density.mix(state))
        for _ in range(moves):
            raw.reset(state)
            inner, accepted = hmc_step(
                raw,
                inner,
                tuner.step_size,
                leapfrog_steps=leapfrog_steps,
                width=width,
                generator=generator,
            )
            state = raw.pick(inner.x, accepted)
            rates.append(tuner.learn(accepted))
        count += 1
        if count > _LONGEST:
            raise NumericalError(
                f"{_LONGEST} temperatures only reached beta = {beta:.3g}: give a scale that covers "
                "the target.", step=count, time=beta,
            )  # fmt: skip
    weights = Weights(log_w + log_z + math.log(n))
    mean = sum(rates) / len(rates) if rates else math.nan
    return Annealed(state.x, weights, count, mean, len(origin.unique()))


def two_passes(
    target: Target,
    n: int,
    start: float | Tensor | None,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Annealed:
    """Anneal a tenth of the particles from a wide start, then all from what those found.

    Args:
        target: with log_prob and score.
        n: particles of the second pass.
        start: standard deviation of the first start; 4 by default.
        dtype: of the particles.
        generator: of both.
    """
    density = target.log_prob, target.score, target.dim
    run: dict[str, Any] = dict(dtype=dtype, generator=generator)
    pilot = anneal(*density, max(200, n // 10), scale=4.0 if start is None else start, **run)
    x = pilot.weights.resample(pilot.x, generator=generator)
    loc, scale = x.mean(0), 1.5 * x.std(0).clamp(min=1e-6)
    return anneal(*density, n, loc=loc, scale=scale, **run)


class _Tempered:
    """Evaluate the tempered density, and mix stored values of the target into it."""

    def __init__(
        self, log_prob: Function, score: Function, beta: float, loc: Tensor, scale: Tensor
    ) -> None:
        self.log_prob, self.score = log_prob, score
        self.beta, self.loc, self.precision = beta, loc, scale**-2

    def mix(self, state: ChainState) -> tuple[Tensor, Tensor]:
        rest = (state.x - self.loc) * self.precision
        base = -(rest * (state.x - self.loc)).sum(-1) / 2
        other = 1 - self.beta
        return self.beta * state.log_prob + other * base, self.beta * state.grad - other * rest

    def target(self, x: Tensor) -> ChainState:
        return ChainState(x, self.log_prob(x), self.score(x))


class _Raw:
    """Keep the target's values at the last proposal, so that none is evaluated twice."""

    def __init__(self, density: _Tempered) -> None:
        self.density = density

    def reset(self, state: ChainState) -> None:
        self.before = self.last = state

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.last = self.density.target(x)
        return self.density.mix(self.last)

    def pick(self, x: Tensor, accepted: Tensor) -> ChainState:
        keep = accepted[:, None]
        return ChainState(
            x,
            torch.where(accepted, self.last.log_prob, self.before.log_prob),
            torch.where(keep, self.last.grad, self.before.grad),
        )


def _next(log_w: Tensor, gap: Tensor, left: float, ess_ratio: float) -> float:
    """Return the largest step that leaves this share of the effective sample size, by bisection."""

    def size(step: float) -> float:
        return float(effective_share((log_w + step * gap).softmax(0)))

    least = ess_ratio * size(0.0)
    if size(left) >= least:
        return left
    low, high = 0.0, left
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) >= least else (low, middle)
    return max(low, 1e-5)


def _width(x: Tensor, log_w: Tensor) -> Tensor:
    w = log_w.exp().to(x)[:, None]
    mean = (w * x).sum(0)
    return (w * (x - mean).square()).sum(0).sqrt().clamp(min=1e-6)


def _row(value: Tensor | float, dim: int, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(value, dtype=dtype).expand(dim)
