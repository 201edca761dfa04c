"""Plans for a budget of evaluations: what the command line and the schedulers call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redrift._core.errors import choose, whole
from redrift.process import Process, timegrid
from redrift.solvers.exprk import dpmpp, res
from redrift.solvers.multistep import ddim, ddpm, deis, extra
from redrift.solvers.plan import Plan

SOLVERS: dict[str, Callable[..., Plan]] = {
    "ddim": ddim,
    "deis": deis,
    "res": res,
    "dpmpp": dpmpp,
    "ddpm": ddpm,
}
_ORDERS = {"deis": 3, "res": 2, "dpmpp": 2}


def plan_for(
    process: Process,
    evaluations: int,
    *,
    solver: str = "deis",
    order: int | None = None,
    spacing: str | None = None,
    start: float | None = None,
    stop: float | None = None,
    **options: Any,  # noqa: ANN401
) -> Plan:
    """Build a plan that asks the network at most `evaluations` times.

    Stages and the starter are counted. A single-step method whose stages do not divide the budget
    begins with one shorter step. The starter is left out below 20 evaluations, where a step costs
    more accuracy than the order brings; say `starter=True` to have it.

    Args:
        process: the law.
        evaluations: budget, >= 1.
        solver: "ddim", "deis", "res", "dpmpp" or "ddpm".
        order: of the method; None takes 3 for deis, 2 for res and dpmpp, lowered to what the budget
            allows.
        spacing: of the grid, see `timegrid`; None takes the process's default.
        start: first time; None takes the process's default.
        stop: last time.
        options: the builder's own, such as `multistep=True` or `eta=0.5`.

    Raises:
        ValueError: if the solver or the spacing is unknown, or the budget too small for the order.

    Example:
        >>> from redrift.process import VP
        >>> print(plan_for(VP(), 10, solver="res", order=3))
        RES order 3, single-step | 4 steps, 10 evaluations | VP, k=1 | deterministic
    """
    whole("evaluations", evaluations)
    build = SOLVERS[choose("solver", solver, SOLVERS)]
    if solver in _ORDERS:
        options["order"] = _order(evaluations, solver, order)
    elif order not in (None, 1):
        raise ValueError(f"{solver} is of order 1, got order={order}; use deis or res.")
    steps = evaluations
    staged = solver == "res" and not options.get("multistep", False)
    staged = staged or (solver == "dpmpp" and options.get("single", False))
    if staged:
        steps, remainder = divmod(evaluations, options["order"])
        options["first"] = remainder
        steps += remainder > 0
        if steps == 1 and remainder:  # the whole budget is the shorter step
            options["order"], options["first"] = remainder, 0
    elif solver in ("deis", "res"):
        options.setdefault("starter", evaluations >= 20)
        steps -= extra(options["order"]) if options["starter"] else 0
    grid = timegrid(process, steps, spacing, start=start, stop=stop)
    return build(process, grid, **options)


def _order(evaluations: int, solver: str, order: int | None) -> int:
    """Return the order to use: the default is lowered to the budget, a given one must fit."""
    if order is None:
        return min(_ORDERS[solver], evaluations)
    whole("order", order)
    if order > evaluations:
        raise ValueError(f"order={order} needs at least {order} evaluations, got {evaluations}.")
    return order
