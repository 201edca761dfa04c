r"""Rollout: walk a chain under Q and accumulate log dP/dQ.

Forward, P and Q push the same map with different laws of the noise (a controlled, twisted or
learned drift against its reference), and after N steps

    log dP/dQ = log_weight + sum_i log p_i(xi_i | x_i) - log q_i(xi_i | x_i).

So E_Q[exp(log_weight + f(x_N))] = E_P[exp f(x_N)] for every control and every number of steps,
without discretisation bias; Girsanov's formula is the case of a shared covariance.

Reverse, Q still walks x to y, and P is a chain that runs backwards, its i-th kernel taking y to x:

    log dP/dQ = log_weight + sum_i log p_i(x_i | y_i) - log q_i(y_i | x_i),

densities of states now, by the change of variables that `pull` states. Adding the
log-density of P's start at x_N gives a log-weight whose exponential is unbiased for P's density
at x0, so its mean is the evidence lower bound.

Paper: Path Integral Sampler, arXiv:2111.15141 (forward); Diffusion Normalizing Flow,
arXiv:2110.07579 (reverse).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from redrift._core.errors import NumericalError
from redrift._core.rng import Generators, normal
from redrift.measure.kernel import GaussianKernel, Kernel
from redrift.measure.noise import log_det, log_ratio, realise, total, whiten


class Rollout(NamedTuple):
    """Hold the end of a rollout.

    Attributes:
        x: final states (B, *shape).
        log_weight: log dP/dQ of each path, the given start included, (B,).
        path: all states (N + 1, B, *shape), x0 first, if asked for.
    """

    x: Tensor
    log_weight: Tensor
    path: Tensor | None = None


def rollout(
    q: Sequence[Kernel],
    p: Sequence[Kernel],
    x0: Tensor,
    *,
    reverse: bool = False,
    log_weight: Tensor | None = None,
    antithetic: bool = False,
    path: bool = False,
    checkpoint: bool = False,
    generator: Generators = None,
) -> Rollout:
    """Walk x0 through the kernels q and weigh the paths by the kernels p.

    Differentiable in everything the kernels hold.

    Args:
        q: the kernels that are walked, one per step.
        p: the kernels that weigh, one per step. Forward: those of q with another law of the noise
            (`GaussianKernel.controlled`, `twisted`). With reverse=True: step i of p leads from
            q's state i + 1 back to its state i.
        x0: states (B, *shape).
        reverse: weigh by reversed kernels; q and p then need `pull`, so invertible scales.
        log_weight: log-weights (B,) to start from, such as log p(x0) - log q(x0); 0 by default.
        antithetic: give rows 2i and 2i + 1 opposite standard normal numbers; B must be even, and
            the rows of a pair should start from one state. Both are exact draws of Q; the two
            weights of a pair are dependent, so standard errors go by pairs.
        path: keep all states.
        checkpoint: keep no graph inside a step and evaluate it again on the way back; the kernels
            must not draw random numbers of their own.
        generator: one, one per sample (per pair if antithetic), or None.

    Returns:
        The final states, the log-weights, and the states in between if asked for.

    Raises:
        ValueError: if q and p differ in length or, forward, in the map they push; if x0 or
            log_weight have a wrong shape; from `pull`, if a state density does not exist.
        NumericalError: if a state or weight stops being finite, with the step.

    Cost:
        Forward: one push and one law of each q, one law of each p; reverse: a pull of both more.
        A forward p whose map is not visibly that of q is pushed too, to check it. Memory: one
        state, N + 1 with path=True. Differentiated: the graph of N steps, or with checkpoint=True N
        states, the graph of one step, and each law evaluated twice.
    """
    x, weight = _start(q, p, x0, log_weight)
    if antithetic and len(x) % 2:
        raise ValueError(f"antithetic pairs rows 2i and 2i + 1, but x0 has {len(x)} rows.")
    states = [x]
    for step, (kernel, other) in enumerate(zip(q, p, strict=True)):
        eta = _draw((len(x), *kernel.noise(x)), x, antithetic, generator)
        advance = _reversed if reverse else _forward
        if checkpoint and torch.is_grad_enabled():
            y, gain = recompute(advance, kernel, other, x, eta, use_reentrant=False)
        else:
            y, gain = advance(kernel, other, x, eta)
        weight = weight + gain
        _require_finite(y, gain, step)
        x = y
        if path:
            states.append(x)
    return Rollout(x, weight, torch.stack(states) if path else None)


def _forward(q: Kernel, p: Kernel, x: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    law = q.law(x)
    xi = realise(law, eta)
    y = q.push(x, xi)
    if p is q:
        return y, x.new_zeros(len(x))
    if not _same_map(q, p):
        _require_same(p.push(x, xi), y)
    return y, log_ratio(p.law(x), law, xi, eta)


def _reversed(q: Kernel, p: Kernel, x: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    law = q.law(x)
    xi = realise(law, eta)
    y = q.push(x, xi)
    _, q_volume = q.pull(x, y)
    back, p_volume = p.pull(y, x)
    white, p_spread = whiten(p.law(y), back)
    # Both noises are standard normal once whitened and equally many: constants cancel.
    exponents = (total(eta * eta) - total(white * white)) / 2
    return y, exponents - p_spread - p_volume + log_det(law, xi) + q_volume


def _same_map(q: Kernel, p: Kernel) -> bool:
    if not (isinstance(q, GaussianKernel) and isinstance(p, GaussianKernel)):
        return False
    return q.mean is p.mean and q.scale is p.scale


def _require_same(other: Tensor, y: Tensor) -> None:
    tolerance = 1e3 * torch.finfo(y.dtype).eps
    if other.shape != y.shape or not torch.allclose(other, y, rtol=tolerance, atol=tolerance):
        raise ValueError(
            "q and p push the same noise to different states, so their noise densities do not "
            "compare: state the change of drift as a law of the noise, q = p.controlled(...) or "
            "p.twisted(...), not as another mean. For kernels that run backwards pass "
            "reverse=True."
        )


def _draw(shape: tuple[int, ...], x: Tensor, antithetic: bool, generator: Generators) -> Tensor:
    if not antithetic:
        return normal(shape, generator, dtype=x.dtype, device=x.device)
    half = normal((shape[0] // 2, *shape[1:]), generator, dtype=x.dtype, device=x.device)
    return torch.stack([half, -half], dim=1).reshape(shape)


def _start(
    q: Sequence[Kernel], p: Sequence[Kernel], x0: Tensor, log_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    if len(q) != len(p):
        raise ValueError(f"q has {len(q)} kernels and p has {len(p)}: give one of each per step.")
    if x0.ndim == 0 or len(x0) == 0 or not x0.is_floating_point():
        raise ValueError(
            f"x0 has shape {tuple(x0.shape)} and dtype {x0.dtype}, expected floating-point states "
            "(B, *shape) with B >= 1."
        )
    x = x0.to(torch.promote_types(x0.dtype, torch.float32))
    if log_weight is None:
        return x, x.new_zeros(len(x))
    if log_weight.shape != (len(x),):
        raise ValueError(
            f"log_weight has shape {tuple(log_weight.shape)}, expected ({len(x)},): one per "
            "sample."
        )
    return x, log_weight


def _require_finite(y: Tensor, gain: Tensor, step: int) -> None:
    if bool(torch.isfinite(y.detach().sum() + gain.detach().sum())):
        return
    states = int((~torch.isfinite(y).reshape(len(y), -1).all(1)).sum())
    weights = int((gain.isnan() | (gain == math.inf)).sum())
    if states or weights:
        raise NumericalError(
            f"after step {step} (counted from 0) the state of {states} and the weight of "
            f"{weights} of {len(y)} samples are not finite: take smaller steps or bound the "
            "control.",
            step=step,
            time=math.nan,
        )
