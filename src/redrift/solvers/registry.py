"""What there is: the rules that a file can name, and the solvers that a budget can be given to.

Each registers itself where it stands, with all that others need to know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeVar

Options = Mapping[str, Any]
Type = TypeVar("Type", bound=type)
Builder = TypeVar("Builder", bound=Callable[..., Any])

RULES: dict[str, Any] = {}


def register(rule: Type) -> Type:
    """Let plans made by a rule of this class be saved and loaded.

    Args:
        rule: a frozen dataclass whose options are plain data, or a rule under the name `rule`.

    Raises:
        TypeError: if it is not a dataclass.
        ValueError: if another class has its name.
    """
    name = rule.__name__  # `register` stands above `dataclass`, so the class is complete here
    kept: Any = rule
    if not is_dataclass(kept):
        raise TypeError(f"{name} must be a frozen dataclass, whose fields are its options.")
    if RULES.setdefault(name, rule) is not rule:
        raise ValueError(f"a rule named {name} is registered already; choose another name.")
    return rule


@dataclass(frozen=True)
class Solver:
    """A solver as `plan_for` and the schedulers know it.

    Attributes:
        build: from process, times and options to a plan.
        order: default order, None where there is none to choose.
        fixed: the order where there is none to choose.
        stages: evaluations of one step, given the options.
        extra: evaluations beside those of the steps, given the budget and the options, in which it may
            set a default; None where there are none.
        end: how a run ends unless told otherwise, see `Plan.build`.
        remainder: whether a first step of fewer stages (`first_stages=`) uses up what is left of a budget.
        needs_signal: whether it starts only where there is some signal.
    """

    build: Callable[..., Any]
    order: int | None = None
    fixed: int | None = None
    stages: Callable[[Options], int] = lambda options: 1
    extra: Callable[[int, dict[str, Any]], int] | None = None
    end: str = "min"
    remainder: bool = True
    needs_signal: bool = False


SOLVERS: dict[str, Solver] = {}


def solver(name: str | None = None, **facts: Any) -> Callable[[Builder], Builder]:  # noqa: ANN401
    """Register a builder of plans as a solver; the arguments are the attributes of `Solver`.

    Args:
        name: None is the function's own.
        facts: all but `build`.
    """

    def enter(build: Builder) -> Builder:
        SOLVERS[name or build.__name__] = Solver(build, **facts)
        return build

    return enter
