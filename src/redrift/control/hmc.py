r"""Hamiltonian Monte Carlo on a batch of chains at once, with gradients carried along.

Each move draws momenta, takes L leapfrog steps of a length in units of each coordinate's own width, and
accepts by the change of energy, so the density is left invariant for any length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift._core.rng import normal, uniform

Density = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> log-density (B,), gradient (B, dim)


class ChainState(NamedTuple):
    """Hold states with their log-density and gradient."""

    x: Tensor
    log_prob: Tensor
    grad: Tensor


def hmc_step(
    density: Density,
    chains: ChainState,
    step_size: float | Tensor,
    *,
    leapfrog_steps: int = 5,
    width: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[ChainState, Tensor]:
    """Make one move of every chain; return the chains and who moved (B,).

    Args:
        density: x to (log-density, gradient).
        chains: states with their values under `density`.
        step_size: step length in units of width.
        leapfrog_steps: leapfrog steps; 1 is the Metropolis-adjusted Langevin algorithm.
        width: (dim,) of each coordinate.
        generator: one, or None.

    Cost:
        `leapfrog_steps` evaluations of the density.
    """
    x, value, grad = chains
    p = normal(x.shape, generator, dtype=x.dtype, device=x.device)
    step = step_size * width
    y, q, g, new = x, p, grad, value
    for _ in range(leapfrog_steps):
        q = q + step * g / 2
        y = y + step * q
        new, g = density(y)
        q = q + step * g / 2
    gain = new - value + (p * p - q * q).sum(-1) / 2
    u = uniform((len(x),), generator, dtype=x.dtype, device=x.device).log()
    # a leap out of the support, or one that overflows, has gain NaN or -inf and is refused
    accepted = u < gain
    keep = accepted[:, None]
    chosen = ChainState(
        torch.where(keep, y, x), torch.where(accepted, new, value), torch.where(keep, g, grad)
    )
    return chosen, accepted


@dataclass
class Tuner:
    """Steer the step length towards an acceptance of 80 %."""

    step_size: float = 0.3
    goal: float = 0.8

    def learn(self, accepted: Tensor) -> float:
        """Take one move's acceptance into account and return its rate."""
        rate = float(accepted.float().mean())
        self.step_size = min(2.0, max(1e-4, self.step_size * (1.08 if rate > self.goal else 0.92)))
        return rate


def hmc(
    density: Density,
    x: Tensor,
    moves: int,
    *,
    leapfrog_steps: int = 10,
    width: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, float]:
    """Run chains from x (B, dim); return their last states and the mean acceptance.

    The first half adapts the step length. No log Z, and no mass moves between separated modes:
    their shares stay those of the start.

    Cost:
        moves * leapfrog_steps evaluations of the density.
    """
    chains = ChainState(x, *density(x))
    tuner, rates = Tuner(), []
    for i in range(whole("moves", moves)):
        chains, accepted = hmc_step(
            density,
            chains,
            tuner.step_size,
            leapfrog_steps=leapfrog_steps,
            width=width,
            generator=generator,
        )
        rates.append(tuner.learn(accepted) if 2 * i < moves else float(accepted.float().mean()))
    return chains.x, sum(rates) / len(rates)
