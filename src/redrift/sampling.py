r"""Loop 1: walk a plan's rows with a model, and let a policy act on every step's law.

The loop owns four things and nothing else: the first noise, the generators, the policy's answers
and the check that the state stays finite. What is asked of the network, and when, is the plan's;
what it answers is the model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from redrift._core.errors import NumericalError, whole
from redrift._core.linalg import apply
from redrift._core.rng import Generators, normal, split
from redrift.denoise import Denoiser, Shared
from redrift.process import Process
from redrift.solvers import Ask, NextState, Plan, Row, Transition, walk
from redrift.solvers.adaptive import adapt, check_tolerance

Callback = Callable[[int, float, Tensor], None]


@runtime_checkable
class Policy(Protocol):
    """What is done with a stochastic step's law.

    Attributes:
        width: state rows per sample, sample-major; each begins with noise of its own.
        coupled: whether rows of different samples influence each other; such a run is never split.
    """

    width: int
    coupled: bool

    def begin(self) -> AbstractContextManager[Policy]:
        """Give a policy with fresh per-run state."""
        ...

    def __call__(
        self, law: Transition, model: Denoiser, wants: str, *, generator: Generators
    ) -> NextState:
        """Choose the next state.

        Args:
            law: the step's law.
            model: the begun model; asking it costs evaluations, and an index by `ancestors` is
                applied to it by the loop.
            wants: reading of the plan's predictions.
            generator: one, one per sample, or None.
        """
        ...

    def finish(self, x: Tensor) -> Tensor:
        """Reduce the final (samples * width) rows to one per sample."""
        ...


class Draw:
    """The default policy: draw from the law."""

    width = 1
    coupled = False

    @contextmanager
    def begin(self) -> Generator[Draw, None, None]:
        """Give itself: it has no state."""
        yield self

    def __call__(
        self, law: Transition, model: Denoiser, wants: str, *, generator: Generators
    ) -> NextState:
        """Draw the next state."""
        return NextState(draw(law, model.process, generator))

    def finish(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


def draw(law: Transition, process: Process, generator: Generators = None) -> Tensor:
    """Draw one state per row from a step's law."""
    noise = normal(law.mean.shape, generator, dtype=law.mean.dtype, device=law.mean.device)
    return law.mean + apply(law.scale, noise, process.modes)


@torch.no_grad()
def sample(
    model: Denoiser,
    plan: Plan,
    *,
    shape: Sequence[int] | None = None,
    x: Tensor | None = None,
    cond: Mapping[str, Any] | None = None,
    policy: Policy | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    batch_size: int | None = None,
    tol: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    return_state: bool = False,
    generator: Generators = None,
) -> Tensor:
    """Sample a model along a plan.

    Args:
        model: a denoiser of the plan's process.
        plan: the solver; see `deis`, `res`, `plan_for`.
        shape: (B, *data shape); the first state is then drawn from N(0, cov(times[0])). One of
            `shape` and `x` is needed.
        x: first state at plan.times[0] in the network's basis, (B, *shape), or (B, k, *shape) for
            k > 1.
        cond: conditions of the network. A tensor with a leading B is split and gathered with the
            samples; everything else is shared.
        policy: what to do with a stochastic step's law; None draws from it.
        progress: show a bar that counts evaluations.
        callback: called after every row as callback(index, time, state).
        batch_size: run at most that many samples at once.
        tol: choose the steps by an embedded error estimate, at most tol per step in units of the
            data; the plan, three-stage RES, then gives the ends and the first step only. The step
            is common to a batch, so samples then depend on who is beside them.
        dtype: of the state, float32 or wider; None is float32, or x's if wider.
        device: of the state; None is x's, or the model's.
        return_state: return the modal state where it has more than the data, as (B, k, *shape).
        generator: one, a list with one per sample (the sample is then the same whatever the batch
            split), or None for the global one.

    Returns:
        (B, *data shape) at level plan.times[-1].

    Raises:
        ValueError: if plan and model disagree on the process, the shape lacks a batch, or batch_size
            would split a policy that couples samples, or tol cannot be met.
        NumericalError: if the state stops being finite; it carries the step and the time.

    Cost: plan.evaluations network calls on the batch; order + 1 states of memory.

    Example:
        >>> from redrift.denoise import Gaussian
        >>> from redrift.process import VP, timegrid
        >>> from redrift.solvers import deis
        >>> model = Gaussian(torch.zeros(2), 1.0, VP())
        >>> sample(model, deis(VP(), timegrid(VP(), 10)), shape=(4, 2)).shape
        torch.Size([4, 2])
    """
    _check_types(model, plan, generator)
    if not model.process.agrees(plan.process):
        raise ValueError(
            f"the model's process is {model.process} and the plan's is {plan.process}; build the "
            "plan with model.process."
        )
    if getattr(policy, "needs_noise", False) and not plan.stochastic:
        raise ValueError(
            f"{type(policy).__name__} chooses among draws of a step's noise, and the plan {plan.name!r} "
            "has none, so it would do nothing; use rd.ddpm, rd.gddim(stochasticity=1.0) or "
            "rd.exponential_sde."
        )
    policy = Draw() if policy is None else policy
    z = _first(model, plan, shape, x, policy.width, dtype, device, generator)
    count = len(z) // policy.width
    if isinstance(generator, Sequence) and len(generator) != count:
        raise ValueError(
            f"generator is a list of {len(generator)}, expected one per sample, {count}."
        )
    size = count if batch_size is None else whole("batch_size", batch_size)
    if size < count and policy.coupled:
        raise ValueError(
            f"batch_size={size} would split {count} samples that the policy couples; leave it out."
        )
    if tol is not None:
        check_tolerance(plan, tol, z.dtype)
    parts = []
    known = progress and tol is None
    calls = math.ceil(count / size) * plan.evaluations if known else None
    with tqdm(total=calls, unit="evaluation") if progress else nullcontext() as bar:
        tick = (lambda: None) if bar is None else bar.update
        for first in range(0, count, size):
            rows = slice(first, min(first + size, count))
            part = {
                name: value[rows] if _splits(value, count) else _keep(value)
                for name, value in (cond or {}).items()
            }
            pick = split(generator, rows.start, rows.stop)
            block = z[rows.start * policy.width : rows.stop * policy.width]
            parts.append(_run(model, plan, block, part, policy, pick, callback, tick, tol))
    out = torch.cat(parts)
    return out if return_state and plan.process.k > 1 else plan.process.data(out)


def _check_types(model: Any, plan: Any, generator: Any) -> None:  # noqa: ANN401
    """Refuse what is easily taken for a denoiser, a plan or a generator.

    Raises:
        TypeError: naming what came and how to make what is expected.
    """
    if not isinstance(model, Denoiser):
        raise TypeError(
            f"model must be a Denoiser, got {type(model).__name__}: wrap a network as rd.Denoiser(net, "
            'process, predicts="eps"), which says its noise and its prediction.'
        )
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan must be a Plan, got {type(plan).__name__}: make one with rd.best_plan(model.process, 10)."
        )
    several = isinstance(generator, Sequence) and not isinstance(generator, (str, bytes))
    if any(
        not isinstance(g, torch.Generator)
        for g in (generator if several else [generator])
        if g is not None
    ):
        raise TypeError(
            f"generator must be a torch.Generator, a list of them or None, got {generator!r}: use "
            "torch.Generator().manual_seed(0)."
        )


def _splits(value: Any, batch: int) -> bool:  # noqa: ANN401
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch


def _keep(value: Any) -> Any:  # noqa: ANN401
    return Shared(value) if isinstance(value, Tensor) else value


def _first(
    model: Denoiser,
    plan: Plan,
    shape: Sequence[int] | None,
    x: Tensor | None,
    width: int,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    generator: Generators,
) -> Tensor:
    """Return the first modal state, `width` rows for each sample: own noise, or copies of x."""
    process = plan.process
    if (shape is None) == (x is None):
        raise ValueError("give one of shape= and x=.")
    if dtype is not None and (not dtype.is_floating_point or dtype.itemsize < 4):
        raise ValueError(
            f"dtype={dtype} is below float32; the network may be half, not the state."
        )
    size = tuple(shape) if x is None else tuple(x.shape)  # pyright: ignore[reportArgumentType]
    blocks = process.k > 1 and x is not None
    if len(size) < 2 + blocks or 0 in size:
        raise ValueError(f"expected (B, *data shape) with B >= 1 and a data axis, got {size}.")
    if blocks and size[1] != process.k:
        raise ValueError(f"x must be (B, {process.k}, *data shape), got {size}.")
    if process.modes and size[-len(process.modes) :] != process.modes:
        name = type(process).__name__
        raise ValueError(f"this {name} is for data ending in {process.modes}, got {size}.")
    if x is not None:
        least = torch.promote_types(x.dtype, torch.float32) if dtype is None else dtype
        z = process.to(x.to(device=device, dtype=least))
        return z if width == 1 else z.repeat_interleave(width, 0)
    if process.k > 1:
        size = (size[0], process.k, *size[1:])
    size = (size[0] * width, *size[1:])
    target = model.device if device is None else torch.device(device)
    noise = normal(size, generator, dtype=dtype or torch.float32, device=target)
    return apply(process.root(plan.times[0]), noise, process.modes)


def _run(
    model: Denoiser,
    plan: Plan,
    z: Tensor,
    cond: Mapping[str, Any],
    policy: Policy,
    generator: Generators,
    callback: Callback | None,
    tick: Callable[[], object],
    tol: float | None,
) -> Tensor:
    """Walk the plan for one batch."""
    process, wants = plan.process, plan.wants

    def done(index: int, row: Row, state: Tensor) -> None:
        if not math.isfinite(float(state.sum())):
            _diagnose(state, index, float(row.end.t))
        if callback is not None:
            callback(index, float(row.end.t), state)

    with model.begin(**cond) as run, policy.begin() as act:
        if act.width > 1:
            samples = torch.arange(len(z) // act.width, device=z.device)
            run.take(samples.repeat_interleave(act.width))
        if tol is None:
            steps = walk(plan.rows, z, modes=process.modes, history=plan.history, done=done)
        else:
            steps = adapt(plan, z, tol=tol, done=done)
        return act.finish(_drive(steps, run, act, wants, generator, tick))


def _drive(
    steps: Generator[Ask | Transition, Any, Tensor],
    run: Denoiser,
    act: Policy,
    wants: str,
    generator: Generators,
    tick: Callable[[], object],
) -> Tensor:
    """Answer a walk's requests until it returns its last state."""
    answer: Tensor | NextState | None = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as stop:
            return stop.value
        if isinstance(request, Ask):
            answer = run.ask(request.z, request.level, wants)
            tick()
        else:
            answer = act(request, run, wants, generator=generator)
            if answer.ancestors is not None:
                run.take(answer.ancestors)


def _diagnose(state: Tensor, step: int, time: float) -> None:
    """Raise if the state, whose sum is not finite, holds a value that is not."""
    bad = ~torch.isfinite(state)
    count = int(bad.sum())
    if count:
        rows = torch.nonzero(bad.flatten(1).any(1)).flatten().tolist()
        raise NumericalError(
            f"{count} of {state.numel()} values are not finite after step {step} (time {time:g}), in "
            f"samples {rows[:8]}{'...' if len(rows) > 8 else ''}; check what the network returns "
            "there, or use a smaller order or a finer grid.",
            step=step,
            time=time,
        )
