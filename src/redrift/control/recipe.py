"""How a control is trained, as data, and what a training did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redrift._core.errors import choose, whole
from redrift.control.objective import BRIDGED, SIMULATED


@dataclass(frozen=True)
class Recipe:
    """State how a control is trained.

    Attributes:
        phases: (loss, share of the budget) one after the other, shares summing to 1.
        lr: Adam's largest step.
        batch: simulated paths an iteration ("kl", "kl-stl", "lv", "tb").
        points: bridge points an iteration ("am", "bm", "match").
        decay: "cosine" within each phase, or "epoch": times .95 every 50 iterations, the paper's.
        later: factor on lr after the first phase.
        ema: largest decay of the average, whose network is the result.
        clip: largest norm of a parameter gradient.
        explore: noise added by walks, a share that falls to 0 over the phase ("lv", "tb").
        refresh: iterations between two refreshes of the buffer of ends; 0 keeps it.
        own: share of the buffer replaced at each refresh by own ends, resampled by weight.
        search: moves of HMC on the buffer at each refresh (local search).
        detach: hold the target's gradient fixed in "kl" and "kl-stl" (no second derivatives).
        checkpointed: recompute steps in "kl-stl" instead of keeping their graph.
    """

    phases: tuple[tuple[str, float], ...] = (("match", 1.0),)
    lr: float = 3e-3
    batch: int = 256
    points: int = 2048
    decay: str = "cosine"
    later: float = 0.3
    ema: float = 0.995
    clip: float = 1.0
    explore: float = 0.0
    refresh: int = 0
    own: float = 0.0
    search: int = 0
    detach: bool = True
    checkpointed: bool = False

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
        choose("decay", self.decay, ("cosine", "epoch"))
        if not self.lr > 0 or not 0 <= self.ema < 1 or not self.clip > 0 or self.explore < 0:
            raise ValueError("lr and clip must be > 0, ema in [0, 1) and explore >= 0.")

    @property
    def bridged(self) -> bool:
        """Say whether a phase needs ends from the target."""
        return any(loss in ("bm", "match") for loss, _ in self.phases)

    def phase(self, done: float) -> tuple[str, float, int]:
        """Return loss, progress within the phase in [0, 1) and index at a share of the budget."""
        start = 0.0
        for i, (loss, share) in enumerate(self.phases):
            if done < start + share or i == len(self.phases) - 1:
                return loss, min(1.0, (done - start) / share), i
            start += share
        raise AssertionError


@dataclass
class History:
    """Hold what a fit did.

    Attributes:
        iterations: reached in all.
        seconds: of the processor.
        rows: (iteration, loss's name, loss, ELBO, ESS), as shown while it ran.
    """

    iterations: int = 0
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


def phases(
    loss: str | Sequence[str] | Sequence[tuple[str, float]],
) -> tuple[tuple[str, float], ...]:
    """Return phases from one loss, several of equal share, or (loss, share) pairs."""
    if isinstance(loss, str):
        return ((loss, 1.0),)
    items = list(loss)
    if all(isinstance(item, str) for item in items):
        return tuple((str(item), 1 / len(items)) for item in items)
    return tuple((str(item[0]), float(item[1])) for item in items)
