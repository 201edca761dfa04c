r"""Plans: a sampler as data; `redrift.solvers.loop` is the one loop body that walks it.

Within a step, stage s is $z_s = A_s z + \sum_j C_{sj} e_j$, where the $e_j$ are predictions from
earlier stages of the step or from earlier steps, asked at the stage's own level; the last row gives
the step's result, to which $B\,\xi$ may be added. Every solver of the library is such a table.

A rule makes one step's rows from the times of the predictions at hand, so that adaptive runs,
foreign timestep lists and starts in the middle make rows as they go. Rules compute on tensors
and never branch on a time's value (but for where the first question is asked), so that a time grid can be
fitted by autograd.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.linalg import number
from redrift.process import Level, Process, convert
from redrift.process.base import Wants

End = Literal["min", "zero", "denoise"]
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


@dataclass(frozen=True)
class CleanEnd:
    """Rule: another rule's steps, and a last step that returns the predicted clean state.

    Attributes:
        rule: of the steps before.
        wants: reading of the predictions.
    """

    rule: Rule
    wants: Wants

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's rows."""
        if left:
            return self.rule(process, past, t, next_t, left=left - 1)
        start = process.level(t)
        eye = torch.eye(process.k, dtype=t.dtype).expand_as(start.signal)
        end = Level(next_t, eye, torch.zeros_like(eye))
        A, C = convert(process, start, self.wants, "x0")
        if past and torch.equal(past[0].detach(), t.detach()):
            return (Row(start, end, (), (A,), ((C,),), fresh=False),)
        return (Row(start, end, (start,), (eye, A), ((), (C,))),)


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


@dataclass(frozen=True, eq=False)
class Plan:
    """Rows for one process and one time grid: all that a sampler is.

    Build one with `ddim`, `deis`, `res`, `dpmpp`, `ddpm` or `plan_for`, or from your own rule with
    `Plan.build`.

    Attributes:
        process: the law.
        times: (steps + 1,) float64, decreasing; the last is the level of the returned sample.
        wants: the reading of the predictions, "eps", "x0" or "v".
        history: how many earlier predictions the rows use at most.
        order: number of points the polynomials use; 1 is DDIM.
        name: what the printed plan says.
        papers: keys of the papers to cite.
        rule: what made the rows, or None when they are given as data.
        rows: the steps as data.
        stochastic: whether any row adds noise.
    """

    process: Process
    times: Tensor
    wants: Wants
    history: int
    order: int
    name: str
    papers: tuple[str, ...]
    rule: Rule | None
    rows: Sequence[Row] = field(repr=False)
    stochastic: bool = False

    @classmethod
    def build(
        cls,
        process: Process,
        times: Tensor | Sequence[float],
        rule: Rule,
        *,
        wants: Wants,
        order: int,
        history: int | None = None,
        name: str = "own rule",
        papers: tuple[str, ...] = (),
        stochastic: bool = False,
        end: End = "min",
    ) -> Plan:
        """Build a plan from a rule; the arguments are the attributes of the same names.

        Args:
            process: the law.
            times: (steps + 1,) strictly decreasing times.
            rule: makes the rows.
            wants: reading of the predictions.
            order: number of points the polynomials use.
            history: how many earlier predictions are kept; None is order - 1.
            name: what the printed plan says.
            papers: keys of the papers to cite.
            stochastic: whether the rule adds noise.
            end: "min" returns the state at times[-1]; "zero" makes the last step end at the clean
                level instead; "denoise" adds a step from times[-1] to it, one evaluation more.

        Raises:
            ValueError: if the times are not strictly decreasing within the horizon, if the order
                is above the number of steps, or if the reading cannot start at times[0].
        """
        times = check_times(process, times)
        choose("end", end, ("min", "zero", "denoise"))
        if end != "min" and not isinstance(rule, CleanEnd):
            clean = times.new_tensor([process.clean])
            times = torch.cat((times[:-1] if end == "zero" else times, clean))
            rule = CleanEnd(rule, wants)
            check_times(process, times)
        whole("order", order)
        history = order - 1 if history is None else history
        if history > len(times) - 2:
            raise ValueError(
                f"order={order} needs at least {order} steps, the grid has {len(times) - 1}; "
                "lower the order or use a finer grid."
            )
        process.reading(process.level(times[0].detach()), wants)
        if wants == "eps" and not bool((process.signal(times[0].detach()) != 0).any()):
            raise ValueError(
                f"a plan that wants 'eps' cannot start at t={float(times[0])}, where the signal is "
                "zero; start the grid below it, or use res or dpmpp, which want 'x0'."
            )
        rows = Rows(rule, process, times, history)
        return cls(process, times, wants, history, order, name, papers, rule, rows, stochastic)

    @functools.cached_property
    def evaluations(self) -> int:
        """Count the network evaluations of a run: what a counter in the network would show."""
        return sum(len(row.asks) for row in self.rows)

    @property
    def steps(self) -> int:
        """Return the number of steps."""
        return len(self.times) - 1

    @property
    def asks_ahead(self) -> bool:
        """Return whether the first question is asked within the first step, not at its start."""
        first = self.rows[0].asks[:1]
        return bool(first) and bool(first[0].t != self.times[0])

    def named(self, name: str, papers: tuple[str, ...]) -> Plan:
        """Return the same plan under another name and other papers."""
        return replace(self, name=name, papers=papers)

    def rebuilt(
        self, times: Tensor | Sequence[float] | None = None, rule: Rule | None = None
    ) -> Plan:
        """Return the plan with other times, or made by another rule.

        Args:
            times: as many as there are, or None to keep them.
            rule: as the plan's own, or None to keep it.

        Raises:
            ValueError: if the plan's rows are fixed data, or the times do not fit.
        """
        rule = self.rule if rule is None else rule
        if rule is None:
            raise ValueError("this plan has no rule, so its rows cannot be made anew.")
        if times is not None and len(times) != len(self.times):
            raise ValueError(f"times must be {len(self.times)} as in the plan, got {len(times)}.")
        return Plan.build(
            self.process, self.times if times is None else times, rule, wants=self.wants,
            order=self.order, history=self.history, name=self.name, papers=self.papers,
            stochastic=self.stochastic,
        )  # fmt: skip

    def start(self, i: int) -> Plan:
        """Return the plan of the steps from i on, its rows made anew with an empty history.

        Args:
            i: step boundary, 0 to steps - 1.

        Raises:
            ValueError: if i is out of range, or if the plan's rows are fixed data.
        """
        whole("i", i, least=0, most=self.steps - 1)
        if i == 0:
            return self
        if self.rule is None:
            raise ValueError("this plan has no rule, so it cannot be entered in the middle.")
        times = self.times[i:]
        history, order = min(self.history, len(times) - 2), min(self.order, len(times) - 1)
        rows = Rows(self.rule, self.process, times, history)
        return replace(self, times=times, rows=rows, history=history, order=order)

    def __str__(self) -> str:
        noise = "stochastic" if self.stochastic else "deterministic"
        counts = f"{self.steps} steps, {self.evaluations} evaluations"
        if self.asks_ahead:
            counts += f" (the first at t={float(self.rows[0].asks[0].t):.3g})"
        if floor := option(self.rule, "floor"):
            counts += f" (corrected above sigma / alpha = {floor:.3g})"
        return f"{self.name} | {counts} | {self.process.describe()} | {noise}"

    def cite(self) -> str:
        """Return the BibTeX of the papers whose methods the plan uses."""
        from redrift.solvers.papers import bibtex

        return bibtex(self.papers)

    def save(self, path: str) -> None:
        """Write the plan to a JSON file; see `redrift.solvers.store`."""
        from redrift.solvers.store import save

        save(self, path)

    @staticmethod
    def load(path: str) -> Plan:
        """Read a plan from a JSON file; see `redrift.solvers.store`."""
        from redrift.solvers.store import load

        return load(path)


def without(plan: Plan, **options: Any) -> Plan:  # noqa: ANN401
    """Return the plan with `ahead`, `floor` or `starter`, which change no other attribute, as given.

    Rules that lack an option pass over it; where none changes the plan itself is returned.
    """
    rule = varied(plan.rule, **options)
    return plan if rule is plan.rule else plan.rebuilt(rule=rule)


def option(rule: Any, name: str) -> Any:  # noqa: ANN401
    """Return an option of a rule or of the rule inside it, None where neither has it."""
    inner = getattr(rule, "rule", None)
    return getattr(rule, name, None) if inner is None else option(inner, name)


def varied(rule: Any, **options: Any) -> Any:  # noqa: ANN401
    """Return a rule with other options, or the rule inside it; the same where none changes."""
    inner = getattr(rule, "rule", None)
    if inner is not None:
        found = varied(inner, **options)
        return rule if found is inner else replace(rule, rule=found)
    new = {key: v for key, v in options.items() if getattr(rule, key, v) != v}
    return replace(rule, **new) if new else rule


def check_times(process: Process, times: Tensor | Sequence[float]) -> Tensor:
    """Return times as a float64 CPU tensor.

    Raises:
        ValueError: if they are not a strictly decreasing list of at least two times within
            [clean, horizon].
    """
    times = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be a list of at least two, got shape {tuple(times.shape)}.")
    values = times.detach()
    bad = torch.nonzero(~(values[1:] < values[:-1]))
    if len(bad):
        i = int(bad[0])
        raise ValueError(
            f"times must decrease strictly, but times[{i}] = {float(values[i])} is followed by "
            f"{float(values[i + 1])}; remove repeated times (a step of no length wastes an "
            "evaluation)."
        )
    last = float(values[-1])
    if not (last >= 0 or last == process.clean) or not float(values[0]) <= process.horizon:
        raise ValueError(
            f"times must lie within [{process.clean:g}, {process.horizon}], got {float(values[0])} to "
            f"{float(values[-1])}."
        )
    return times
