"""The one loop body: walk a plan's rows, asking for predictions and for draws.

Whoever drives it answers its requests: `redrift.sampling` with a model and a policy, a pipeline of diffusers
step by step, a fit with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from redrift._core.linalg import combine
from redrift.process import Level
from redrift.solvers.row import Row

Answered = TypeVar("Answered")


class Ask(NamedTuple):
    """A request for one prediction at (z, level)."""

    z: Tensor
    level: Level


class Transition(NamedTuple):
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


class NextState(NamedTuple):
    """A policy's answer to a `Transition`.

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
    add: Callable[..., Any] = combine,
) -> Generator[Ask | Transition, Tensor | NextState, Tensor]:
    """Walk the rows from z, asking for predictions and, where a row has noise, for a draw.

    Args:
        rows: the steps.
        z: incoming modal state, (B, *shape), or (B, k, *shape) for k > 1.
        modes: the process's modes.
        history: how many predictions to keep.
        past: predictions made before z, newest first.
        done: called after each row with its index, itself and the new state.
        add: sums tables times states, as `combine` does; a compiler sums symbols instead.

    Yields:
        `Ask`, answered by the prediction, or `Transition`, answered by a `NextState`.

    Returns:
        the state after the last row.
    """
    memory = list(past)
    ready: Tensor | None = None
    for index, (row, last) in enumerate(_and_last(rows)):
        own = yield from stages(row, z, memory, modes=modes, ready=ready, add=add)
        ready = None
        mean = add(terms(row, -1, z, own, memory), modes)
        memory = ([own[j] for j in row.keep] + memory)[:history]
        if row.B is None:
            z = mean
        else:
            known = own[-1] if own else None
            gain = row.C[-1][len(own) - 1] if own else None
            move = yield Transition(index, row.start, row.end, z, mean, row.B, known, last, gain)
            assert isinstance(move, NextState)
            z, ready = move.x, move.prediction
            if move.ancestors is not None:
                memory = [e[move.ancestors] for e in memory]
        if done is not None:
            done(index, row, z)
    return z


def stages(
    row: Row,
    z: Tensor,
    memory: Sequence[Tensor] = (),
    *,
    modes: tuple[int, ...] = (),
    ready: Tensor | None = None,
    add: Callable[..., Any] = combine,
) -> Generator[Ask, Any, list[Tensor]]:
    """Ask for the predictions of one row, stage by stage.

    Args:
        row: whose stages they are.
        z: incoming modal state.
        memory: predictions made before z, newest first.
        modes: the process's modes.
        ready: prediction at (z, row.start), which saves asking for it.
        add: as in `walk`.

    Yields:
        `Ask`, answered by the prediction.

    Returns:
        the row's own predictions, oldest first.
    """
    own: list[Tensor] = []
    for s, level in enumerate(row.asks):
        if s == 0 and row.fresh:
            own.append(ready if ready is not None else (yield Ask(z, level)))
        else:
            own.append((yield Ask(add(terms(row, s, z, own, memory), modes), level)))
    return own


def answered(
    steps: Generator[Ask | Transition, Any, Answered], predict: Callable[[Tensor, Level], Tensor]
) -> Answered:
    """Answer every request of a deterministic walk by a prediction; return what it returns."""
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
    row: Row, s: int, z: Tensor, own: Sequence[Tensor], memory: Sequence[Tensor] = ()
) -> Iterator[tuple[Tensor | float | None, Tensor]]:
    """Pair the tables of stage s with the states they act on."""
    return zip(row.weights[s], (z, *own, *memory))  # noqa: B905 - a short row leaves older ones out
