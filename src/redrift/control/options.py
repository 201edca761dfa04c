"""How a control is trained, one object for each concern, and what a training did."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.control.objective import BRIDGED, SIMULATED

Losses = str | Sequence[str] | Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Architecture:
    """State the control's network.

    Attributes:
        width: of the hidden layers.
        depth: hidden layers after the first.
        gradient: let the control see the target's gradient (PIS-Grad). Without it modes are lost.
        spread: bound on the log of the learned step variance; 0 holds it fixed.
        clip: largest norm of the target's gradient that the control sees.
        dtype: of network and samples.
        seed: of the first parameters.
    """

    width: int = 96
    depth: int = 2
    gradient: bool = True
    spread: float = 2.0
    clip: float = 100.0
    dtype: torch.dtype = torch.float32
    seed: int = 0


@dataclass(frozen=True)
class Objective:
    """State what is minimised, and on how many samples.

    Attributes:
        loss: kl, kl-stl, lv, tb, am, bm or mixed (see `objective`), several for phases of equal share of
            the budget, or (loss, share) pairs whose shares sum to 1.
        batch: simulated paths an iteration ("kl", "kl-stl", "lv", "tb").
        points: bridge points an iteration ("am", "bm", "mixed").
        explore: standard deviation that simulated paths add to the noise, as a share of the noise's own;
            it falls to 0 over the phase ("lv", "tb").
        detach: hold the target's gradient fixed in "kl" and "kl-stl" (no second derivatives).
        recompute: recompute steps in "kl-stl" on the way back instead of keeping their graph.
    """

    loss: Losses = "mixed"
    batch: int = 256
    points: int = 2048
    explore: float = 0.0
    detach: bool = True
    recompute: bool = False

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for loss, share in self.phases:
            choose("loss", loss, (*SIMULATED, *BRIDGED))
            if not 0 < share <= 1:
                raise ValueError(f"the share of phase {loss!r} must be in (0, 1], got {share}.")
        if not self.phases or abs(sum(share for _, share in self.phases) - 1) > 1e-9:
            raise ValueError(f"the shares of the phases must sum to 1, got {self.phases}.")
        whole("batch", self.batch, least=2)
        whole("points", self.points)
        if not self.explore >= 0:
            raise ValueError(f"explore must be at least 0, got {self.explore}.")

    @property
    def phases(self) -> tuple[tuple[str, float], ...]:
        """Return (loss, share of the budget) one after the other."""
        if isinstance(self.loss, str):
            return ((self.loss, 1.0),)
        items = list(self.loss)
        if all(isinstance(item, str) for item in items):
            return tuple((str(item), 1 / len(items)) for item in items)
        return tuple((str(item[0]), float(item[1])) for item in items)

    @property
    def needs_samples(self) -> bool:
        """Return whether a phase learns from samples of the target."""
        return any(loss in ("bm", "mixed") for loss, _ in self.phases)

    def phase(self, done: float) -> tuple[str, float, int]:
        """Return loss, progress within the phase in [0, 1) and index at a share of the budget."""
        start, phases = 0.0, self.phases
        for i, (loss, share) in enumerate(phases):
            if done < start + share or i == len(phases) - 1:
                return loss, min(1.0, (done - start) / share), i
            start += share
        raise AssertionError


@dataclass(frozen=True)
class Optimiser:
    """State how Adam moves the parameters.

    Attributes:
        lr: largest step.
        decay: "cosine" within each phase, or "epoch": times .95 every 50 iterations, the paper's.
        later: factor on lr after the first phase.
        ema: largest decay of the moving average of the parameters, which is the result.
        clip: largest norm of a parameter gradient.
    """

    lr: float = 3e-3
    decay: str = "cosine"
    later: float = 0.3
    ema: float = 0.995
    clip: float = 1.0

    def __post_init__(self) -> None:
        """Check."""
        choose("decay", self.decay, ("cosine", "epoch"))
        if not self.lr > 0 or not 0 <= self.ema < 1 or not self.clip > 0:
            raise ValueError("lr and clip must be > 0, and ema in [0, 1).")


@dataclass(frozen=True, eq=False)
class Buffer:
    """State the samples of the target that bridged losses learn from.

    Attributes:
        samples: your own (M, dim), such as your chains'; None runs annealed chains.
        particles: of the annealed chains.
        start: standard deviation of the chains' start, covering the target; None is that of the
            reference's end, or 4 where nothing is known.
        refresh: iterations between two refreshes; 0 keeps the samples as they are.
        on_policy: share of the samples replaced at each refresh by the control's own, resampled by weight.
        moves: HMC moves of the samples at each refresh.
    """

    samples: Tensor | None = None
    particles: int = 10_000
    start: float | Tensor | None = None
    refresh: int = 250
    on_policy: float = 0.5
    moves: int = 2


@dataclass(frozen=True)
class Checkpoint:
    """State where the whole state of a training is kept.

    Attributes:
        path: of the file, written every so many iterations and at the end.
        resume: go on from the file if it exists.
    """

    path: str | os.PathLike[str]
    resume: bool = False


@dataclass
class History:
    """Hold what a fit did.

    Attributes:
        iterations: reached in all.
        seconds: of the processor.
        measured: whether this fit set the sampler's coordinates, x = loc + scale z, by samples.
        loc: origin of the coordinates (dim,).
        scale: width of the coordinates, (dim,) or a matrix (dim, dim).
        rows: (iteration, loss's name, loss, ELBO, ESS), as shown while it ran.
    """

    iterations: int = 0
    seconds: float = 0.0
    measured: bool = False
    loc: Tensor = field(default_factory=lambda: torch.empty(0))
    scale: Tensor = field(default_factory=lambda: torch.empty(0))
    rows: list[dict[str, Any]] = field(default_factory=list)
