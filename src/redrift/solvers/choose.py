"""Plans for a budget of evaluations: what the command line and the schedulers call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.process import Process, timegrid
from redrift.solvers.ancestral import ddpm, exponential_sde
from redrift.solvers.best import best_plan
from redrift.solvers.dpmpp import dpmpp
from redrift.solvers.exprk import krogstad, res
from redrift.solvers.gddim import gddim
from redrift.solvers.multistep import MOST, ddim, deis, extra
from redrift.solvers.plan import Plan
from redrift.solvers.rhork import TABLEAUS, heun, ipndm, rho_rk

SOLVERS: dict[str, Callable[..., Plan]] = {
    "best": best_plan,
    "ddim": ddim,
    "deis": deis,
    "gddim": gddim,
    "res": res,
    "dpmpp": dpmpp,
    "ipndm": ipndm,
    "rho_rk": rho_rk,
    "heun": heun,
    "krogstad": krogstad,
    "ddpm": ddpm,
    "exponential_sde": exponential_sde,
}
_ORDERS = {"deis": 3, "gddim": 3, "res": 2, "dpmpp": 2, "ipndm": 4, "exponential_sde": 2}
_FIXED = {"ddim": 1, "ddpm": 1, "heun": 2, "krogstad": 4}


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

    Stages, the starter and a last denoising step are counted. A single-step method whose stages do
    not divide the budget begins with one shorter step. DEIS and multistep RES have the starter from
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
    end = options.get("end", "denoise" if solver == "heun" else "min")
    budget = evaluations if end == "min" else evaluations - 1
    _give_order(solver, order, max(budget, 1), options)
    steps = _steps(solver, budget, options) if budget else 0
    grid = timegrid(process, steps + (end == "zero"), spacing, start=start, stop=stop)
    return SOLVERS[solver](process, grid, **options)


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
        solver: as in `plan_for`; "best" is order 4 on v in the angle, as the fitted plans are.
        order: of the method; None takes `plan_for`'s default, lowered to the number of steps.
        options: the builder's own; multistep methods start without a starter unless asked.

    Raises:
        ValueError: if the solver is unknown, or the order above the number of steps.
    """
    choose("solver", solver, SOLVERS)
    steps = len(times) - 1 - (options.get("end") == "zero")
    if solver == "best":
        solver, order, options = "deis", min(MOST, max(steps, 1)), {"wants": "v", **options}
    _give_order(solver, order, max(steps, 1), options)
    if solver in ("deis", "res"):
        options.setdefault("starter", False)
    return SOLVERS[solver](process, times, **options)


def _give_order(solver: str, order: int | None, most: int, options: dict[str, Any]) -> None:
    """Put the order among the options where the solver has one to choose."""
    if solver in _ORDERS:
        staged = _stages(solver, {**options, "order": 2}) > 1
        options["order"] = _order(
            _ORDERS[solver] if staged and order is None else most, solver, order
        )
    elif order not in (None, _FIXED.get(solver)):
        raise ValueError(f"{solver} has no order to choose, got order={order}; use deis or res.")


def _steps(solver: str, budget: int, options: dict[str, Any]) -> int:
    """Return the steps a budget allows, and put what follows from it among the options."""
    stages = _stages(solver, options)
    if stages > 1:
        steps, remainder = divmod(budget, stages)
        if solver == "heun":
            if not steps:
                raise ValueError(
                    f"heun needs at least 2 evaluations before its end, got {budget}."
                )
            return steps
        if not steps and "order" not in options:
            raise ValueError(f"{solver} needs at least {stages} evaluations, got {budget}.")
        if not steps:  # the whole budget is the shorter step
            options["order"] = remainder
            return 1
        options["first"] = remainder
        return steps + (remainder > 0)
    if solver in ("deis", "res"):
        options.setdefault("starter", budget >= 20 and options.get("ahead") is None)
        corrector = bool(options.get("corrector", False))
        return budget - (extra(options["order"], corrector) if options["starter"] else 0)
    return budget


def _stages(solver: str, options: dict[str, Any]) -> int:
    """Return the evaluations of one step."""
    if solver == "rho_rk":
        return len(TABLEAUS[choose("method", options.get("method", "kutta3"), TABLEAUS)][1])
    if solver in ("heun", "krogstad"):
        return _FIXED[solver]
    staged = solver == "res" and not options.get("multistep", False)
    staged = staged or (solver == "dpmpp" and options.get("single", False))
    return options["order"] if staged else 1


def _order(budget: int, solver: str, order: int | None) -> int:
    """Return the order to use: the default is lowered to the budget, a given one must fit."""
    if order is None:
        return min(_ORDERS[solver], budget)
    whole("order", order)
    if order > budget:
        raise ValueError(f"order={order} needs at least {order} evaluations, got {budget}.")
    return order
