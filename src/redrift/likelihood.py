r"""The probability-flow ODE run upwards: latents of data, and exact densities.

In a reading (N, M) the flow reads $y = N^{-1} z$, $dy = d[N^{-1}M]\, e(N y)$: it has no linear part, so

$$\log p(z_{t_0}) = \log p(z_T) + \log\Big|\frac{\det N_T}{\det N_{t_0}}\Big|
   + \int_{t_0}^T \operatorname{tr}\Big(N \frac{d[N^{-1}M]}{dw} \frac{\partial e}{\partial z}\Big)\,dw.$$

The state takes two-stage exponential steps; the integral is the midpoint rule on their second stage, so
only one trace is needed per step. In log-SNR both are of order 2 with a small constant.

Papers: Song et al., arXiv:2011.13456 (the density along the flow); RES, arXiv:2308.02157 (the step).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from redrift._core.errors import NumericalError, choose, whole
from redrift._core.linalg import apply, combine, inverse, product
from redrift._core.rng import Generators, normal
from redrift.denoise import Denoiser
from redrift.process import Level, Process, ScalarProcess, timegrid
from redrift.solvers import Plan, walk
from redrift.solvers.exprk import RungeKutta
from redrift.solvers.loop import answered, stages, terms
from redrift.solvers.row import Row, Rows

_CHUNK = 64  # coordinates whose derivatives are taken at once by the exact trace


_QUANTUM = 2.0**-32  # states are whole multiples of it while they are carried exactly
_LARGEST = 2.0**20


class Latent(NamedTuple):
    """A latent that decodes exactly.

    Attributes:
        z: state at the last time of the way up, float64.
        before: state at the time before.
        dtype: of the data, in which the network is given its states.
    """

    z: Tensor
    before: Tensor
    dtype: torch.dtype


@torch.no_grad()
def encode(
    model: Denoiser, x: Tensor, plan: Plan, *, cond: Mapping[str, Any] | None = None
) -> Tensor:
    """Carry data up the flow: the plan's own rule on its times in reverse.

    Args:
        model: a denoiser of the plan's process.
        x: data at plan.times[-1], (B, *shape), or (B, k, *shape) for k > 1.
        plan: deterministic, with noise at its last time (`end="min"`).
        cond: conditions of the network.

    Returns:
        the state at plan.times[0], to give to `sample(..., x=)`. The round trip is as exact as the
        plan is accurate; see `encode_exactly` for one that is exact for any plan length.

    Raises:
        ValueError: if the plan is stochastic, ends without noise, or is of another process.

    Cost: as the plan's.
    """
    times = _upward(model, plan)
    assert plan.rule is not None
    rows = Rows(plan.rule, plan.process, times, plan.history)
    process = plan.process
    steps = walk(rows, process.to(x), modes=process.modes, history=plan.history)
    with model.begin(**(cond or {})) as run:
        return process.back(answered(steps, lambda z, level: run.ask(z, level, plan.wants)))


@torch.no_grad()
def encode_exactly(
    model: Denoiser, x: Tensor, plan: Plan, *, cond: Mapping[str, Any] | None = None
) -> Latent:
    r"""Carry data up the flow by a scheme that is undone to the bit.

    The leapfrog $y_{i+1} = y_{i-1} + (S_{i+1} - S_{i-1})\,e(y_i)$ in the plan's reading, $z = N y$, is its
    own inverse. States are rounded to multiples of 2^-32, which sums keep exactly, so `decode_exactly`
    returns x to 1e-9 whatever the network, its dtype and the number of steps, as long as the network
    answers the same question alike (the same batch on the same device). It is less accurate than the
    plan, of which only the times and the reading are used.

    Args:
        model: a denoiser of the plan's process; its network is given states of x's dtype.
        x: data at plan.times[-1].
        plan: at least two steps.
        cond: conditions of the network.

    Raises:
        ValueError: as for `encode`.
        NumericalError: if a state leaves the range in which sums are exact, 1e6 in units of the reading;
            use fewer steps, or a plan in another reading (wants="v").

    Cost: 1 evaluation per step.
    """
    leaps = _Leaps(model, plan, x.dtype)
    with model.begin(**(cond or {})) as run:
        before = leaps.reduced(plan.process.to(x), 0)
        now = before + leaps.leap(run, before, 0, 0, 1)
        for i in range(1, leaps.last):
            before, now = now, before + leaps.leap(run, now, i, i - 1, i + 1)
    last = leaps.last
    return Latent(leaps.state(now, last), leaps.state(before, last - 1), x.dtype)


@torch.no_grad()
def decode_exactly(
    model: Denoiser, latent: Latent, plan: Plan, *, cond: Mapping[str, Any] | None = None
) -> Tensor:
    """Undo `encode_exactly`: the same leaps downwards.

    Args:
        model: as given to `encode_exactly`.
        latent: its result.
        plan: as given to it.
        cond: likewise.

    Returns:
        the data at plan.times[-1].
    """
    leaps = _Leaps(model, plan, latent.dtype)
    process = plan.process
    now = leaps.reduced(process.to(latent.z), leaps.last)
    before = leaps.reduced(process.to(latent.before), leaps.last - 1)
    with model.begin(**(cond or {})) as run:
        for i in range(leaps.last - 1, 0, -1):
            now, before = before, now - leaps.leap(run, before, i, i - 1, i + 1)
    return leaps.state(before, 0).to(latent.dtype)


class _Leaps:
    """Leaps between the levels of a plan, upwards, in its reading and on a lattice."""

    def __init__(self, model: Denoiser, plan: Plan, dtype: torch.dtype) -> None:
        self.times, self.dtype, self.wants = _upward(model, plan), dtype, plan.wants
        self.process = process = plan.process
        self.levels = [process.level(t) for t in self.times]
        readings = [process.reading(level, plan.wants) for level in self.levels]
        self.scales = [N for N, _ in readings]
        self.sums = [product(inverse(N), M) for N, M in readings]
        self.last = len(self.levels) - 1

    def reduced(self, z: Tensor, i: int) -> Tensor:
        """Return y = N^-1 z at level i, on the lattice."""
        return self._rounded(apply(inverse(self.scales[i]), z.double(), self.process.modes), i)

    def state(self, y: Tensor, i: int) -> Tensor:
        """Return the state in the network's basis."""
        return self.process.back(apply(self.scales[i], y, self.process.modes))

    def leap(self, run: Denoiser, y: Tensor, i: int, low: int, high: int) -> Tensor:
        """Return what the prediction at level i adds between two levels, on the lattice."""
        z = apply(self.scales[i], y, self.process.modes).to(self.dtype)
        e = run.ask(z, self.levels[i], self.wants).double()
        return self._rounded(apply(self.sums[high] - self.sums[low], e, self.process.modes), high)

    def _rounded(self, y: Tensor, i: int) -> Tensor:
        if not bool(y.abs().max() < _LARGEST):
            raise NumericalError(
                f"a state of {float(y.abs().max()):.1e} is out of the range in which sums are exact; use "
                "fewer steps, or a plan in another reading, such as wants='v'.",
                step=i,
                time=float(self.times[i]),
            )
        return (y / _QUANTUM).round() * _QUANTUM


def _upward(model: Denoiser, plan: Plan) -> Tensor:
    if not model.process.agrees(plan.process):
        raise ValueError(f"the model's process is {model.process}, the plan's {plan.process}.")
    if plan.stochastic or plan.rule is None:
        raise ValueError(
            f"{plan.name} cannot be run upwards: use a deterministic plan with a rule."
        )
    if not bool(plan.process.clock(plan.times[-1]).isfinite()):
        raise ValueError(
            "the plan ends without noise, where the flow has no start; use end='min'."
        )
    return plan.times.flip(0)


@torch.no_grad()
def log_prob(
    model: Denoiser,
    x: Tensor,
    *,
    evaluations: int = 128,
    trace: Literal["exact", "hutchinson"] = "exact",
    probes: int = 1,
    start: float | None = None,
    stop: float | None = None,
    cond: Mapping[str, Any] | None = None,
    generator: Generators = None,
) -> Tensor:
    """Return the log density of data under the model's flow, in nats.

    Args:
        model: a denoiser; its network must be differentiable.
        x: data, (B, *shape), taken as the state at time `stop`; (B, k, *shape) for k > 1, whose
            density is that of the joint state.
        evaluations: budget, >= 2, even; two per step.
        trace: "exact", or "hutchinson" for an unbiased estimate (of the trace, with random signs).
        probes: number of random probes of the estimate.
        start: largest time, where the state is taken as Gaussian; None is the process's default.
        stop: level of the data; None is the process's default.
        cond: conditions of the network.
        generator: of the probes.

    Returns:
        (B,) log density of the state at `stop`.

    Raises:
        ValueError: if x does not have the model's shape, or an argument is out of range.

    Cost: `evaluations` calls, and one backward pass per step and coordinate (exact) or probe.
    """
    process = model.process
    _check_shape(model, x)
    choose("trace", trace, ("exact", "hutchinson"))
    whole("probes", probes)
    steps = whole("evaluations", evaluations, least=2) // 2
    spacing = "logsnr" if isinstance(process, ScalarProcess) else None
    times = timegrid(process, steps, spacing, start=start, stop=stop).flip(0)
    rule, z = RungeKutta(2), process.to(x)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    count = probes if trace == "hutchinson" else 0
    with model.begin(**(cond or {})) as run:
        for t, next_t in itertools.pairwise(times):
            (row,) = rule(process, (), t, next_t, left=1)
            z, rate = _step(run, row, z, count, generator)
            total += rate * float(process.clock(next_t) - process.clock(t))
    first, last = process.level(times[0]), process.level(times[-1])
    scale = _log_det(process, last, z) - _log_det(process, first, z)
    return (total + scale + _log_prior(process, last, z)).to(x.dtype)


def _step(
    model: Denoiser, row: Row, z: Tensor, probes: int, generator: Generators
) -> tuple[Tensor, Tensor]:
    """Take a two-stage step; return the new state and the trace at the second stage."""
    rates: list[Tensor] = []

    def predict(state: Tensor, level: Level) -> Tensor:
        if level is row.start:
            return model.ask(state, level, "x0")
        prediction, rate = _divergence(model, state, level, probes, generator)
        rates.append(rate)
        return prediction

    modes = model.process.modes
    own = answered(stages(row, z, modes=modes), predict)
    return combine(terms(row, -1, z, own), modes), rates[0]


def _divergence(
    model: Denoiser, z: Tensor, level: Level, probes: int, generator: Generators
) -> tuple[Tensor, Tensor]:
    """Return the prediction of x0 at z and tr(W de/dz) per sample; probes = 0 is exact."""
    process = model.process
    weight = process.increment("x0", level, level.t[None])[0]  # N d[N^-1 M]/dw
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        e = model.ask(z, level, "x0")
        if probes:
            signs = [normal(z.shape, generator, dtype=z.dtype, device=z.device).sign()
                     for _ in range(probes)]  # fmt: skip
            directions = torch.stack(signs)
        else:
            size = z[0].numel()
            eye = torch.eye(size, dtype=z.dtype, device=z.device)
            directions = eye.reshape(size, 1, *z.shape[1:]).expand(size, *z.shape)
        total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        turned = weight.mT if process.k > 1 else weight
        for part in directions.split(_CHUNK):
            pulled = torch.stack([apply(turned, u.contiguous(), process.modes) for u in part])
            (grad,) = torch.autograd.grad(e, z, pulled, is_grads_batched=True, retain_graph=True)
            total += (grad * part).double().flatten(2).sum((0, 2))
    return e.detach(), total / max(probes, 1)


def _log_det(process: Process, level: Level, z: Tensor) -> Tensor:
    """Return log |det N| of the whole state."""
    N, _ = process.reading(level, "x0")
    each = N[..., 0, 0].abs().log() if process.k == 1 else torch.linalg.slogdet(N)[1]
    copies = z[0].numel() // process.k // max(math.prod(process.modes), 1)
    return each.sum() * copies


def _log_prior(process: Process, level: Level, z: Tensor) -> Tensor:
    """Return the Gaussian log density of the state at the top, data of scale sigma_data assumed."""
    clean = process.sigma_data * level.signal[..., :, :1]
    cov = product(level.root, level.root.mT) + clean @ clean.mT
    factor = torch.linalg.cholesky(cov)
    white = apply(inverse(factor), z.double(), process.modes)
    each = factor.diagonal(dim1=-2, dim2=-1).log().sum()
    copies = z[0].numel() // process.k // max(math.prod(process.modes), 1)
    constant_part = z[0].numel() * math.log(2 * math.pi) / 2
    return -white.flatten(1).pow(2).sum(1) / 2 - each * copies - constant_part


def _check_shape(model: Denoiser, x: Tensor) -> None:
    """Refuse data of another shape than the model's."""
    process, shape = model.process, model.card.get("shape")
    data = tuple(x.shape[1 + (process.k > 1) :])
    if x.ndim < 2 + (process.k > 1) or (shape is not None and data != tuple(shape)):
        wanted = "(B, *data shape)" if shape is None else f"(B, {', '.join(map(str, shape))})"
        raise ValueError(f"x must be {wanted}, got {tuple(x.shape)}.")
    if process.modes and data[-len(process.modes) :] != process.modes:
        raise ValueError(f"x must end in {process.modes}, got {tuple(x.shape)}.")
