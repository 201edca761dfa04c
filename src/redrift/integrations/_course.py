"""The course of a run: its program, what the network is told on the way, and where it may be entered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch

from redrift._core.errors import whole
from redrift.integrations._grids import Grids, is_default, monotone, rho_of, unshifted
from redrift.integrations._laws import law_of
from redrift.integrations._program import Program, compile_plan, enter
from redrift.process import Level
from redrift.solvers import Plan

Lists = Mapping[str, Sequence[float]]


class Course:
    """A budget, or given times or noise levels, made into a program; it changes only by what it caches.

    Args:
        config: of a `PlanScheduler`.
        budget: of evaluations, or None.
        lists: "timesteps", "sigmas" or both, from noise to data.
        mu: of dynamic shifting, or None.

    Attributes:
        law: the configuration's.
        program: of the whole run.
        times: what the network is told at each evaluation.
        reenters: whether a run that begins later gets a grid of its own: that of a budget does.
    """

    def __init__(
        self, config: Mapping[str, Any], budget: int | None, lists: Lists, mu: float | None
    ) -> None:
        self.law = law_of(config)
        self._grids, self._lists = Grids(config, self.law, mu), lists
        own = self._own(budget, lists)
        self.program = self._given(lists) if own is None else own
        self.times = self._told(self.program)
        self.reenters = own is not None and self._grids.has_own_grid
        self._entries: dict[int, tuple[Program, list[float]]] = {}

    @property
    def sigmas(self) -> list[float]:
        """Return the noise levels of the evaluations, and of the end."""
        levels = [step.level for step in self.program.instructions]
        levels.append(list(self.program.plan.rows)[-1].end)
        return [rho_of(level, self.law.predicts) for level in levels]

    def entry(self, i: int) -> tuple[Program, list[float]]:
        """Return the program and the times of a run that begins at evaluation i.

        On a grid of its own it enters where diffusers' own run would at this share of its steps, and
        spends the evaluations that are left; on given times the rows are made anew.
        """
        if i not in self._entries:
            count = len(self.program)
            if i and self.reenters:
                program = self._compiled(self._grids.later(i, count))
                self._entries[i] = program, self._told(program)
            else:
                self._entries[i] = enter(self.program, i), self.times[i:]
        return self._entries[i]

    def found(self, timestep: float) -> int:
        """Return the index at which a run begins whose first timestep this is.

        Raises:
            ValueError: if no evaluation is there.
        """
        starts = dict(enumerate(self.times))
        if self.reenters:
            starts = {i: times[0] for i, (_, times) in self._entries.items()}
            starts[0] = self.times[0]
        index = min(starts, key=lambda i: abs(starts[i] - timestep))
        if abs(starts[index] - timestep) > self.rounding:
            raise ValueError(
                f"step got timestep {timestep:g}, but evaluation 0 is at {self.times[0]:g}: steps come in "
                "the order of `timesteps`; to begin later, take timesteps[i:], or call set_begin_index first."
            )
        return index

    @property
    def rounding(self) -> float:
        """Return by how much a timestep may miss its evaluation: pipelines round to integers."""
        return 0.51 if abs(self.times[0]) >= 10 or len(self.times) == 1 else 1e-3

    def _compiled(self, plan: Plan) -> Program:
        return compile_plan(plan, self.law.predicts)

    def _own(self, budget: int | None, lists: Lists) -> Program | None:
        """Return the program of a budget: one that is given, or whose times or levels these are."""
        if budget is not None:
            return self._compiled(self._grids.budget(budget))
        name = "sigmas" if "sigmas" in lists else "timesteps"
        values = list(lists[name])
        if name == "sigmas" and self.law.predicts == "flow" and is_default(values):
            return self._compiled(self._grids.budget(len(values)))
        values = values[:-1] if name == "sigmas" and values[-1] == 0 else values
        try:
            program = self._compiled(self._grids.budget(len(values)))
        except ValueError:
            return None
        levels = [step.level for step in program.instructions]
        own = [rho_of(level, self.law.predicts) for level in levels]
        own = own if name == "sigmas" else self._told(program, alone=True)
        return (
            program
            if len(own) == len(values) and numpy.allclose(own, values, 1e-5, 1e-7)
            else None
        )

    def _given(self, lists: Lists) -> Program:
        """Return the program on given noise levels or times.

        Raises:
            ValueError: if they are not strictly monotone.
        """
        rising = bool(self._grids.config.get("invert_sigmas"))
        for name, values in lists.items():
            monotone(name, values, rising=rising and name == "timesteps")
        if "sigmas" in lists:
            return self._compiled(self._grids.on_sigmas(lists["sigmas"]))
        return self._compiled(self._grids.on_timesteps(lists["timesteps"]))

    def _told(self, program: Program, *, alone: bool = False) -> list[float]:
        """Return what the network is told: the law's times, or those that stand beside given sigmas."""
        levels: list[Level] = [step.level for step in program.instructions]
        times = torch.stack([level.t for level in levels])
        if alone or len(self._lists) < 2:
            return self.law.told(times).tolist()
        at = unshifted(self._grids.config, times, self._grids.mu).numpy()
        sigmas, told = (numpy.array(self._lists[name][::-1]) for name in ("sigmas", "timesteps"))
        beyond = 2 * told[-1] / sigmas[-1]
        return numpy.interp(at, [0, *sigmas, 2], [0, *told, beyond]).tolist()


def course_of(
    config: Mapping[str, Any], courses: dict[Any, Course], given: dict[str, Any], mu: float | None
) -> Course:
    """Return the course of `set_timesteps`' arguments; the last one is kept in `courses`.

    Raises:
        ValueError: if none is given, or a budget beside a list.
    """
    given = {name: value for name, value in given.items() if value is not None}
    budget = given.pop("num_inference_steps", None)
    if (budget is None) == (not given):
        raise ValueError(
            "give one of num_inference_steps, timesteps and sigmas (or the last two together), got "
            f"{', '.join(['num_inference_steps'] * (budget is not None) + [*given]) or 'none'}."
        )
    if budget is not None:
        whole("num_inference_steps", budget)
    lists = {name: tuple(float(v) for v in values) for name, values in given.items()}
    words = json.dumps(dict(config), default=str, sort_keys=True)
    key = (words, budget, tuple(lists.items()), mu)
    if key not in courses:
        course = Course(dict(config), budget, lists, mu)
        courses.clear()
        courses[key] = course
    return courses[key]
