r"""PIS with resampling: paths that lead nowhere are dropped on the way, and weights stay unbiased.

Between step k and the end a path is worth phi_k(x) = E[(mu / mu_0)(x_N) | x_k = x]. Resampling at step k
by estimates $\hat\phi_k$ multiplies the weight by $\hat\phi_k / \hat\phi_j$ since the last time j and takes
the rest back at the end, so E w = Z whatever the estimates. They are $(\mu/\mu_0)^{\beta_k}$ at the point
itself with $\beta_k = 1 - c_k / c_0$ cubed: nothing at the start, exact at the end. Final HMC moves leave
the target invariant and change no weight.

Paper: Particle Denoising Diffusion Sampler, arXiv:2402.06320, and Sequential Controlled Langevin
Diffusions, arXiv:2412.07081, for resampling along learned samplers; the potential here is ours.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift.control.buffer import search
from redrift.control.objective import NetDrift
from redrift.control.problem import Drift as _Drift
from redrift.control.problem import Problem
from redrift.measure import Weights, resample
from redrift.rollout import rollout
from redrift.targets.base import push

if TYPE_CHECKING:
    from redrift.control.pis import PIS


@torch.no_grad()
def steered(
    pis: PIS,
    n: int,
    *,
    below: float = 0.5,
    moves: int = 0,
    blocks: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Weights]:
    """Draw n dependent samples of a fitted sampler with resampling along the path.

    Args:
        pis: fitted.
        n: paths, all at once.
        below: resample where the effective sample size falls below this share; 0 never does.
        moves: of HMC on the ends.
        blocks: places along the path where it may resample.
        generator: one, or None.

    Returns:
        (n, dim) and Weights; exp(log_z) is unbiased, but samples share ancestors, so the standard
        error of one run is not that of independent paths: repeat runs.

    Cost:
        That of `PIS.sample`, and `moves` * 5 gradients.

    Example:
        >>> from redrift.control import PIS
        >>> from redrift.targets import grid9
        >>> x, w = steered(PIS(grid9(), steps=20), 64, generator=torch.Generator().manual_seed(0))
    """
    n = whole("n", n, least=2)
    if not 0 <= below <= 1:
        raise ValueError(f"below must be in [0, 1], got {below}.")
    problem, dtype = pis.problem, pis.net.last.weight.dtype
    drift = NetDrift(problem, pis.net)
    z, log_w = resampled_walk(
        problem, drift, n, below=below, blocks=blocks, dtype=dtype, generator=generator
    )
    if moves:
        g = torch.Generator().manual_seed(0) if generator is None else generator
        z = search(problem, z, moves, g)
    return push(pis.loc, pis.scale, z), Weights(log_w)


def resampled_walk(
    problem: Problem,
    drift: _Drift,
    n: int,
    *,
    below: float = 0.5,
    blocks: int = 10,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Walk n paths with resampling: ends (n, dim) and log-weights (n,)."""
    chain = problem.reference
    q, p = problem.kernels(drift)
    x = problem.start(n, dtype=dtype, generator=generator)
    log_w, taken = torch.zeros(n, dtype=dtype), torch.zeros(n, dtype=dtype)
    marks = [chain.steps * i // blocks for i in range(blocks + 1)]
    for a, b in itertools.pairwise(marks):
        run = rollout(q[a:b], p[a:b], x, log_weight=log_w, generator=generator)
        x, log_w = run.x, run.log_weight
        beta = (1 - float(chain.c[b] / chain.c[0])) ** 3
        worth = beta * problem.log_ratio(x) if b < chain.steps else problem.log_ratio(x)
        log_w, taken = log_w + worth - taken, worth
        if b < chain.steps and float(Weights(log_w).ess) < below:
            pick = resample(log_w, n, generator=generator)
            mean = log_w.logsumexp(0) - math.log(n)
            x, taken, log_w = x[pick], taken[pick], mean.expand(n).clone()
    return x, log_w
