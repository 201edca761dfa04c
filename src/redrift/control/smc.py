r"""PIS with sequential Monte Carlo: paths that lead nowhere are dropped on the way, unbiased weights stay.

From step k on a path is worth $\phi_k(x) = E[(mu / mu_0)(x_N) dP/dQ | x_k = x]$. Resampling by a potential
$\hat\phi_k$ multiplies weights by $\hat\phi_k / \hat\phi_j$ since the last time j and takes the rest back at
the end, so E w = Z whatever the potentials. They are fitted on pilot paths of their own: least squares of
what log w still gained after step k on a few functions of x_k. Where the fit leaves more than it
explains, resampling would choose badly and is left out. HMC moves at the end leave the target
invariant and change no weight.

Paper: Particle Denoising Diffusion Sampler, arXiv:2402.06320, and Sequential Controlled Langevin
Diffusions, arXiv:2412.07081, for resampling along learned samplers; the potential here is ours.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from redrift._core.errors import whole
from redrift.control.buffer import hmc_moves
from redrift.control.objective import NetDrift
from redrift.control.pis import PIS
from redrift.control.problem import ControlProblem, Drift
from redrift.measure import Weights, adaptive_resample
from redrift.measure.resampling import check_ess_threshold
from redrift.rollout import rollout
from redrift.targets.base import affine

_LEFT, _LARGEST = 0.5, 1e4  # share of the variance that a potential may leave; its largest value


@torch.no_grad()
def sample_smc(
    pis: PIS,
    n: int,
    *,
    ess_threshold: float = 0.5,
    moves: int = 0,
    blocks: int = 20,
    pilot: int = 1000,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Weights]:
    """Draw n dependent samples of a fitted sampler with resampling along the path.

    Args:
        pis: fitted.
        n: paths, all at once.
        ess_threshold: resample where the effective sample size falls below this share of the paths, in
            [0, 1]; 0 never does, 1 always.
        moves: of HMC on the final states.
        blocks: places along the path where it may resample.
        pilot: paths that the potentials are fitted on.
        generator: one, or None.

    Returns:
        (n, dim) and Weights; exp(log_z) is unbiased, but samples share ancestors, so the standard
        error of one run is not that of independent paths: repeat runs.

    Cost:
        That of `PIS.sample` for n + pilot samples, and `moves` * 5 gradients each.

    Example:
        >>> from redrift.control import PIS
        >>> from redrift.targets import grid9
        >>> x, w = sample_smc(PIS(grid9(), steps=20), 64, generator=torch.Generator().manual_seed(0))
    """
    n = whole("n", n, least=2)
    check_ess_threshold(ess_threshold)
    problem, dtype = pis.problem, pis.net.last.weight.dtype
    drift = NetDrift(problem, pis.net)
    potentials: Potentials = {}
    if ess_threshold > 0:
        potentials = fit_potentials(
            problem, drift, pilot, blocks, dtype=dtype, generator=generator
        )
    z, log_w = simulate_resampled(
        problem,
        drift,
        n,
        potentials,
        ess_threshold=ess_threshold,
        dtype=dtype,
        generator=generator,
    )
    if moves:
        g = torch.Generator().manual_seed(0) if generator is None else generator
        z = hmc_moves(problem, z, moves, g)
    return affine(pis.loc, pis.scale, z), Weights(log_w)


Potentials = dict[int, Tensor]  # step -> coefficients of the potential


def fit_potentials(
    problem: ControlProblem,
    drift: Drift,
    n: int,
    blocks: int,
    *,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Potentials:
    """Fit a potential at each of the steps where one predicts the weight that is still to come."""
    steps = problem.reference.steps
    marks = sorted({steps * i // blocks for i in range(1, blocks)} - {0})
    q, p = problem.kernels(drift)
    x = problem.start(n, dtype=dtype, generator=generator)
    gained, seen, last = torch.zeros(n, dtype=dtype), [], 0
    for k in [*marks, steps]:
        run = rollout(q[last:k], p[last:k], x, log_weight=gained, generator=generator)
        x, gained, last = run.x, run.log_weight, k
        seen.append((k, features(problem, x), gained.double()))
    total = gained.double() + problem.log_density_ratio(x).double()
    usable = torch.isfinite(total)
    whole_variance = total[usable].var()
    found: Potentials = {}
    for k, rows, sofar in seen[:-1]:
        ok = usable & torch.isfinite(rows).all(1)
        if int(ok.sum()) < 10 * rows.shape[1]:
            continue
        left = (total - sofar)[ok]
        fit = torch.linalg.lstsq(rows[ok], left[:, None]).solution[:, 0]
        if (left - rows[ok] @ fit).var() < _LEFT * whole_variance:
            found[k] = fit
    return found


def features(problem: ControlProblem, x: Tensor) -> Tensor:
    """Return the functions of the state that potentials are made of (B, 4), float64."""
    ratio, size = problem.log_density_ratio(x).double(), x.double().square().sum(-1)
    return torch.stack([torch.ones_like(size), ratio, size, (1 + size).log()], 1)


def simulate_resampled(
    problem: ControlProblem,
    drift: Drift,
    n: int,
    potentials: Potentials,
    *,
    ess_threshold: float = 0.5,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Simulate n paths, resampled at the steps of `potentials`: states (n, dim), log-weights (n,).

    The potentials must not have been fitted on these paths.
    """
    steps = problem.reference.steps
    q, p = problem.kernels(drift)
    x = problem.start(n, dtype=dtype, generator=generator)
    log_w, applied = torch.zeros(n, dtype=dtype), torch.zeros(n, dtype=dtype)
    for a, b in itertools.pairwise([0, *sorted(potentials), steps]):
        run = rollout(q[a:b], p[a:b], x, log_weight=log_w, generator=generator)
        x, log_w = run.x, run.log_weight
        if b == steps:
            return x, log_w + problem.log_density_ratio(x) - applied
        # a potential beyond any weight would only repeat what the next one says
        value = (features(problem, x) @ potentials[b]).nan_to_num(-_LARGEST, _LARGEST, -_LARGEST)
        value = value.clamp(-_LARGEST, _LARGEST).to(dtype)
        log_w, applied = log_w + value - applied, value
        done = adaptive_resample(log_w, ess_threshold, generator=generator)
        log_w = done.log_w
        if done.ancestors is not None:
            x, applied = x[done.ancestors], applied[done.ancestors]
    raise AssertionError
