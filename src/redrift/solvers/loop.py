"""The one loop body: walk a plan's rows, asking for predictions and for draws.

Whoever drives it answers its requests: `redrift.sampling` with a model and a policy, a pipeline of diffusers
step by step, a fit with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from redrift._core.linalg import combine
from redrift.process import Level
from redrift.solvers.plan import Row


class Ask(NamedTuple):
    """A request for one prediction at (z, level)."""

    z: Tensor
    level: Level


class Law(NamedTuple):
    """A stochastic step's law: the next state is N(mean, scale scale^T) at `level`.

    `gain` is the table of the mean on `prediction`, the newest of the step's own. The `last` one's
    state is the sample: nothing is asked at it.
    """

    step: int
    start: Level
    level: Level
    z: Tensor
    mean: Tensor
    scale: Tensor
    prediction: Tensor | None
    last: bool = False
    gain: Tensor | None = None


class Move(NamedTuple):
    """A policy's answer to a `Law`.

    Attributes:
        x: next state, already gathered.
        ancestors: (rows,) index that was gathered; the loop gathers history and run state with it.
        prediction: prediction at (x, law.level) if it is known, which saves the evaluation.
    """

    x: Tensor
    ancestors: Tensor | None = None
    prediction: Tensor | None = None


def walk(
    rows: Iterable[Row],
    z: Tensor,
    *,
    modes: tuple[int, ...] = (),
    history: int,
    past: Sequence[Tensor] = (),
    done: Callable[[int, Row, Tensor], None] | None = None,
) -> Generator[Ask | Law, Tensor | Move, Tensor]:
    """Walk the rows from z, asking for predictions and, where a row has noise, for a draw.

    Args:
        rows: the steps.
        z: incoming modal state, (B, *shape), or (B, k, *shape) for k > 1.
        modes: the process's modes.
        history: how many predictions to keep.
        past: predictions made before z, newest first.
        done: called after each row with its index, itself and the new state.

    Yields:
        `Ask`, answered by the prediction, or `Law`, answered by a `Move`.

    Returns:
        the state after the last row.
    """
    memory = list(past)
    ready: Tensor | None = None
    for index, (row, last) in enumerate(_and_last(rows)):
        own: list[Tensor] = []
        for s, level in enumerate(row.asks):
            if s == 0 and row.fresh:
                answer = ready if ready is not None else (yield Ask(z, level))
            else:
                stage = combine(terms(row, s, z, own, memory), modes)
                answer = yield Ask(stage, level)
            own.append(answer)  # pyright: ignore[reportArgumentType]
        ready = None
        mean = combine(terms(row, -1, z, own, memory), modes)
        memory = ([own[j] for j in row.keep] + memory)[:history]
        if row.B is None:
            z = mean
        else:
            known = own[-1] if own else None
            gain = row.C[-1][len(own) - 1] if own else None
            move = yield Law(index, row.start, row.end, z, mean, row.B, known, last, gain)
            assert isinstance(move, Move)
            z, ready = move.x, move.prediction
            if move.ancestors is not None:
                memory = [e[move.ancestors] for e in memory]
        if done is not None:
            done(index, row, z)
    return z


def answered(
    steps: Generator[Ask | Law, Tensor | Move, Tensor], predict: Callable[[Tensor, Level], Tensor]
) -> Tensor:
    """Answer every request of a deterministic walk by a prediction; return its last state."""
    try:
        request = next(steps)
        while True:
            assert isinstance(request, Ask)
            request = steps.send(predict(request.z, request.level))
    except StopIteration as stop:
        return stop.value


def _and_last(rows: Iterable[Row]) -> Iterator[tuple[Row, bool]]:
    """Pair each row with whether it is the last."""
    ahead = iter(rows)
    row = next(ahead, None)
    for following in ahead:
        assert row is not None
        yield row, False
        row = following
    if row is not None:
        yield row, True


def terms(
    row: Row, s: int, z: Tensor, own: list[Tensor], memory: list[Tensor]
) -> Iterator[tuple[Tensor | float | None, Tensor]]:
    """Pair the tables of stage s with the states they act on."""
    return zip(row.weights[s], (z, *own, *memory))  # noqa: B905 - a short row leaves older ones out
