r"""Training a control: phases of losses, a buffer of samples, an average, a state that resumes to the bit.

Everything random comes from one generator whose state is part of the checkpoint, and the schedule
depends on the iteration alone, so a killed and resumed fit under `iterations` equals the uninterrupted
one. Under `seconds` the schedule follows the processor's time and is not reproducible.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from redrift._core.errors import NumericalError, whole
from redrift._core.files import read_safetensors, write_atomically
from redrift.control.buffer import DRAWN, KEPT, Pool, draw_terminal, hmc_moves
from redrift.control.nets import Control
from redrift.control.objective import (
    BRIDGED,
    NetDrift,
    bridge_tables,
    bridged_loss,
    simulated_loss,
)
from redrift.control.options import Buffer, Checkpoint, History, Objective, Optimiser
from redrift.control.problem import ControlProblem
from redrift.control.store import part
from redrift.measure import Weights

_FORMAT = "redrift-fit-2"
_SETTLED = 0.15  # share of the budget after which the control's own samples enter the buffer
_AVERAGED = 4  # iterations between two updates of the average


class Training:
    """Hold the state of one fit: networks, optimiser, buffer and generator.

    Args:
        problem: to solve.
        net: trained in place.
        objective: what is minimised.
        optimiser: how.
        buffer: how the samples of the target are refreshed.
        generator: of everything random; advanced.
        terminal: samples of the target in the problem's coordinates (M, dim), or None.
        coordinates: tensors that a checkpoint keeps along.
    """

    def __init__(
        self,
        problem: ControlProblem,
        net: Control,
        objective: Objective,
        optimiser: Optimiser,
        buffer: Buffer,
        generator: torch.Generator,
        terminal: Tensor | None = None,
        coordinates: dict[str, Tensor] | None = None,
    ) -> None:
        self.coordinates = coordinates or {}
        self.problem, self.net, self.generator = problem, net, generator
        self.objective, self.adam, self.buffer = objective, optimiser, buffer
        self.average = copy.deepcopy(net).requires_grad_(False)
        weight = net.last.weight
        self.dtype = weight.dtype
        self.mixing = torch.zeros(
            problem.reference.steps, problem.dim, dtype=self.dtype, requires_grad=True
        )
        self.constant = torch.zeros((), dtype=self.dtype, requires_grad=True)
        self.parameters = list(net.parameters())
        self.optimiser = torch.optim.Adam(
            [
                {"params": self.parameters, "lr": optimiser.lr},
                {"params": [self.mixing], "lr": 0.02},
                {"params": [self.constant], "lr": 0.05},
            ],
            betas=(0.9, 0.99),
            fused=True,
        )
        # an optimiser without state would make one at the first step: a checkpoint needs its shape
        for group in self.optimiser.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        self.optimiser.step()
        self.terminal = None if terminal is None else terminal.to(self.dtype)
        self.scores = None if self.terminal is None else problem.ratio_score(self.terminal)
        self.tables = bridge_tables(problem, self.dtype)
        self.pool = Pool(problem)
        self.iteration = 0

    def step(self, done: float) -> float:
        """Make one iteration at a share `done` of the budget and return the loss."""
        kind, progress, index = self.objective.phase(done)
        self._rate(progress, index)
        if kind in BRIDGED:
            self._refresh(kind, done)
            assert self.terminal is not None
            assert self.scores is not None
            pick = torch.randint(
                0, len(self.terminal), (self.objective.points,), generator=self.generator
            )
            loss = bridged_loss(
                kind, self.problem, self.net, self.terminal[pick], self.scores[pick], self.mixing,
                self.tables, generator=self.generator,
            )  # fmt: skip
        else:
            loss, _, _ = simulated_loss(
                kind, self.problem, self.net, self.objective.batch, constant=self.constant,
                explore=self.objective.explore * (1 - progress), detach=self.objective.detach,
                checkpoint=self.objective.recompute, generator=self.generator,
            )  # fmt: skip
        self.optimiser.zero_grad(set_to_none=False)
        loss.backward()
        size = torch.nn.utils.clip_grad_norm_(self.parameters, self.adam.clip)
        if not bool(torch.isfinite(size)):
            raise NumericalError(
                f"the gradient of loss {kind!r} is not finite at iteration {self.iteration}: lower "
                "lr or clip, take more steps, or check log_prob far out.",
                step=self.iteration,
                time=done,
            )
        self.optimiser.step()
        self._follow()
        self.iteration += 1
        return float(loss.detach())

    def _rate(self, progress: float, index: int) -> None:
        if self.adam.decay == "epoch":
            factor = 0.95 ** (self.iteration // 50)
        else:
            warm = min(1.0, (self.iteration + 1) / 50)
            factor = warm * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        self.optimiser.param_groups[0]["lr"] = (
            self.adam.lr * factor * (self.adam.later if index else 1.0)
        )

    def _follow(self) -> None:
        if self.iteration % _AVERAGED:
            return
        decay = min(self.adam.ema**_AVERAGED, self.iteration / (self.iteration + 10))
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.parameters, strict=True):
                mine.lerp_(theirs, 1 - decay)

    def _refresh(self, kind: str, done: float) -> None:
        """Refresh the samples: the control's own for adjoint matching, reweighted and moved ones else."""
        every = self.buffer.refresh or (50 if kind == "am" else 0)
        if self.terminal is not None and (every == 0 or self.iteration % every):
            return
        if kind == "am":
            net = self.average if self.iteration > 400 else self.net
            x, _ = draw_terminal(self.problem, net, DRAWN, self.generator)
            kept = x if self.terminal is None else torch.cat([self.terminal, x])[-KEPT:]
            self.terminal, self.scores = kept, self.problem.ratio_score(kept)
            return
        if self.terminal is None:
            raise ValueError(
                f"loss {kind!r} needs samples of the target: pass buffer=Buffer(samples=...)."
            )
        if not self.iteration:
            return
        buffer, g = self.buffer, self.generator
        if buffer.on_policy and done > _SETTLED:
            self.terminal = self.pool.renew(self.terminal, self.average, buffer.on_policy, g)
        if buffer.moves:
            self.terminal = hmc_moves(self.problem, self.terminal, buffer.moves, g)
        self.scores = self.problem.ratio_score(self.terminal)

    def glance(self, paths: int = 256) -> tuple[float, float]:
        """Return ELBO and ESS of a few paths, from a generator of its own."""
        g = torch.Generator().manual_seed(self.iteration)
        with torch.no_grad():
            drift = NetDrift(self.problem, self.average)
            _, log_w, _ = self.problem.simulate(drift, paths, dtype=self.dtype, generator=g)
        return float(log_w.mean()), float(Weights(log_w).ess)

    def save(self, path: str | os.PathLike[str], total: int | None) -> None:
        """Write the state, whole or not at all."""
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, state in enumerate(self.optimiser.state_dict()["state"].values()):
            tensors |= {f"adam.{i}.{k}": v for k, v in state.items()}
        tensors |= {"mixing": self.mixing.detach(), "constant": self.constant.detach()}
        tensors["generator"] = self.generator.get_state()
        tensors |= {f"at.{k}": v for k, v in self.coordinates.items()}
        if self.terminal is not None:
            tensors["terminal"] = self.terminal
        tensors |= self.pool.tensors()
        tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
        metadata = {
            "format": _FORMAT,
            "iteration": str(self.iteration),
            "total": json.dumps(total),
            "options": json.dumps(self._options()),
            "net": json.dumps(self.net.config),
        }
        write_atomically(path, lambda target: save_file(tensors, target, metadata))

    def _options(self) -> list[Any]:
        """Return what a resumed training has to have in common with the one before."""
        refresh = (self.buffer.refresh, self.buffer.on_policy, self.buffer.moves)
        return [asdict(self.objective), asdict(self.adam), refresh]

    def load(self, path: str | os.PathLike[str], total: int | None) -> None:
        """Take over a state of `save`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged, or of another network, options or budget.
        """
        metadata, tensors = read_safetensors(path, _FORMAT, "checkpoint")
        for name, own in (
            ("net", self.net.config), ("options", self._options()), ("total", total),
        ):  # fmt: skip
            theirs = json.loads(metadata[name])
            if json.loads(json.dumps(own)) != theirs:
                raise ValueError(
                    f"the checkpoint {path} is of another {name}: {theirs}, here {own}. Resume "
                    "with the arguments of the first call, or use another file."
                )
        self.net.load_state_dict(part(tensors, "net."))
        self.average.load_state_dict(part(tensors, "average."))
        state = self.optimiser.state_dict()
        for i in state["state"]:
            state["state"][i] = part(tensors, f"adam.{i}.")
        self.optimiser.load_state_dict(state)
        with torch.no_grad():
            self.mixing.copy_(tensors["mixing"])
            self.constant.copy_(tensors["constant"])
        self.generator.set_state(tensors["generator"])
        if "terminal" in tensors:
            self.terminal = tensors["terminal"]
            self.scores = self.problem.ratio_score(self.terminal)
        self.pool.take(tensors)
        self.iteration = int(metadata["iteration"])


def run(
    training: Training,
    *,
    iterations: int | None,
    seconds: float | None,
    checkpoint: Checkpoint | None = None,
    every: int = 500,
    progress: bool = False,
    callback: Any = None,  # noqa: ANN401
    spent: float = 0.0,
) -> History:
    """Run a training to the end of its budget; arguments as `PIS.fit`."""
    check_budget(iterations, seconds)
    if checkpoint is not None and checkpoint.resume and Path(checkpoint.path).is_file():
        training.load(checkpoint.path, iterations)
    bar = _bar(iterations, progress)
    watched = bar is not None or callback is not None
    history, began = History(training.iteration), time.process_time() - spent
    while True:
        elapsed = time.process_time() - began
        done = elapsed / seconds if seconds is not None else training.iteration / (iterations or 1)
        if done >= 1:
            break
        loss = training.step(done)
        if bar is not None:
            bar.update(1)
        if training.iteration % every == 0:
            if watched:
                _report(training, history, done, loss, bar, callback)
            if checkpoint is not None:
                training.save(checkpoint.path, iterations)
    if bar is not None:
        bar.close()
    if checkpoint is not None:
        training.save(checkpoint.path, iterations)
    history.iterations, history.seconds = training.iteration, time.process_time() - began
    return history


def coordinates(checkpoint: Checkpoint | None) -> dict[str, Tensor]:
    """Return the tensors that a checkpoint keeps along, if one is resumed."""
    if checkpoint is None or not checkpoint.resume or not Path(checkpoint.path).is_file():
        return {}
    return part(read_safetensors(checkpoint.path, _FORMAT, "checkpoint")[1], "at.")


def check_budget(iterations: int | None, seconds: float | None) -> None:
    """Refuse a budget that is none, or two."""
    if (iterations is None) == (seconds is None):
        raise ValueError("give either iterations or seconds, and not both.")
    if iterations is not None:
        whole("iterations", iterations)
    elif not (seconds or 0) > 0:
        raise ValueError(f"seconds must be > 0, got {seconds}.")


def _report(
    training: Training,
    history: History,
    done: float,
    loss: float,
    bar: Any,  # noqa: ANN401
    callback: Any,  # noqa: ANN401
) -> None:
    elbo, ess = training.glance()
    row = {
        "iteration": training.iteration, "loss": training.objective.phase(done)[0], "value": loss,
        "elbo": elbo, "ess": ess,
    }  # fmt: skip
    history.rows.append(row)
    if bar is not None:
        bar.set_postfix(ELBO=f"{elbo:.3f}", ESS=f"{ess:.2f}")
    if callback is not None:
        callback(row)


def _bar(iterations: int | None, show: bool) -> Any:  # noqa: ANN401
    if not show:
        return None
    from tqdm import tqdm

    return tqdm(total=iterations, unit="it")
