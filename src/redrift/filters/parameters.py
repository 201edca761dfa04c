r"""Parameters of a model from its evidence: Metropolis-Hastings with particles, and EM.

Where the evidence is differentiable, a third way: `particle_filter(...).log_evidence` carries the
gradient of its tensors. In one window (window and stride infinite) of a linear-Gaussian model it is
Kalman's; elsewhere resampling is held fixed, so the gradient is biased, usable for a start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.rng import normal
from redrift.filters.particle import particle_filter
from redrift.pathintegral import PathIntegral
from redrift.statespace.model import StateSpace
from redrift.statespace.recursion import Proposal


@dataclass(frozen=True, eq=False)
class ParameterChain:
    """Hold a chain of parameters.

    Attributes:
        theta: (draws, q).
        log_evidence: estimates that belong to them (draws,).
        accepted: share of the proposals.
    """

    theta: Tensor
    log_evidence: Tensor
    accepted: float


def pmmh(
    model: Callable[[Tensor], StateSpace],
    log_prior: Callable[[Tensor], Tensor],
    y: Tensor,
    first: Tensor,
    *,
    scale: float | Tensor,
    draws: int,
    particles: int = 64,
    proposal: Proposal | None = None,
    times: Tensor | Sequence[float] | None = None,
    correlation: float = 0.5,
    generator: torch.Generator | None = None,
) -> ParameterChain:
    """Draw parameters by particle marginal Metropolis-Hastings: exact for any number of particles.

    The filter's seed is kept with a chance `correlation` and drawn anew otherwise, jointly with the
    parameters: two neighbours then share their noise, and the errors of their estimates cancel in
    part. The proposal of the seed leaves its distribution invariant, so the chain is exact.

    Args:
        model: parameters (q,) to a model.
        log_prior: parameters to a log-density (), -inf outside.
        y: (K, p).
        first: starting parameters (q,).
        scale: standard deviation of the random walk, a number or (q,).
        draws: length of the chain.
        particles: N.
        proposal: of the filter.
        times: of y.
        correlation: chance in [0, 1) to keep the noise.
        generator: for everything, or None.

    Raises:
        ValueError: if correlation is not in [0, 1), or the prior is -inf at `first`.

    Cost:
        One filter per draw.

    Paper: Andrieu, Doucet and Holenstein (2010); Deligiannidis, Doucet and Pitt
    (2018) correlate the noise itself, by an autoregression.
    """
    whole("draws", draws)
    if not 0 <= correlation < 1:
        raise ValueError(f"correlation={correlation!r} must lie in [0, 1).")

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    def seed() -> int:
        return int(torch.randint(2**62, (), generator=generator))

    def evidence(theta: Tensor, number: int) -> float:
        with torch.no_grad():
            post = particle_filter(
                model(theta), y, times=times, particles=particles, proposal=proposal,
                generator=torch.Generator().manual_seed(number),
            )  # fmt: skip
        return float(post.log_evidence)

    theta, prior = first.detach().clone(), float(log_prior(first))
    if prior == -math.inf:
        raise ValueError("log_prior is -inf at the first parameters: start inside its support.")
    number = seed()
    level, accepted = evidence(theta, number), 0
    kept, levels = [], []
    for _ in range(draws):
        step = normal(theta.shape, generator, dtype=theta.dtype)
        other, other_number = theta + scale * step, number if uniform() < correlation else seed()
        other_prior = float(log_prior(other))
        if other_prior > -math.inf:
            value = evidence(other, other_number)
            if math.log(max(uniform(), 1e-300)) < value + other_prior - level - prior:
                theta, number, level, prior = other, other_number, value, other_prior
                accepted += 1
        kept.append(theta)
        levels.append(level)
    return ParameterChain(
        torch.stack(kept), torch.tensor(levels, dtype=torch.float64), accepted / draws
    )


def em(
    model: StateSpace,
    y: Tensor,
    *,
    times: Tensor | Sequence[float] | None = None,
    sweeps: int = 10,
    particles: int = 200,
    proposal: Proposal | None = None,
    generator: torch.Generator | None = None,
) -> list[StateSpace]:
    """Fit F and G G' of a discrete linear model by EM, from smoothed paths.

    E: paths of one window over all data, whose weights are all alike. M: the regression
    F = sum x_k x_{k-1}' (sum x_{k-1} x_{k-1}')^-1 and the mean square of its residuals.

    Args:
        model: to begin with: time="discrete", a matrix for drift, no offset, square noise.
        y: (K, p).
        times: of y.
        sweeps: of EM.
        particles: N.
        proposal: one window over all data if None.
        generator: or None.

    Returns:
        The models, the first included: sweeps + 1 of them.

    Raises:
        ValueError: if the model is not of that kind.

    Cost:
        One filter per sweep.
    """
    if model.time != "discrete" or not isinstance(model.drift, Tensor) or callable(model.scale):
        raise ValueError("em fits drift matrix and constant scale of a discrete linear model.")
    found = [model]
    for _ in range(whole("sweeps", sweeps)):
        post = particle_filter(
            model, y, times=times, particles=particles, generator=generator,
            proposal=proposal or PathIntegral(math.inf, math.inf),
        )  # fmt: skip
        w = post.clouds[-1].log_weights[0].exp().reshape(-1, 1, 1)
        x = post.path.to(w)
        before, after = x[:, :-1], x[:, 1:]
        square = ((w * before).mT @ before).sum(0)
        F = torch.linalg.solve(square, ((w * before).mT @ after).sum(0)).mT
        rest = after - before @ F.mT
        Q = ((w * rest).mT @ rest).sum(0) / rest.shape[1]
        model = replace(model, drift=F, scale=torch.linalg.cholesky(Q))
        found.append(model)
    return found
