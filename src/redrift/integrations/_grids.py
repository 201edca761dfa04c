"""Which plan a scheduler runs: its configuration and a budget, or given step boundaries, as times."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift.integrations._laws import HostLaw
from redrift.process import Level
from redrift.solvers import SOLVERS, CleanEnd, Plan, plan_for, plan_on
from redrift.solvers.ends import clean_end

INTEGERS = ("leading", "trailing", "linspace")
_RESIDUE = 0.02  # sigma / alpha: more noise than this is worth an evaluation to remove
_LAST = 0.01 / 1.01  # flow time at sigma / alpha = .01, the last but one of a fitted grid
_TOP = 150.0  # sigma / alpha where runs on the noise begin, for a state that is all noise


@dataclass(frozen=True)
class Grids:
    """Makes plans from a configuration.

    Attributes:
        config: of a `PlanScheduler`.
        law: its law.
        mu: of dynamic shifting, or None.
    """

    config: Mapping[str, Any]
    law: HostLaw
    mu: float | None

    @property
    def has_own_grid(self) -> bool:
        """Return whether budgets get a grid of their own, not that of a saved plan."""
        return self.config["plan"] is None

    def budget(self, evaluations: int, start: float | None = None) -> Plan:
        """Return the plan of at most so many evaluations, from a process time or from the top."""
        if self.config["plan"] is not None:
            return self._given_plan(evaluations)
        if evaluations == 1:
            top = self._top() if start is None else start
            return self._one_step(top)
        if self.law.predicts == "flow":
            return self._flow_budget(evaluations, start)
        return self._budget(evaluations, start)

    def later(self, i: int, count: int) -> Plan:
        """Return the plan of a run of `count` evaluations that begins at evaluation i."""
        spacing = self.config["spacing"]
        if spacing in INTEGERS and self.law.predicts != "flow":
            plan = self.on_timesteps(integer_grid(self.config, spacing, count)[i:])
            if plan.evaluations == count - i:
                return plan
        return self.budget(count - i, self._entry(i, count))

    def _entry(self, i: int, count: int) -> float:
        """Return the process time at which diffusers enters its run of `count` steps at step i."""
        if self.law.predicts == "flow":
            even = torch.tensor([1 - i / count], dtype=torch.float64)
            return float(self._moved(even))
        train = int(self.config["num_train_timesteps"])
        process = self.law.process
        told = (count - i - 1) * (train // count) + int(self.config["steps_offset"] or 0)
        share = told / train  # the same place on tables of another length
        first, last = process.interval
        return max(min(share * (first - last) / (1 - 1 / train) + last, first), last)

    def on_timesteps(self, told: Sequence[float]) -> Plan:
        """Return a plan whose evaluations, or steps, are where the network is told these times."""
        times = self.law.asked(torch.tensor(told, dtype=torch.float64))
        if self.law.predicts == "flow":
            return self._on_flow(times)
        end = "zero" if self.config["end"] is None and self._end() == "denoise" else self._end()
        last = self.law.process.interval[1]
        clean = end == "zero" or float(times[-1]) <= last
        tail = self.law.process.clean if clean else last
        return self._on(torch.cat((times, times.new_tensor([tail]))), "zero" if clean else end)

    def on_sigmas(self, sigmas: Sequence[float]) -> Plan:
        """Return a plan with steps at these noise levels; a last 0 ends there."""
        if self.law.predicts == "flow":
            return self._on_flow(torch.tensor(sigmas, dtype=torch.float64))
        times = [self._time_at(v) for v in sigmas if v > 0]
        end = "zero" if sigmas[-1] == 0 else "min"
        times += [self.law.process.clean] if end == "zero" else []
        return self._on(torch.tensor(times, dtype=torch.float64), end)

    # ------------------------------------------------------------------ discrete schedules

    def _given_plan(self, evaluations: int) -> Plan:
        plan = Plan.from_json(json.dumps(dict(self.config["plan"])))
        if not plan.process.agrees(self.law.process):
            raise ValueError(
                f"the plan was made for {plan.process.describe()} with other constants than this "
                f"scheduler's {self.law.process.describe()}: calibrate one on this model, or leave plan out."
            )
        if evaluations != plan.evaluations:
            raise ValueError(
                f"the plan has a grid of its own with {plan.evaluations} evaluations, got {evaluations}: "
                f"ask for {plan.evaluations} inference steps, or leave plan out of the configuration."
            )
        return plan

    def _end(self) -> str:
        if self.config["end"] is not None:
            return self.config["end"]
        level = self.law.process.level(self.law.process.interval[1])
        return "min" if rho_of(level, self.law.predicts) <= _RESIDUE else "denoise"

    def _top(self) -> float:
        """Return the time of the loudest level at which a run on the noise begins."""
        process = self.law.process
        first = 1.0 if self.law.predicts == "flow" else process.interval[0]
        return min(first, float(process.unclock(torch.tensor(-math.log(_TOP)).double())))

    def _one_step(self, start: float) -> Plan:
        times = torch.tensor([start, self.law.process.clean], dtype=torch.float64)
        return plan_on(self.law.process, times, solver="ddim", end="zero")

    def _budget(self, evaluations: int, start: float | None) -> Plan:
        """Return a plan of at most that many evaluations on the discrete schedule."""
        config, spacing = self.config, self.config["spacing"]
        integers = spacing in INTEGERS and start is None
        own = None if spacing in INTEGERS else spacing
        solver = config["solver"]
        if solver == "best" and (spacing is not None or config["order"] is not None):
            solver = "deis"
        options: dict[str, Any] = {"end": self._end(), **(config["options"] or {})}
        order = config["order"]
        if (
            start is not None and order is not None
        ):  # what is left of a run may be too short for it
            order = max(1, min(order, evaluations - (options["end"] != "min")))
        given: dict[str, Any] = {"spacing": own, "start": start, **options}
        try:
            plan = plan_for(self.law.process, evaluations, solver=solver, order=order, **given)
        except ValueError:
            if start is None:
                raise
            # what is left of a run is less than one step of this method
            given = {"spacing": own, "start": start, "end": options["end"]}
            plan = plan_for(self.law.process, evaluations, solver="ddim", **given)
        return self._on_integers(plan) if integers else plan

    def _on_integers(self, plan: Plan) -> Plan:
        """Return the plan on diffusers' own timesteps; from timestep 0 it goes to clean data."""
        tail = plan.times[plan.times <= 0].tolist()
        steps = len(plan.times) - len(tail)
        values, rule = integer_grid(self.config, self.config["spacing"], steps), plan.rule
        if values[-1] > 0 or tail[0] != 0:
            return plan.rebuilt([*values, *tail])
        if len(tail) == 2:
            values = integer_grid(self.config, self.config["spacing"], steps + 1)
        if not isinstance(rule, CleanEnd):
            assert rule is not None
            rule = clean_end(rule, self.law.process, plan.wants)
        return plan.rebuilt([*values, self.law.process.clean], rule)

    def _on(self, times: Tensor, end: str) -> Plan:
        """Return the configured solver's plan on step boundaries."""
        config = self.config
        options = {**(config["options"] or {}), "end": end}
        return plan_on(
            self.law.process, times, solver=config["solver"], order=config["order"], **options
        )

    def _time_at(self, sigma: float) -> float:
        """Return the process time of a noise level sigma / alpha."""
        process = self.law.process
        first, last = (torch.tensor(t, dtype=torch.float64) for t in process.interval)
        clock = torch.tensor(-math.log(sigma), dtype=torch.float64)
        for end in (first, last):
            if abs(float(clock - process.clock(end))) < 1e-3:
                return float(end)
        if not process.clock(first) < clock < process.clock(last):
            low, high = (math.exp(-float(process.clock(t))) for t in (last, first))
            raise ValueError(
                f"sigmas must lie within the schedule's {low:.4g} to {high:.4g}, got {sigma:g}; end with "
                "0 for clean samples."
            )
        return float(process.unclock(clock))

    # ------------------------------------------------------------------ rectified flow

    def _flow_budget(self, evaluations: int, start: float | None) -> Plan:
        """Return a plan to clean data: the fitted grid, or an even one, moved by the shift."""
        solver, order, options = self._flow_solver()
        top = 1.0 if start is None else float(unshifted(self.config, _tensor(start), self.mu))
        if solver == "best":
            first = None if start is None else top
            plan = plan_for(
                self.law.process, evaluations, solver="best", start=first, stop=_LAST, end="zero"
            )
            return plan.rebuilt(self._moved(plan.times))
        probe = plan_for(
            self.law.process, evaluations, solver=solver, order=order, end="zero", **options
        )
        grid = torch.linspace(top, 0, probe.steps + 1, dtype=torch.float64)
        return probe.rebuilt(self._begun(self._moved(grid), probe.wants))

    def _flow_solver(self) -> tuple[str, int | None, dict[str, Any]]:
        """Return the solver, its order and its options; multistep ones in a reading without signal."""
        options, solver = dict(self.config["options"] or {}), self.config["solver"]
        order = self.config["order"]
        if solver == "best" and order is None:
            return "best", None, options
        if solver in ("best", "deis", "gddim"):
            return "deis", order, {"wants": "v", **options}
        if solver == "ddim":
            return "deis", 1, {"wants": "x0", **options}
        return solver, order, options

    def _on_flow(self, times: Tensor) -> Plan:
        """Return the configured solver's plan on given flow times, to clean data."""
        times = times[:-1] if float(times[-1]) == 0 else times
        solver, order, options = self._flow_solver()
        on_noise = solver == "best" or SOLVERS[solver].needs_signal
        wants = options.get("wants", "eps" if on_noise else "x0")
        times = self._begun(self._moved(torch.cat((times, times.new_zeros(1)))), wants)
        options = {**options, "end": "zero"}
        return plan_on(self.law.process, times, solver=solver, order=order, **options)

    def _moved(self, times: Tensor) -> Tensor:
        """Return flow times moved as the model asks: shifted, then stretched to their terminal."""
        times = shifted(self.config, times, self.mu)
        terminal = self.config["shift_terminal"]
        if not terminal or not bool((times > 0).any()):
            return times
        last = times[times > 0][-1]
        stretched = 1 - (1 - times) * (1 - terminal) / (1 - last)
        return torch.where(times > 0, stretched, times)

    def _begun(self, times: Tensor, wants: str) -> Tensor:
        """Return flow times that begin with a little signal where the plan is made on the noise."""
        if wants == "eps" and float(times[0]) > self._top():
            return torch.cat((times.new_tensor([self._top()]), times[1:]))
        return times


def _tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _shift(config: Mapping[str, Any], mu: float | None) -> float:
    """Return the shift s of flow times.

    Raises:
        ValueError: if dynamic shifting is on and no mu is given.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift") or 1.0)
    if mu is None:
        raise ValueError(
            "use_dynamic_shifting=True needs mu=, which the pipeline computes from the picture's "
            "size: pass it to set_timesteps, or set use_dynamic_shifting=False."
        )
    kind = choose("time_shift_type", config.get("time_shift_type"), ("exponential", "linear"))
    return math.exp(mu) if kind == "exponential" else float(mu)


def shifted(config: Mapping[str, Any], times: Tensor, mu: float | None) -> Tensor:
    """Return flow times moved towards the noise, as larger pictures need: s t / (1 + (s - 1) t).

    s is `shift`, or under dynamic shifting exp(mu) ("exponential") or mu ("linear").
    """
    s = _shift(config, mu)
    return s * times / (1 + (s - 1) * times)


def unshifted(config: Mapping[str, Any], times: Tensor, mu: float | None) -> Tensor:
    """Invert `shifted`."""
    s = _shift(config, mu)
    return times / (s - (s - 1) * times)


def integer_grid(config: Mapping[str, Any], spacing: str, steps: int) -> list[float]:
    """Return diffusers' own integer timesteps: "leading", "trailing" or "linspace"."""
    count = int(config["num_train_timesteps"])
    if spacing == "linspace":
        found = torch.linspace(0, count - 1, steps, dtype=torch.float64).round().flip(0)
    elif spacing == "leading":
        found = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (count // steps)
        found += float(config.get("steps_offset") or 0)
    else:
        found = torch.arange(count, 0, -count / steps, dtype=torch.float64).round() - 1
    return found.tolist()


def monotone(name: str, values: Sequence[float], *, rising: bool = False) -> list[float]:
    """Return the values as floats.

    Raises:
        ValueError: if they are empty, not finite or not strictly monotone.
    """
    found = [float(v) for v in values]
    for a, b in itertools.pairwise(found):
        if (b <= a) if rising else (b >= a):
            raise ValueError(
                f"{name} must {'rise' if rising else 'decrease'} strictly, but {a:g} is followed by {b:g}: "
                "sort them from noise to data and remove repeated ones."
            )
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"{name} must be a list of finite numbers, got {values!r}.")
    return found


def rho_of(level: Level, predicts: str) -> float:
    """Return what diffusers calls sigma: the noise over the signal, the noise itself on flow."""
    return float(level.root) if predicts == "flow" else level.sigma


def is_default(sigmas: Sequence[float]) -> bool:
    """Say whether this is an even grid such as pipelines make when the user gave a number of steps."""
    n = len(sigmas)
    last = sigmas[-1]
    even = all(abs(s - (1 + (last - 1) * i / max(n - 1, 1))) < 1e-3 for i, s in enumerate(sigmas))
    return even and abs(sigmas[0] - 1) < 1e-6 and last <= 1 / n + 1e-6
