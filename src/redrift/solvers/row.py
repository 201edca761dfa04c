r"""Rows: one step as data, and the rules that make them.

Within a step, stage s is $z_s = A_s z + \sum_j C_{sj} e_j$, where the $e_j$ are predictions from
earlier stages of the step or from earlier steps, asked at the stage's own level; the last row gives
the step's result, to which $B\,\xi$ may be added. Every solver of the library is such a table.

A rule makes one step's rows from the times of the predictions at hand, so that adaptive runs,
foreign timestep lists and starts in the middle make rows as they go. Rules compute on tensors
and never branch on a time's value (but for where the first evaluation is, and what is corrected), so
that a time grid can be fitted by autograd. A rule around a rule changes some of its steps: see
`redrift.solvers.layers`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from redrift._core.linalg import number
from redrift.process import Level, Process

Coefficients = tuple[Tensor | None, ...]
_SMALL = 4096  # entries: steps with larger tables are made again when asked for, not kept


@dataclass(frozen=True)
class Row:
    """One step, or part of one, as data.

    Attributes:
        start: level of the incoming state.
        end: level of the result.
        asks: levels at which the network is asked, in order; may be empty.
        A: len(asks) + 1 tables on the incoming state: the stages, then the result. The first
            is the identity when `fresh`, and is then not applied.
        C: len(asks) + 1 tuples of tables on predictions: own ones so far, oldest first, then the
            history, newest first; None is an absent term.
        B: table on the noise added to the result, or None.
        keep: which own predictions enter the history, newest first.
        fresh: asks[0] is asked at (z, start), so that a ready prediction may answer it.
        error: coefficients like C[-1], whose combination estimates the step's error, or None.
    """

    start: Level
    end: Level
    asks: tuple[Level, ...]
    A: tuple[Tensor, ...]
    C: tuple[Coefficients, ...]
    B: Tensor | None = None
    keep: tuple[int, ...] = ()
    fresh: bool = True
    error: Coefficients | None = None

    @functools.cached_property
    def weights(self) -> tuple[tuple[Tensor | float | None, ...], ...]:
        """Return A and C of each stage side by side, single numbers as floats."""
        return tuple(
            tuple(None if table is None else number(table) for table in (a, *c))
            for a, c in zip(self.A, self.C, strict=True)
        )


class Rule(Protocol):
    """Makes one step's rows. Frozen dataclasses of their options are rules that can be saved."""

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the rows from t to next_t.

        Args:
            process: the law.
            past: times at which the predictions of the history were asked, newest first.
            t: time of the incoming state; asked there only if past[0] != t.
            next_t: time of the result.
            left: number of steps after this one.
        """
        ...


class Rows(Sequence[Row]):
    """The rows of a rule on a grid: made when first needed, kept while they are small."""

    def __init__(self, rule: Rule, process: Process, times: Tensor, history: int) -> None:
        self._rule, self._process, self._history = rule, process, history
        self._times = times.unbind()
        self._past: list[tuple[Tensor, ...]] = [()]
        self._kept: dict[int, tuple[Row, ...]] = {}

    @property
    def steps(self) -> int:
        """Return the number of steps."""
        return len(self._times) - 1

    def step(self, i: int) -> tuple[Row, ...]:
        """Return the rows of step i."""
        while len(self._past) <= i:
            self._make(len(self._past) - 1)
        return self._kept.get(i) or self._make(i)

    def _make(self, i: int) -> tuple[Row, ...]:
        past, last = self._past[i], self.steps - 1
        t, next_t = self._times[i], self._times[i + 1]
        rows = tuple(self._rule(self._process, past, t, next_t, left=last - i))
        for row in rows:
            past = tuple(row.asks[j].t for j in row.keep) + past
        if len(self._past) == i + 1:
            self._past.append(past[: self._history])
        if sum(table.numel() for row in rows for table in row.A) <= _SMALL:
            self._kept[i] = rows
        return rows

    def __iter__(self) -> Iterator[Row]:
        for i in range(self.steps):
            yield from self.step(i)

    def __len__(self) -> int:
        return sum(len(self.step(i)) for i in range(self.steps))

    def __getitem__(self, i: Any) -> Any:  # noqa: ANN401
        return list(self)[i]
