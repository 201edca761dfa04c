"""Which plan a scheduler runs: its configuration and a budget, or given step boundaries, as times."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redrift.integrations._schedule import integer_grid, net_time, shifted
from redrift.process import Level, ScalarProcess
from redrift.solvers import SOLVERS, CleanEnd, Plan, plan_for, plan_on

INTEGERS = ("leading", "trailing", "linspace")
_RESIDUE = 0.02  # sigma / alpha: more noise than this is worth an evaluation to remove
_NEARLY = 0.999  # where methods on the noise begin on rectified flow, which has no signal at 1


@dataclass(frozen=True)
class Grids:
    """Makes plans from a configuration.

    Attributes:
        config: of a `PlanScheduler`.
        process: its process.
        predicts: what its network predicts.
    """

    config: Mapping[str, Any]
    process: ScalarProcess
    predicts: str

    def plan(self, name: str, value: Any, mu: float | None) -> Plan:  # noqa: ANN401
        """Return the plan of a budget or of given step boundaries."""
        if self.config["plan"] is not None:
            return self._given_plan(name, value)
        if name == "num_inference_steps":
            return self._flow_budget(value, mu) if self.predicts == "flow" else self._budget(value)
        if self.predicts == "flow":
            times = [v / net_time(self.config) if name == "timesteps" else v for v in value]
            times = times[:-1] if times[-1] == 0 else times
            grid = torch.tensor(times, dtype=torch.float64)
            return self._on(torch.cat((shifted(self.config, grid, mu), grid.new_zeros(1))), "zero")
        if name == "timesteps":
            return self._boundaries(list(value))
        times = [self._time_at(v) for v in value if v > 0]
        if value[-1] == 0:
            return self._on(
                torch.tensor([*times, self.process.clean], dtype=torch.float64), "zero"
            )
        return self._on(torch.tensor(times, dtype=torch.float64), "min")

    def _given_plan(self, name: str, value: Any) -> Plan:  # noqa: ANN401
        plan = Plan.from_json(json.dumps(dict(self.config["plan"])))
        if plan.process != self.process:
            raise ValueError(
                f"the plan was made for {plan.process.describe()} with other constants than this "
                f"scheduler's {self.process.describe()}: calibrate one on this model, or leave plan out."
            )
        if name != "num_inference_steps" or value != plan.evaluations:
            raise ValueError(
                f"the plan has a grid of its own with {plan.evaluations} evaluations, got {name}={value}: "
                f"ask for {plan.evaluations} inference steps, or leave plan out of the configuration."
            )
        return plan

    def _end(self) -> str:
        if self.config["end"] is not None:
            return self.config["end"]
        level = self.process.level(torch.tensor(0.0, dtype=torch.float64))
        return "min" if rho_of(level, self.predicts) <= _RESIDUE else "denoise"

    def _budget(self, evaluations: int) -> Plan:
        """Return a plan of at most that many evaluations on the discrete schedule."""
        config, spacing = self.config, self.config["spacing"]
        own = None if spacing in INTEGERS else spacing
        solver = "deis" if config["solver"] == "best" and spacing is not None else config["solver"]
        options: dict[str, Any] = {"end": self._end(), **(config["options"] or {})}
        plan = plan_for(
            self.process, evaluations, solver=solver, order=config["order"], spacing=own, **options
        )
        if spacing not in INTEGERS:
            return plan
        return self._on_integers(plan)

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
            rule = CleanEnd(rule, plan.wants)
        return plan.rebuilt([*values, self.process.clean], rule)

    def _flow_budget(self, evaluations: int, mu: float | None) -> Plan:
        """Return a plan on a uniform, then shifted grid from pure noise to clean data."""
        solver, order, options = self._flow_solver()
        probe = plan_for(
            self.process, evaluations, solver=solver, order=order, end="zero", **options
        )
        grid = torch.linspace(1, 0, probe.steps + 1, dtype=torch.float64)
        return probe.rebuilt(_begun(shifted(self.config, grid, mu), probe.wants))

    def _flow_solver(self) -> tuple[str, int | None, dict[str, Any]]:
        """Return the solver, its order and its options in a reading that begins without signal."""
        options, solver = dict(self.config["options"] or {}), self.config["solver"]
        if solver in ("best", "deis", "gddim"):
            return "deis", self.config["order"], {"wants": "v", **options}
        if solver == "ddim":
            return "deis", 1, {"wants": "x0", **options}
        return solver, self.config["order"], options

    def _boundaries(self, values: list[float]) -> Plan:
        """Return a plan whose steps begin at these network times."""
        end = "zero" if self.config["end"] is None and self._end() == "denoise" else self._end()
        if end == "zero" or values[-1] == 0:
            values, end = [*values, self.process.clean], "zero"
        else:
            values = [*values, 0.0]
        return self._on(torch.tensor(values, dtype=torch.float64), end)

    def _on(self, times: Tensor, end: str) -> Plan:
        """Return the configured solver's plan on step boundaries."""
        config = self.config
        solver, order, options = config["solver"], config["order"], dict(config["options"] or {})
        if self.predicts == "flow":
            solver, order, options = self._flow_solver()
            wants = "eps" if SOLVERS[solver].needs_signal else "x0"
            times = _begun(times, options.get("wants", wants))
        return plan_on(self.process, times, solver=solver, order=order, **{**options, "end": end})

    def _time_at(self, sigma: float) -> float:
        """Return the process time of a noise level sigma / alpha."""
        first, last = (torch.tensor(t, dtype=torch.float64) for t in self.process.interval)
        clock = torch.tensor(-math.log(sigma), dtype=torch.float64)
        for end in (first, last):
            if abs(float(clock - self.process.clock(end))) < 1e-3:
                return float(end)
        if not self.process.clock(first) < clock < self.process.clock(last):
            low, high = (math.exp(-float(self.process.clock(t))) for t in (last, first))
            raise ValueError(
                f"sigmas must lie within the schedule's {low:.4g} to {high:.4g}, got {sigma:g}; end with "
                "0 for clean samples."
            )
        return float(self.process.unclock(clock))


def _begun(times: Tensor, wants: str) -> Tensor:
    """Return flow times that begin with a little signal where the plan is made on the noise."""
    if wants == "eps" and float(times[0]) == 1:
        return torch.cat((times.new_tensor([_NEARLY]), times[1:]))
    return times


def rho_of(level: Level, predicts: str) -> float:
    """Return what diffusers calls sigma: the noise over the signal, the noise itself on flow."""
    signal, root = float(level.signal), float(level.root)
    return root if predicts == "flow" else root / signal


def is_default(sigmas: tuple[float, ...]) -> bool:
    """Say whether this is the grid that pipelines make when the user gave a number of steps."""
    n = len(sigmas)
    return all(abs(s - (1 - i / n)) < 1e-5 for i, s in enumerate(sigmas))
