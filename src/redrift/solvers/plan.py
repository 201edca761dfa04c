"""Plans: a sampler as data; `redrift.solvers.loop` is the one loop body that walks it."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.files import write_atomically
from redrift.process import PREDICTIONS, Process
from redrift.process.base import Wants
from redrift.solvers import store
from redrift.solvers.ends import CleanEnd, End, clean_end
from redrift.solvers.layers import Layer, layers, without
from redrift.solvers.papers import bibtex
from redrift.solvers.response import responses
from redrift.solvers.row import Row, Rows, Rule

_LOUDEST = 1e5  # sigma / alpha up to which a plan on the noise may start


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
            rule = clean_end(rule, process, wants)
            check_times(process, times)
        whole("order", order)
        history = order - 1 if history is None else history
        if history > len(times) - 2:
            raise ValueError(
                f"order={order} needs at least {order} steps, the grid has {len(times) - 1}; "
                "lower the order or use a finer grid."
            )
        start = process.level(times[0].detach())
        process.reading(start, wants)
        if wants == "eps" and start.sigma > _LOUDEST and not process.modes:
            raise ValueError(
                f"a plan that wants 'eps' cannot start at t={float(times[0]):g}, where sigma / alpha is "
                f"{start.sigma:.1e} and errors of the prediction grow as much; start the grid below "
                f"{_LOUDEST:.0e} (rd.timegrid does), or use res or dpmpp, which want 'x0'."
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
    def skips_start(self) -> bool:
        """Return whether the first evaluation is within the first step, not at its start."""
        first = self.rows[0].asks[:1]
        return bool(first) and bool(first[0].t != self.times[0])

    def error_gain(self, predicts: str = "eps") -> float:
        r"""Return how much a network's errors count in the sample: $\sqrt{\sum_j r_j^2}$.

        With r_j the response of the sample to an error of unit size in evaluation j, for standard normal
        data of scale sigma_data. DDIM's, `plan_for(process, n, solver="ddim").error_gain()`, is a measure to
        compare with.

        Args:
            predicts: what the network predicts, and so has its errors in, as in `Denoiser`.

        Raises:
            ValueError: if the process has more than one noise level, or the prediction does not
                determine what the plan wants.
        """
        choose("predicts", predicts, PREDICTIONS)
        found = responses(self.process, self.rows, self.wants, self.history, predicts)
        return float(found.norm())

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

    def without(self, *kinds: type) -> Plan:
        """Return the plan without the layers of these kinds around its rule; itself if it has none.

        Args:
            kinds: such as `solvers.StartUp` or `solvers.UniC`.
        """
        rule = without(self.rule, *kinds)
        return self if rule is self.rule else self.rebuilt(rule=rule)

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
        found = [layer for layer in layers(self.rule) if isinstance(layer, Layer)]
        notes = [note for layer in reversed(found) if (note := layer.describe(self.rows))]
        parts = (self.name, "".join((counts, *(f" ({note})" for note in notes))))
        return " | ".join((*parts, self.process.describe(), noise))

    def cite(self) -> str:
        """Return the BibTeX of the papers whose methods the plan uses."""
        return bibtex(self.papers)

    def to_json(self) -> str:
        """Return the plan as a JSON object: its rule, times and process, never the rows.

        Raises:
            ValueError: if its rule or process is the user's own and not registered.
        """
        return store.dump(
            self.rule, self.process, times=self.times.tolist(), wants=self.wants, history=self.history,
            order=self.order, name=self.name, papers=list(self.papers), stochastic=self.stochastic,
        )  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Rebuild a plan from `to_json`: its tables are equal bit for bit.

        Raises:
            ValueError: if the text is not a plan of this format.
        """
        return cls.build(**store.parse(text))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all."""
        text = self.to_json()
        write_atomically(path, lambda target: Path(target).write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a file of `save`."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


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
