"""A user's log-density as a target: its shape, values and gradient are checked at every call."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from redrift._core.errors import whole
from redrift.targets import Target, gradient

Function = Callable[[Tensor], Tensor]


def checked(log_prob: Function, dim: int) -> Function:
    """Return log_prob, refusing what is not one finite number or -inf per sample.

    Raises:
        ValueError: from the returned function: another shape, NaN or +inf.
    """

    def call(x: Tensor) -> Tensor:
        value = log_prob(x)
        if not isinstance(value, Tensor) or value.shape != (len(x),):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"log_prob returned {got} for x of shape {tuple(x.shape)}, expected ({len(x)},): "
                "one number per row, summed over coordinates."
            )
        if not bool((value.detach() < math.inf).all()):
            bad = ~(value.detach() < math.inf)
            first = x.detach()[bad][0].tolist()
            raise ValueError(
                f"log_prob returned NaN or +inf at {int(bad.sum())} of {len(x)} points, such as "
                f"{[round(v, 4) for v in first[:8]]}: return -inf outside the support."
            )
        return value

    return call


class _Function(Target):
    def __init__(self, log_prob: Function, dim: int, score: Function | None) -> None:
        self._log_prob, self.dim = log_prob, dim
        self._score = score
        self.name = getattr(log_prob, "__name__", "log_prob")

    def log_prob(self, x: Tensor) -> Tensor:
        return self._log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        return (
            gradient(checked(self._log_prob, self.dim), x)
            if self._score is None
            else self._score(x)
        )


def as_target(log_prob: Function | Target, dim: int | None, score: Function | None) -> Target:
    """Return a target as it is, or a function as a target.

    Raises:
        TypeError: if log_prob is no function.
        ValueError: if dim is missing or contradicts the target.
    """
    owner = getattr(log_prob, "__self__", log_prob)
    if isinstance(owner, Target) and score is None:
        if dim is not None and dim != owner.dim:
            raise ValueError(f"dim={dim}, but {owner.name} has dim {owner.dim}.")
        return owner
    if not callable(log_prob):
        raise TypeError(f"log_prob must be a function or a Target, got {type(log_prob).__name__}.")
    if dim is None:
        raise ValueError("dim is needed: a function does not say how long x is.")
    return _Function(log_prob, whole("dim", dim), score)
