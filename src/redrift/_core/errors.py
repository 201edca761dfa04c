"""Errors that name the argument, what came, what was expected and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class NumericalError(ArithmeticError):
    """A state stopped being finite.

    Attributes:
        step: index of the step whose result is not finite, counted from 0.
        time: process time at the end of that step.
    """

    def __init__(self, message: str, *, step: int, time: float) -> None:
        super().__init__(message)
        self.step = step
        self.time = time


def choose(argument: str, value: Any, options: Iterable[str]) -> str:  # noqa: ANN401
    """Return `value` if it is one of `options`.

    Raises:
        ValueError: naming the argument, the nearest options and all of them.
    """
    known = list(options)
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    raise ValueError(f"{argument}={value!r} is not known.{hint} Options: {', '.join(known)}.")


def whole(argument: str, value: Any, *, least: int = 1, most: int | None = None) -> int:  # noqa: ANN401
    """Return `value` as an int within [least, most].

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it is outside the range.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{argument} must be a whole number, got {value!r}.")
    number = int(value)
    if number < least or (most is not None and number > most):
        upper = "" if most is None else f" and at most {most}"
        raise ValueError(f"{argument} must be at least {least}{upper}, got {number}.")
    return number
