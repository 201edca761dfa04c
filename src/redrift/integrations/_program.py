r"""A plan as a program for hosts that own the loop: what to compute after each network output.

A host such as diffusers calls the network itself and hands its output and the state over, one
evaluation at a time. `compile_plan` turns a plan into one list of moves for every evaluation: sums
of the row's first state, earlier predictions and this one, with Python numbers as weights. The
conversion from what the network predicts to what the plan wants is folded in:
$e = P z + Q o = P\,(z + (Q/P)\,o)$, so that a prediction is kept as $z + (Q/P)\,o$ (or as the output
itself where P = 0) and P goes into the weights. A step of order 3 then takes at most five tensor
operations, and none of them waits for the device.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from redrift.process import Level, Process
from redrift.process.base import Wants
from redrift.process.convert import mix
from redrift.solvers import FirstEvaluation, Plan, Row, StartUp
from redrift.solvers.loop import Ask, NextState, Transition, walk
from redrift.solvers.multistep import single

Noise = Callable[[Tensor], Tensor]
_STATE = -1  # slot of the state at the start of the row; predictions have the index of their ask


class Combination(NamedTuple):
    """One linear combination.

    Attributes:
        weights: (slot, weight) pairs.
        noise: weight of fresh noise, 0 for none.
        state: whether the result becomes the row's first state.
    """

    weights: tuple[tuple[int, float], ...]
    noise: float
    state: bool


@dataclass(frozen=True)
class Instruction:
    """What follows one evaluation.

    Attributes:
        level: where the network is asked.
        fresh: whether it is asked at the row's first state, so that the state the host hands over is
            it.
        ratio: Q / P of the prediction that is kept, or None where it is the output itself.
        moves: run in order; the result of the last is the host's next state.
        forget: predictions that nothing uses after this.
        lasts: whether the row's first state, if it is handed over here, is used after the next one.
    """

    level: Level
    fresh: bool
    ratio: float | None
    moves: tuple[Combination, ...]
    forget: tuple[int, ...]
    lasts: bool


@dataclass
class Run:
    """State of one run of a program: plain data, so that it can be copied.

    A host may hand outputs over in memory that it fills again. The first outputs are copied and held, so
    that the allocator gives their memory to nobody else: if an address comes back, all are copied.
    """

    state: Tensor | None = None
    kept: dict[int, Tensor] = field(default_factory=dict)
    held: list[Tensor] = field(default_factory=list)
    reused: bool | None = None

    def own(self, output: Tensor, span: int) -> Tensor:
        """Return an output in memory of its own; no output is used later than `span` evaluations on."""
        if self.reused is None:
            address = output.untyped_storage().data_ptr()
            if any(address == before.untyped_storage().data_ptr() for before in self.held):
                self.reused, self.held = True, []
            elif len(self.held) >= span:
                self.reused, self.held = False, []
            else:
                self.held.append(output)
                return output.clone()
        return output.clone() if self.reused else output


@dataclass(frozen=True)
class Program:
    """A plan compiled for one kind of network output.

    Attributes:
        plan: what was compiled.
        predicts: what the network returns.
        instructions: one for each evaluation.
    """

    plan: Plan
    predicts: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def span(self) -> int:
        """Return how many evaluations later an output is used at most."""
        gaps = (
            i - slot
            for i, step in enumerate(self.instructions)
            for move in step.moves
            for slot, _ in move.weights
            if slot != _STATE
        )
        return max(gaps, default=0)

    def __len__(self) -> int:
        """Return the number of evaluations."""
        return len(self.instructions)

    def advance(self, run: Run, i: int, output: Tensor, sample: Tensor, noise: Noise) -> Tensor:
        """Take evaluation i's output at `sample` and return where the next one is asked.

        Args:
            run: state of this run, changed in place.
            i: index of the evaluation.
            output: of the network, of the sample's shape and dtype.
            sample: the state it was asked at.
            noise: gives fresh noise like a tensor.
        """
        step = self.instructions[i]
        if step.fresh:
            run.state = sample.clone() if step.lasts else sample
        if step.ratio is not None:
            run.kept[i] = torch.add(sample, output, alpha=step.ratio)
        else:
            run.kept[i] = output if i in step.forget else run.own(output, self.span)
        result = sample
        for move in step.moves:
            result = self._combine(move, run)
            if move.noise:
                result.add_(noise(result), alpha=move.noise)
            if move.state:
                run.state = result
        for slot in step.forget:
            del run.kept[slot]
        return result

    @staticmethod
    def _combine(move: Combination, run: Run) -> Tensor:
        (first, weight), *rest = move.weights
        state = run.state
        assert state is not None
        out = torch.mul(state if first == _STATE else run.kept[first], weight)
        for slot, factor in rest:
            out.add_(state if slot == _STATE else run.kept[slot], alpha=factor)
        return out


def compile_plan(plan: Plan, predicts: str, rows: Sequence[Row] | None = None) -> Program:
    """Compile a plan of a process with one noise level.

    Args:
        plan: what to compile.
        predicts: what the network returns, a prediction of `Denoiser`.
        rows: in place of the plan's own, see `enter`.

    Raises:
        ValueError: if the plan has tables per frequency or block, begins with a row that asks for
            nothing (churn), or asks below its start where the state would have to be scaled
            (processes that do not preserve the variance): a host's loop cannot run these.
    """
    process = plan.process
    if process.k > 1 or process.modes:
        raise ValueError(
            f"a scheduler needs a process with one noise level, got {process.describe()}."
        )
    if rows is None and plan.skips_start and not _asks_at_its_start(plan.rows[0]):
        raise ValueError(
            f"the plan {plan.name!r} asks below its start, at a state scaled from it, which a host's loop "
            "cannot hand over; leave first_sigma out on processes that do not preserve the variance."
        )
    rows = list(plan.rows) if rows is None else list(rows)
    if not (rows[0].asks and _asks_at_its_start(rows[0])):
        raise ValueError(
            f"the plan {plan.name!r} begins with a row that asks the network for nothing, or not at the "
            "state it starts from; a host's loop begins with an evaluation: leave churn out."
        )
    recorder = _Recorder(process, predicts, plan.wants)
    recorder.record(rows, plan.history)
    return Program(plan, predicts, tuple(recorder.instructions()))


class _Recorder:
    """Walks rows with slots in place of states, and writes down every sum.

    A state is the slot of a prediction, the index of its evaluation, or a `Combination` that the host's next
    state is made of.
    """

    def __init__(self, process: Process, predicts: str, wants: Wants) -> None:
        self.process, self.predicts, self.wants = process, predicts, wants
        self.levels: list[Level] = []
        self.pairs: list[tuple[float, float]] = []
        self.fresh: list[bool] = []
        self.moves: list[list[Combination]] = []
        self.state: Any = _STATE

    def record(self, rows: Sequence[Row], history: int) -> None:
        """Walk the rows, answering each question with the slot of its prediction."""
        steps: Any = walk(rows, _STATE, history=history, done=self._done, add=self._sum)  # pyright: ignore
        answer: Any = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration:
                return
            answer = self._ask(request) if isinstance(request, Ask) else self._draw(request)

    def _ask(self, request: Ask) -> int:
        fresh = request.z is self.state or not self.moves
        if not fresh:  # the state of a stage is what the host is handed
            self.moves[-1].append(request.z)  # pyright: ignore[reportArgumentType]
        self.fresh.append(fresh)
        self.levels.append(request.level)
        self.pairs.append(mix(self.process, request.level, self.predicts, self.wants))
        self.moves.append([])
        return len(self.levels) - 1

    def _draw(self, law: Transition) -> NextState:
        move: Any = law.mean
        return NextState(move._replace(noise=float(law.scale)))

    def _done(self, index: int, row: Row, state: Any) -> None:  # noqa: ANN401
        self.state = state
        self.moves[-1].append(state._replace(state=True))

    def _sum(self, terms: Iterable[tuple[Any, Any]], modes: tuple[int, ...] = ()) -> Combination:
        """Return the combination, of the row's first state and earlier predictions."""
        weights: list[tuple[int, float]] = []
        for weight, slot in terms:
            if weight is None:
                continue
            if slot is self.state:
                weights.append((_STATE, float(weight)))
            else:
                P, Q = self.pairs[slot]
                weights.append((slot, float(weight) * (P or Q)))
        kept = tuple((slot, weight) for slot, weight in weights if weight)
        return Combination(kept or tuple(weights[:1]), 0.0, False)

    def instructions(self) -> Iterator[Instruction]:
        """Put the parts together, and say when each prediction is no longer needed."""
        used = {i: i for i in range(len(self.levels))}
        for i, several in enumerate(self.moves):
            for move in several:
                used.update({slot: i for slot, _ in move.weights if slot != _STATE})
        for i, level in enumerate(self.levels):
            P, Q = self.pairs[i]
            forget = tuple(slot for slot, end in used.items() if end == i)
            ratio = Q / P if P else None
            lasts = not all(self.fresh[i + 1 : i + 2])
            yield Instruction(level, self.fresh[i], ratio, tuple(self.moves[i]), forget, lasts)


def enter(program: Program, i: int) -> Program:
    """Return the program of a run that begins at evaluation i, its rows made anew.

    At a step boundary these are the rows of `plan.start`. Inside a step, whose stages cannot be
    continued without its beginning, the rest of the step becomes steps of order 1 between the
    remaining evaluations' levels: the host has already decided where the network is asked.

    Args:
        program: of the whole run.
        i: index of the evaluation, 0 to len(program) - 1.
    """
    if i == 0:
        return program
    plan = program.plan.without(StartUp, FirstEvaluation)
    left = len(program) - i
    to_come = [step.level for step in program.instructions[i:]]
    for j in range(1, plan.steps):
        rest = plan.start(j)
        lead = left - rest.evaluations
        if lead >= 0:
            boundary = rest.rows[0].start
            rows = _singles(plan, [*to_come[:lead], boundary] if lead else [])
            return compile_plan(rest, program.predicts, [*rows, *rest.rows])
    rows = _singles(plan, [*to_come, list(plan.rows)[-1].end])
    return compile_plan(plan, program.predicts, rows)


def _singles(plan: Plan, levels: Sequence[Level]) -> list[Row]:
    """Return steps of order 1 between levels; between two equal ones the state is kept as it is."""
    rows: list[Row] = []
    for here, there in itertools.pairwise(levels):
        if torch.equal(here.t, there.t):
            one = torch.ones_like(here.signal)
            rows.append(Row(here, here, (here,), (one, one), ((), (None,))))
        else:  # what it keeps is older than anything the rows that follow ask for
            rows.append(single(plan.process, plan.wants, here, there))
    return rows


def _asks_at_its_start(row: Row) -> bool:
    """Say whether the first state that is asked at is the one the row starts from."""
    first = row.weights[0]
    return row.fresh or (len(first) == 1 and abs(float(first[0]) - 1) < 1e-9)  # pyright: ignore
