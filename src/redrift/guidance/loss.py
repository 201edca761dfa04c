"""Losses: what a rule says of a sample, lower is better, 0 is kept.

A loss is any callable from a batch of predicted clean samples (rows, *shape) to (rows,) numbers. It may
be plain Python, count, threshold or call another program: nothing is differentiated. `as_loss` checks
what it returns; `Pooled` runs a slow one in other processes while the network works on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Protocol

import torch
from torch import Tensor

from redrift._core.errors import whole

Function = Callable[[Tensor], Any]
Waiting = Callable[[], Tensor]


class Loss(Protocol):
    """Anything that `as_loss` returns: a callable with + and *, and a call that may be waited for."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the losses (rows,) of samples (rows, *shape)."""
        ...

    def submit(self, x: Tensor, /) -> Waiting:
        """Begin to evaluate and return a function that waits for the losses."""
        ...


class _Combined:
    """Arithmetic of losses."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Evaluate and wait."""
        return self.submit(x)()

    def submit(self, x: Tensor, /) -> Waiting:
        """Begin to evaluate."""
        raise NotImplementedError

    def __add__(self, other: Function) -> _Combined:
        """Return the sum of two losses."""
        return _Sum(self, as_loss(other))

    def __radd__(self, other: Any) -> _Combined:  # noqa: ANN401
        """Add from the left, so that `sum` works."""
        return self if other == 0 else as_loss(other) + self

    def __mul__(self, weight: float) -> _Combined:
        """Return the loss times a weight >= 0."""
        if not 0 <= weight < float("inf"):
            raise ValueError(f"a loss is weighted by a finite number >= 0, got {weight}.")
        return _Weighted(self, float(weight))

    __rmul__ = __mul__


class _Sum(_Combined):
    def __init__(self, a: _Combined, b: _Combined) -> None:
        self.a, self.b = a, b

    def submit(self, x: Tensor, /) -> Waiting:
        first, second = self.a.submit(x), self.b.submit(x)
        return lambda: first() + second()


class _Weighted(_Combined):
    def __init__(self, loss: _Combined, weight: float) -> None:
        self.loss, self.weight = loss, weight

    def submit(self, x: Tensor, /) -> Waiting:
        waiting = self.loss.submit(x)
        return lambda: self.weight * waiting()


class _Function(_Combined):
    """A user's function, checked."""

    def __init__(self, function: Function, decode: Function | None = None) -> None:
        self.function, self.decode = function, decode

    def submit(self, x: Tensor, /) -> Waiting:
        found = _checked(self.function, x if self.decode is None else self.decode(x), x)
        return lambda: found


def as_loss(function: Function | _Combined, decode: Function | None = None) -> _Combined:
    """Return a function as a loss that checks what it gives.

    Args:
        function: from (rows, *shape) to (rows,) finite numbers; it may not change its input.
        decode: first applied to the samples, such as a VAE's decoder.

    Example:
        >>> loss = as_loss(lambda x: x.mean(1)) + 2 * as_loss(lambda x: x.amax(1))
        >>> loss(torch.tensor([[0.0, 1.0]]))
        tensor([2.5000], dtype=torch.float64)
    """
    if isinstance(function, _Combined):
        return function
    if not callable(function):
        raise TypeError(f"a loss is a callable of samples, got {type(function).__name__}.")
    return _Function(function, decode)


def _checked(function: Function, x: Tensor, rows: Tensor) -> Tensor:
    """Evaluate a function and refuse what is no loss.

    Raises:
        ValueError: if it returns another shape, what is not finite, or changes its input.
    """
    name = getattr(function, "__name__", type(function).__name__)
    before = x.clone()
    found = torch.as_tensor(function(x), dtype=torch.float64, device=rows.device).detach()
    if not torch.equal(x, before):
        raise ValueError(f"the loss {name!r} changed its input in place; let it work on a copy.")
    return _valid(name, found, len(rows))


def _valid(name: str, found: Tensor, rows: int) -> Tensor:
    if found.shape != (rows,):
        raise ValueError(
            f"the loss {name!r} returned shape {tuple(found.shape)} for {rows} samples, expected "
            f"({rows},): one number per sample."
        )
    if not bool(found.isfinite().all()):
        bad = torch.nonzero(~found.isfinite().reshape(rows, -1).all(1)).flatten().tolist()
        raise ValueError(
            f"the loss {name!r} is not finite for samples {bad[:8]}; return a large number where a "
            "rule cannot be evaluated."
        )
    return found


class Pooled(_Combined):
    """A slow Python rule in other processes, created once; the network works on meanwhile.

    Args:
        function: of one sample as a numpy array (*shape), to a number; importable by name (no lambda),
            since other processes have to find it.
        workers: processes.
        decode: applied here to the samples, before they are sent.

    Raises:
        RuntimeError: on evaluation, if a worker dies.
        ValueError: on evaluation, if the function returns anything but one finite number.

    Cost: each sample is pickled once. The workers import what the function's module imports, no more.
    The network works on where proposals are judged in chunks (`max_batch` of the policies).
    """

    def __init__(
        self, function: Callable[[Any], float], workers: int = 2, decode: Function | None = None
    ) -> None:
        self.function, self.decode = function, decode
        self.workers = whole("workers", workers)
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, x: Tensor, /) -> Waiting:
        """Send the samples to the workers."""
        data = (x if self.decode is None else self.decode(x)).detach().cpu().numpy()
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))
        try:
            values = self._pool.map(self.function, data, chunksize=-(-len(data) // self.workers))
        except BrokenProcessPool as error:
            raise self._died() from error
        return lambda: self._wait(values, x)

    def _wait(self, found: Iterator[Any], x: Tensor) -> Tensor:
        try:
            values = [self._number(value) for value in found]
        except BrokenProcessPool as error:
            raise self._died() from error
        losses = torch.tensor(values, dtype=torch.float64, device=x.device)
        return _valid(self.function.__name__, losses, len(x))

    def _number(self, value: Any) -> float:  # noqa: ANN401
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the loss {self.function.__name__!r} returned {type(value).__name__} for a sample, expected "
                "one number."
            ) from error

    def _died(self) -> RuntimeError:
        self.close()
        return RuntimeError(
            f"a worker that evaluated {self.function.__name__!r} died; run the rule by itself to see "
            "why (memory, a crash in a library), or use as_loss to run it in this process."
        )

    def close(self) -> None:
        """End the workers; the next evaluation starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
