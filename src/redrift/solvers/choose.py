"""Plans for a budget of evaluations: what the command line and the schedulers call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.process import Process, timegrid
from redrift.solvers.best import best_method, best_plan
from redrift.solvers.plan import Plan
from redrift.solvers.registry import SOLVERS


def plan_for(
    process: Process,
    evaluations: int,
    *,
    solver: str | None = None,
    order: int | None = None,
    spacing: str | None = None,
    start: float | None = None,
    stop: float | None = None,
    **options: Any,  # noqa: ANN401
) -> Plan:
    """Build a plan that asks the network at most `evaluations` times.

    Stages, the start-up and a last denoising step are counted. A single-step method whose stages do
    not divide the budget begins with one shorter step. DEIS and multistep RES have the start-up from
    20 evaluations on (without that of a denoising end), unless told otherwise: where it does not pay
    the error is up to .4 larger, and at order 4 on data as wide as pictures it is half and less, see
    `docs/choose.md`.

    Args:
        process: the law.
        evaluations: budget, >= 1.
        solver: "best" (see `best_plan`), "ddim", "deis", "gddim", "res", "dpmpp", "ipndm",
            "rho_rk", "heun", "krogstad", "ddpm" or "exponential_sde"; None is "best", or "deis"
            where an option is given.
        order: of the method; None takes 3 for deis and gddim, 4 for ipndm, 2 for res, dpmpp and
            exponential_sde, lowered to what the budget allows.
        spacing: of the grid, see `timegrid`; None takes the process's default.
        start: first time; None takes the process's default.
        stop: last time.
        options: the builder's own, such as `multistep=True`, `method="rk4"` or `end="denoise"`.

    Raises:
        ValueError: if the solver or the spacing is unknown, or the budget too small for the order.

    Example:
        >>> from redrift.process import VP
        >>> print(plan_for(VP(), 10, solver="res", order=3))
        RES order 3, single-step | 4 steps, 10 evaluations | VP, k=1 | deterministic
    """
    whole("evaluations", evaluations)
    chosen = order is not None or spacing is not None or bool(options.keys() - {"end"})
    solver = solver or ("deis" if chosen else "best")
    choose("solver", solver, SOLVERS)
    if solver == "best":
        if chosen:
            raise ValueError(
                "the best plan chooses its own method and grid: name a solver to choose."
            )
        return best_plan(process, evaluations, start=start, stop=stop, **options)
    facts = SOLVERS[solver]
    end = options.get("end", facts.end)
    budget = evaluations if end == "min" else evaluations - 1
    _give_order(solver, order, max(budget, 1), options)
    steps = _steps(solver, budget, options) if budget or not facts.remainder else 0
    grid = timegrid(process, steps + (end == "zero"), spacing, start=start, stop=stop)
    return facts.build(process, grid, **options)


def plan_on(
    process: Process,
    times: Tensor,
    *,
    solver: str,
    order: int | None = None,
    **options: Any,  # noqa: ANN401
) -> Plan:
    """Build a plan by its solver's name on given step boundaries.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        solver: as in `plan_for`; "best" is DEIS on the noise in softlog, as the fitted plans are.
        order: of the method; None takes `plan_for`'s default, lowered to the number of steps.
        options: the builder's own; multistep methods run without a start-up unless asked.

    Raises:
        ValueError: if the solver is unknown, or the order above the number of steps.
    """
    choose("solver", solver, SOLVERS)
    steps = len(times) - 1 - (options.get("end") == "zero")
    if solver == "best":
        method = best_method(steps)
        solver, order = "deis", order or method.pop("order")
        options = {"variable": "softlog", **method, **options}
    _give_order(solver, order, max(steps, 1), options)
    facts = SOLVERS[solver]
    if facts.extra is not None:
        options.setdefault("startup", False)
    return facts.build(process, times, **options)


def _give_order(solver: str, order: int | None, most: int, options: dict[str, Any]) -> None:
    """Put the order among the options where the solver has one to choose."""
    facts = SOLVERS[solver]
    if facts.order is None:
        if order not in (None, facts.fixed):
            raise ValueError(
                f"{solver} has no order to choose, got order={order}; use deis or res."
            )
    elif order is None:
        staged = facts.stages({**options, "order": 2}) > 1
        options["order"] = facts.order if staged else min(facts.order, most)
    else:
        whole("order", order)
        if order > most:
            raise ValueError(f"order={order} needs at least {order} evaluations, got {most}.")
        options["order"] = order


def _steps(solver: str, budget: int, options: dict[str, Any]) -> int:
    """Return the steps a budget allows, and put what follows from it among the options."""
    facts = SOLVERS[solver]
    stages = facts.stages(options)
    if stages == 1:
        return budget - (facts.extra(budget, options) if facts.extra is not None else 0)
    steps, left = divmod(budget, stages)
    return (
        steps if steps and not facts.remainder else _shorter(solver, steps, left, stages, options)
    )


def _shorter(solver: str, steps: int, left: int, stages: int, options: dict[str, Any]) -> int:
    """Return the steps of which the first has as many stages as are left, if any are."""
    facts = SOLVERS[solver]
    if not facts.remainder:
        raise ValueError(
            f"{solver} needs at least {stages} evaluations before its end, got {left}: use "
            "solver='ddim' for fewer."
        )
    if not steps and "order" not in options:
        raise ValueError(f"{solver} needs at least {stages} evaluations, got {left}.")
    if not steps:  # the whole budget is the shorter step
        options["order"] = left
        return 1
    options["first_stages"] = left
    return steps + (left > 0)
