r"""Samples of the target to learn from: the control's own, resampled by weight, and HMC moves of old ones.

Every draw of every control has an unbiased weight, so a pool of all of them corrects what the first
samples missed, and improves with the control.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redrift.control.hmc import ChainState, Tuner, hmc_step
from redrift.control.nets import Control
from redrift.control.objective import NetDrift
from redrift.control.problem import ControlProblem
from redrift.measure import Weights, resample

DRAWN, KEPT = 1024, 20_000  # samples drawn at a refresh, samples kept
_LEAST = 256  # effective draws that a pool must hold before it is used


class Pool:
    """Hold the control's latest samples with their weights."""

    def __init__(self, problem: ControlProblem) -> None:
        self.problem = problem
        self.z: Tensor | None = None
        self.log_w: Tensor | None = None

    def renew(
        self, terminal: Tensor, net: Control, share: float, generator: torch.Generator
    ) -> Tensor:
        """Draw from the control, and return samples with a share of them resampled from the pool.

        Weights are truncated at sqrt(n) times their mean (Ionides, 2008).
        """
        z, log_w = draw_terminal(self.problem, net, 2 * DRAWN, generator)
        if self.z is not None and self.log_w is not None:
            z = torch.cat([self.z, z])[-KEPT:]
            log_w = torch.cat([self.log_w, log_w])[-KEPT:]
        self.z, self.log_w = z, log_w
        mean = float(log_w.logsumexp(0)) - math.log(len(log_w))
        held = log_w.clamp(max=mean + math.log(len(log_w)) / 2)
        if len(z) < 4 * DRAWN or float(Weights(held).ess) * len(z) < _LEAST:
            return terminal
        n = round(share * len(terminal))
        fresh = z[resample(held, n, generator=generator)]
        keep = torch.randperm(len(terminal), generator=generator)[: len(terminal) - n]
        return torch.cat([terminal[keep], fresh])

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name."""
        if self.z is None or self.log_w is None:
            return {}
        return {"pool": self.z, "pool_log_w": self.log_w}

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state of `tensors`."""
        self.z, self.log_w = tensors.get("pool"), tensors.get("pool_log_w")


@torch.no_grad()
def draw_terminal(
    problem: ControlProblem, net: Control, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return final states and log-weights of n paths, those of no weight left out."""
    dtype = net.last.weight.dtype
    z, log_w, _ = problem.simulate(NetDrift(problem, net), n, dtype=dtype, generator=generator)
    used = torch.isfinite(log_w)
    return z[used], log_w[used]


def hmc_moves(
    problem: ControlProblem, x: Tensor, moves: int, generator: torch.Generator
) -> Tensor:
    """Return samples x (M, dim) after HMC moves, which leave the target invariant."""

    def density(x: Tensor) -> tuple[Tensor, Tensor]:
        return problem.log_prob(x), problem.score(x)

    chains, tuner = ChainState(x, *density(x)), Tuner(0.3)
    width = x.std(0)
    for _ in range(moves):
        chains, accepted = hmc_step(
            density, chains, tuner.step_size, width=width, generator=generator
        )
        tuner.learn(accepted)
    return chains.x
