r"""Steps chosen by an embedded error estimate, for users who think in accuracy.

Three-stage RES carries a second-order result in its own stages; their difference estimates the step's
error. A step is taken again, shorter, when the estimate exceeds the tolerance. An error made at a
level of spread $s = \sqrt{\alpha^2 \sigma_d^2 + \sigma^2}$ reaches the data scaled by about $\sigma_d / s$,
so that is how it is weighed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from redrift._core.errors import NumericalError
from redrift._core.linalg import combine
from redrift.process import Level, Process
from redrift.solvers.coefficients import finite
from redrift.solvers.loop import Ask, stages, terms
from redrift.solvers.plan import Plan
from redrift.solvers.row import Row

_SAFETY, _LEAST, _MOST = 0.9, 0.2, 4.0
_SMALLEST = 1e-5  # step, as a share of the first one the plan has
_RESOLUTION = 100  # tolerances below this many ulp of the state's dtype cannot be met


def check_tolerance(plan: Plan, tol: float, dtype: torch.dtype) -> None:
    """Check that a plan can be stepped to a tolerance.

    Raises:
        ValueError: if tol is not positive, is below what the dtype resolves, or the plan's rule gives
            no error estimate.
    """
    if not 0 < tol < float("inf"):
        raise ValueError(f"tol must be positive and finite, got {tol}.")
    least = _RESOLUTION * torch.finfo(dtype).eps
    if tol < least:
        raise ValueError(
            f"tol={tol:g} cannot be met in {dtype}, which resolves about {least:.0e}; use "
            "dtype=torch.float64 or a larger tol."
        )
    first = next(iter(plan.rows))
    if first.error is None or plan.stochastic:
        raise ValueError(
            f"{plan.name} has no error estimate; use rd.res(process, times, order=3), whose ends "
            "and first step the adaptive run takes."
        )
    if not (finite(plan.process, plan.times[0]) and finite(plan.process, plan.times[-1])):
        raise ValueError("an adaptive run needs signal and noise at both ends of plan.times.")


def adapt(
    plan: Plan,
    z: Tensor,
    *,
    tol: float,
    done: Callable[[int, Row, Tensor], None] | None = None,
) -> Generator[Ask, Tensor, Tensor]:
    """Walk from plan.times[0] to plan.times[-1] with steps that keep the error estimate below tol.

    The step is common to the batch; the estimate is the root mean square over it.

    Args:
        plan: gives the rule, the ends and the first step.
        z: incoming modal state.
        tol: bound on the estimate of each step, in units of the data.
        done: called after each accepted step, as in `walk`.

    Yields:
        `Ask`, answered by the prediction.

    Returns:
        the state at plan.times[-1].

    Raises:
        NumericalError: if the step shrinks below a hundred-thousandth of the plan's first one.

    Cost: 3 evaluations per step, 2 more per rejected one.
    """
    process, rule = plan.process, plan.rule
    assert rule is not None
    t, stop = plan.times[0], plan.times[-1]
    last = process.clock(stop)
    step = process.clock(plan.times[1]) - process.clock(t)
    least, index = _SMALLEST * step.abs(), 0
    first: Tensor | None = None
    while True:
        left = last - process.clock(t)
        closing = bool(left.abs() <= step.abs() * 1.01)
        next_t = stop if closing else process.unclock(process.clock(t) + step)
        (row,) = rule(process, (), t, next_t, left=1)
        own = yield from stages(row, z, modes=process.modes, ready=first)
        first = own[0]
        assert row.error is not None
        estimate = combine(zip(row.error, own, strict=True), process.modes)
        size = float(estimate.double().pow(2).mean().sqrt()) * _weight(process, row.end)
        if size <= tol:
            z = combine(terms(row, -1, z, own), process.modes)
            if done is not None:
                done(index, row, z)
            if closing:
                return z
            t, first, index = next_t, None, index + 1
        taken = left if closing else step
        factor = _SAFETY * (tol / max(size, 1e-300)) ** (1 / 3)
        step = taken * min(max(factor, _LEAST), _MOST)
        if bool(step.abs() < least):
            raise NumericalError(
                f"tol={tol:g} cannot be met near time {float(t):g}: the estimate stays at "
                f"{size:.1e} however short the step; use a larger tol or dtype=torch.float64.",
                step=index,
                time=float(t),
            )


def _weight(process: Process, level: Level) -> float:
    """Return how much an error at a level counts in the data."""
    data = process.sigma_data
    signal, root = level.signal.abs().mean(), level.root.abs().mean()
    return data / float(((data * signal) ** 2 + root**2).sqrt())
