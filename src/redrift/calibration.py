r"""Plans fitted to a user's own model by gradient, and judged on trajectories that took no part.

Papers: LD3, arXiv:2405.15506, and S4S, arXiv:2502.17423, show that fitted grids pay.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from redrift._core.errors import whole
from redrift._core.linalg import apply
from redrift._core.rng import Generators, normal
from redrift.denoise import Denoiser
from redrift.fitting import distances, follow
from redrift.process import ScalarProcess
from redrift.process.grids import vp_time
from redrift.solvers import Plan, plan_for
from redrift.solvers.ends import CleanEnd
from redrift.solvers.first import FirstEvaluation
from redrift.solvers.fractions import grid_of_fractions
from redrift.solvers.free import FreeCoefficients
from redrift.solvers.layers import changed, layer, without
from redrift.solvers.unic import UniC

_TAIL = 0.1


@dataclass(frozen=True)
class Errors:
    """Distances of a plan's samples to the exact flow's, from the same noise.

    Attributes:
        median: of the root mean square distance over coordinates, in units of the data.
        p90: its 90th percentile.
        mean: its mean.
        flips: share of trajectories that end elsewhere: a fifth of the data's standard deviation away
            or more, in another mode as a rule.
    """

    median: float
    p90: float
    mean: float
    flips: float


@dataclass(frozen=True)
class Calibration:
    """A plan fitted to a model, and how it compares on trajectories that took no part in the fit.

    Attributes:
        plan: the fitted plan, or the given one where the fit gained nothing on the held-out set.
        before: errors of the given plan on held-out trajectories.
        after: errors of `plan` on the same.
        held_out: how many those are.
        iterations: of the fits, until the validation set stopped improving.
        evaluations: network evaluations spent on each trajectory of the fit, the reference included.
        history: (iteration, validation loss) pairs of the fit that was kept.
    """

    plan: Plan
    before: Errors
    after: Errors
    held_out: int
    iterations: int
    evaluations: int
    history: tuple[tuple[int, float], ...] = dataclasses.field(repr=False)

    @property
    def gained(self) -> bool:
        """Return whether the fitted plan is better on the held-out trajectories."""
        return self.after != self.before


_CHECK, _PATIENCE = 5, 8  # iterations between looks at the validation set; looks without a gain
_TRIAL = 5  # one in so many iterations goes into each of two fits before one is chosen
_FLIP = 0.2
_ALLOWED = 0.01  # more trajectories that end elsewhere, at most: one in a hundred


def calibrate(
    model: Denoiser,
    plan: Plan,
    *,
    shape: Sequence[int],
    samples: int = 128,
    budget: int | None = None,
    cond: Mapping[str, Any] | None = None,
    coefficients: bool = False,
    tail: float = 0.5,
    rate: float = 0.05,
    reference: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    dtype: torch.dtype = torch.float32,
    generator: Generators = None,
) -> Calibration:
    """Fit a plan's time grid to one model by gradient, and judge it on held-out trajectories.

    Half of the trajectories are fitted, a quarter decides when to stop, and a quarter gives the
    reported errors. A plan that asks ahead of its start (as `best_plan` may at 5 to 7 evaluations) is
    also fitted asking at its start, and one whose corrector stops at a noise level (as at 17 to 49) also
    corrected everywhere; the better on validation after a fifth of the iterations goes on.
    Where the fitted plan is not better there (in the product of median and 90th
    percentile, with at most one in a hundred more that end elsewhere), the given one is returned.

    Args:
        model: the denoiser whose flow is to be followed; its parameters do not change.
        plan: deterministic; its ends and its evaluations stay.
        shape: of one sample's data.
        samples: trajectories in all, at least 8.
        budget: most evaluations spent on each trajectory of the fit, the reference included; None
            spends 100 runs of the plan.
        cond: conditions of the network; tensors have a leading axis of `samples`.
        coefficients: also fit one free coefficient per multistep row, which keeps all of its order
            conditions but the last, see `solvers.free`.
        tail: weight of the worst tenth in the loss, 0 to 1.
        rate: first learning rate of Adam.
        reference: evaluations of the reference; None takes twenty times the plan's, at least 100.
        batch_size: trajectories per gradient, drawn anew each time; None takes all.
        progress: show a bar with the validation loss.
        dtype: of the state.
        generator: of the noise and the batches, or None.

    Raises:
        ValueError: for a stochastic plan, one of another process, fewer than 8 samples, or a budget
            below the reference and one run.

    Paper: LD3, arXiv:2405.15506 (grids); S4S, arXiv:2502.17423 (coefficients).

    Cost: `budget` evaluations per trajectory, as many backward passes, and the memory of a run with
    its graph for `batch_size` trajectories.
    """
    _check_plan(model, plan)
    whole("samples", samples, least=8)
    fine = reference if reference is not None else max(20 * plan.evaluations, 100)
    spend = 100 * plan.evaluations + fine if budget is None else whole("budget", budget)
    iterations = (spend - fine) // plan.evaluations
    if iterations < 1:
        raise ValueError(
            f"budget={spend} is below the reference's {fine} evaluations and one run of "
            f"{plan.evaluations}: raise it, or lower reference."
        )
    single = None if isinstance(generator, Sequence) else generator
    process = plan.process
    blocks = (process.k,) if process.k > 1 else ()
    noise = normal((samples, *blocks, *shape), generator, dtype=dtype, device=model.device)
    first = apply(process.root(plan.times[0].detach()), noise, process.modes)
    cuts = (0, samples // 2, samples - samples // 4, samples)
    with torch.no_grad():
        last = _exact(model, plan, first, cond, fine)
    parts = [
        _Part(model, first[a:b], last[a:b], _select(cond, samples, a, b))
        for a, b in itertools.pairwise(cuts)
    ]
    starts = _variants(plan)
    trial = iterations // _TRIAL * (len(starts) > 1)
    length = iterations - trial * (len(starts) - 1)
    goal = _Goal(parts[0], parts[1], tail, _FLIP * float(last.std()), batch_size, single)
    fits = [_Fit(start, coefficients, rate, length, goal) for start in starts]
    with tqdm(total=iterations, disable=not progress, unit="iteration") as bar:
        for fit in fits:
            fit.advance(trial, bar)
        fit = min(fits, key=lambda fit: fit.lowest)
        fit.advance(length - trial, bar)
    best = fit.best
    before, after = (_errors(parts[2].error(p), goal.flip) for p in (plan, best))
    if (
        after.flips > before.flips + _ALLOWED
        or after.median * after.p90 >= before.median * before.p90
    ):
        best, after = plan, before
    done = sum(fit.done for fit in fits)
    spent = fine + done * plan.evaluations
    return Calibration(best, before, after, samples // 4, done, spent, tuple(fit.history))


def _check_plan(model: Denoiser, plan: Plan) -> None:
    if plan.stochastic or plan.rule is None:
        raise ValueError(
            "calibrate needs a deterministic plan made by a rule, such as rd.best_plan's."
        )
    if not model.process.agrees(plan.process):
        raise ValueError(
            f"the model's process is {model.process} and the plan's is {plan.process}; build the "
            "plan with model.process."
        )


def _variants(plan: Plan) -> list[Plan]:
    """Return the plan, and the one that asks at its start and is corrected everywhere, if it differs."""
    corrector = layer(plan.rule, UniC)
    partly = corrector is not None and corrector.above > 0
    if not plan.skips_start and not partly:
        return [plan]
    rule = without(plan.rule, FirstEvaluation)
    return [plan, plan.rebuilt(rule=changed(rule, UniC, above=0.0) if partly else rule)]


def _select(cond: Mapping[str, Any] | None, samples: int, a: int, b: int) -> dict[str, Any]:
    """Return the conditions of samples a to b - 1."""
    out = dict(cond or {})
    for name, value in out.items():
        if isinstance(value, Tensor) and value.ndim and len(value) == samples:
            out[name] = value[a:b]
    return out


def _exact(
    model: Denoiser, plan: Plan, first: Tensor, cond: Mapping[str, Any] | None, evaluations: int
) -> Tensor:
    """Follow the flow finely between the plan's ends."""
    times = plan.times.detach()
    clean = isinstance(plan.rule, CleanEnd)
    fine = plan_for(
        plan.process, evaluations, solver="res", order=3, start=float(times[0]),
        stop=min(float(times[-2]), plan.process.interval[1]) if clean else float(times[-1]),
        end="denoise" if clean else "min",
    )  # fmt: skip
    with model.begin(**(cond or {})) as run:
        return follow(run, fine, first)


@dataclass(frozen=True)
class _Part:
    """Some of the trajectories, with their conditions."""

    model: Denoiser
    first: Tensor
    last: Tensor
    cond: dict[str, Any]

    def error(self, plan: Plan) -> Tensor:
        """Return each trajectory's distance, without gradients."""
        with torch.no_grad():
            return self.differentiable_error(plan, None)

    def differentiable_error(self, plan: Plan, index: Tensor | None) -> Tensor:
        """Return the distances of all trajectories, or of some, with gradients."""
        with self.model.begin(**self.cond) as run:
            first, last = self.first, self.last
            if index is not None:
                run.take(index)
                first, last = first[index], last[index]
            return distances(follow(run, plan, first), last)


def _errors(error: Tensor, flip: float) -> Errors:
    flips = float((error > flip).double().mean())
    return Errors(float(error.median()), float(error.quantile(0.9)), float(error.mean()), flips)


def _robust_loss(error: Tensor, tail: float) -> Tensor:
    """Return the mean log error mixed with that of the worst tenth.

    Unlike in `loss_of` the worst tenth enters by its logs too: among a user's few trajectories one
    that changes its mode would otherwise be all that counts.
    """
    log = error.clamp_min(1e-12).log()
    worst = log.topk(max(1, round(_TAIL * len(log)))).values.mean()
    return (1 - tail) * log.mean() + tail * worst


@dataclass(frozen=True)
class _Goal:
    """What a fit is to lower, and on what it is judged.

    Attributes:
        train: the trajectories that are fitted.
        check: those that decide when to stop.
        tail: weight of the worst tenth.
        flip: distance from which a trajectory counts as ended elsewhere.
        batch: trajectories per gradient, or None for all.
        generator: of the batches.
    """

    train: _Part
    check: _Part
    tail: float
    flip: float
    batch: int | None
    generator: torch.Generator | None

    def loss(self, plan: Plan) -> Tensor:
        """Return the loss on a batch of what is fitted, with gradients."""
        index = _batch(len(self.train.first), self.batch, self.generator)
        return _robust_loss(self.train.differentiable_error(plan, index), self.tail)

    def score(self, plan: Plan) -> float:
        """Return the validation loss, and for every hundredth that ends elsewhere a tenth more."""
        error = self.check.error(plan)
        ends_elsewhere = float((error > self.flip).double().mean())
        return float(_robust_loss(error, self.tail)) + 10 * ends_elsewhere


class _Fit:
    """The free parameters of a plan, and the best plan found so far."""

    def __init__(
        self, plan: Plan, coefficients: bool, rate: float, iterations: int, goal: _Goal
    ) -> None:
        self.plan, self.goal = plan, goal
        self.name = f"calibrated on {goal.train.model.card.get('name', 'a model')}"
        times = plan.times.detach()
        self.clean = times[-1:] if isinstance(plan.rule, CleanEnd) else times[:0]
        moved = times[: len(times) - len(self.clean)]
        self.ends = (float(moved[0]), float(moved[-1]))
        scalar = isinstance(plan.process, ScalarProcess)
        place = (vp_time(plan.process.clock(moved)) if scalar else moved).sqrt()
        self.free = [(place[:-1] - place[1:]).log().requires_grad_()]
        if coefficients:
            self.free.append(torch.zeros(len(moved) - 1, dtype=times.dtype, requires_grad=True))
        self.optimiser = torch.optim.Adam(self.free, lr=rate, betas=(0.9, 0.95))
        self.decay = torch.optim.lr_scheduler.ExponentialLR(
            self.optimiser, 0.1 ** (1 / iterations)
        )
        self.best, self.lowest = plan, goal.score(plan)
        self.done, self.waited, self.history = 0, 0, [(0, self.lowest)]

    def made(self) -> Plan:
        """Return the plan of the current parameters, with gradients."""
        plan, fractions = self.plan, torch.softmax(self.free[0], 0)
        times = torch.cat((grid_of_fractions(plan.process, fractions, self.ends), self.clean))
        return plan.rebuilt(times, self._rule(self.free[1] if len(self.free) > 1 else None))

    def _rule(self, coefficients: Any) -> Any:  # noqa: ANN401
        rule: Any = self.plan.rule
        if coefficients is None:
            return rule
        if isinstance(rule, CleanEnd):
            inner = FreeCoefficients(rule.rule, coefficients)
            return dataclasses.replace(rule, rule=inner)
        return FreeCoefficients(rule, coefficients)

    def frozen(self) -> Plan:
        """Return the plan of the current parameters as plain data."""
        with torch.no_grad():
            times = self.made().times
            found = tuple(self.free[1].tolist()) if len(self.free) > 1 else None
        plan = self.plan.rebuilt(times, self._rule(found))
        return plan.named(f"{plan.name}, {self.name}", plan.papers)

    def advance(self, count: int, bar: Any) -> None:  # noqa: ANN401
        """Fit for so many iterations more, or until the validation set stops improving."""
        last = self.done + count
        while self.done < last and self.waited < _PATIENCE:
            grads = torch.autograd.grad(self.goal.loss(self.made()), self.free)
            for value, grad in zip(self.free, grads, strict=True):
                value.grad = grad if math.isfinite(float(grad.sum())) else torch.zeros_like(grad)
            torch.nn.utils.clip_grad_norm_(self.free, 1.0)
            self.optimiser.step()
            self.decay.step()
            self.done += 1
            bar.update()
            if self.done % _CHECK == 0 or self.done == last:
                self._look(bar)

    def _look(self, bar: Any) -> None:  # noqa: ANN401
        """Keep the current plan if it is the best on the validation set so far."""
        found = self.frozen()
        value = self.goal.score(found)
        self.history.append((self.done, value))
        bar.set_postfix(loss=f"{value:.3f}")
        self.waited += 1
        if value < self.lowest:
            self.best, self.lowest, self.waited = found, value, 0


def _batch(count: int, size: int | None, generator: torch.Generator | None) -> Tensor | None:
    """Return the indices of a batch, or None for all."""
    if size is None or size >= count:
        return None
    return torch.randperm(count, generator=generator)[:size]
