r"""Ends to learn from: own ones weighed against the target, and old ones moved along it.

Every draw of every control has an unbiased weight, so a pool of all of them corrects what the first
samples missed, and improves with the control.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redrift.control.hmc import Chains, Tuner, move
from redrift.control.nets import Control
from redrift.control.objective import NetDrift
from redrift.control.problem import Problem
from redrift.measure import Weights, resample

OWN, KEPT = 1024, 20_000  # own ends drawn at a refresh, ends kept
_LEAST = 256  # effective draws that a pool must hold before it is used


class Pool:
    """Hold the latest own ends with their weights."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.z: Tensor | None = None
        self.log_w: Tensor | None = None

    def renew(
        self, ends: Tensor, net: Control, share: float, generator: torch.Generator
    ) -> Tensor:
        """Draw own ends, and return `ends` with a share of them resampled from the pool.

        Weights are truncated at sqrt(n) times their mean (Ionides, 2008).
        """
        z, log_w = own_ends(self.problem, net, 2 * OWN, generator)
        if self.z is not None and self.log_w is not None:
            z = torch.cat([self.z, z])[-KEPT:]
            log_w = torch.cat([self.log_w, log_w])[-KEPT:]
        self.z, self.log_w = z, log_w
        mean = float(log_w.logsumexp(0)) - math.log(len(log_w))
        held = log_w.clamp(max=mean + math.log(len(log_w)) / 2)
        if len(z) < 4 * OWN or float(Weights(held).ess) * len(z) < _LEAST:
            return ends
        n = round(share * len(ends))
        fresh = z[resample(held, n, generator=generator)]
        keep = torch.randperm(len(ends), generator=generator)[: len(ends) - n]
        return torch.cat([ends[keep], fresh])

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name."""
        if self.z is None or self.log_w is None:
            return {}
        return {"pool": self.z, "pool_log_w": self.log_w}

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state of `tensors`."""
        self.z, self.log_w = tensors.get("pool"), tensors.get("pool_log_w")


@torch.no_grad()
def own_ends(
    problem: Problem, net: Control, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return ends and log-weights of n walks, those of no weight left out."""
    dtype = net.last.weight.dtype
    z, log_w, _ = problem.walk(NetDrift(problem, net), n, dtype=dtype, generator=generator)
    used = torch.isfinite(log_w)
    return z[used], log_w[used]


def search(problem: Problem, ends: Tensor, moves: int, generator: torch.Generator) -> Tensor:
    """Move samples by HMC that leaves the target invariant: fresh neighbours of old ends."""

    def density(x: Tensor) -> tuple[Tensor, Tensor]:
        return problem.log_prob(x), problem.score(x)

    chains, tuner = Chains(ends, *density(ends)), Tuner(0.3)
    width = ends.std(0)
    for _ in range(moves):
        chains, took = move(density, chains, tuner.eps, width=width, generator=generator)
        tuner.learn(took)
    return chains.x
