"""A window: the stretch of the time grid that is steered at once, and the measurements in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.statespace.model import StateSpace
from redrift.statespace.observation import Observation, ObservationBatch, Quadratic, stacked


@dataclass(frozen=True, eq=False)
class Window:
    """Hold a stretch of the grid and its measurements.

    Attributes:
        model: the model.
        times: grid times, W + 1 of them.
        places: for each measurement its index in the grid, 1 to W.
        obs: the measurements, stacked, or None if there are none.
    """

    model: StateSpace
    times: tuple[float, ...]
    places: tuple[int, ...]
    obs: ObservationBatch | None

    @classmethod
    def of(
        cls, model: StateSpace, grid: Sequence[float], data: Sequence[Observation], like: Tensor
    ) -> Window:
        """Return the window of a grid, with those data that lie inside it."""
        at = {t: i for i, t in enumerate(grid)}
        inside = [d for d in data if d.time in at and at[d.time] > 0]
        places = tuple(at[d.time] for d in inside)
        return cls(model, tuple(grid), places, stacked(inside, like) if inside else None)

    @property
    def steps(self) -> int:
        """Return W."""
        return len(self.times) - 1

    def clock(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the starts and lengths of the steps, (W, 1, 1, 1)."""
        t = torch.tensor(self.times, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)
        return t[:-1], t[1:] - t[:-1]

    def log_likelihood(self, path: Tensor) -> Tensor | None:
        """Return l of each measurement (J, B, N) on a path (W + 1, B, N, *point)."""
        if self.obs is None:
            return None
        return self.model.log_likelihood(self.obs, path[self.spots])

    @property
    def spots(self) -> slice | list[int]:
        """Return the measurements' places as an index: a slice where they are evenly spaced."""
        steps = {b - a for a, b in zip(self.places, self.places[1:])}  # noqa: B905
        if len(steps) > 1:
            return list(self.places)
        return slice(self.places[0], self.places[-1] + 1, steps.pop() if steps else 1)

    def quadratic(self, base: Tensor) -> Quadratic | None:
        """Return the quadratic forms (J, B, n, ...) of the measurements around a nominal path."""
        if self.obs is None:
            return None
        model, at = self.model, base[self.spots]
        first, *rest = [
            s.quadratic(r, at, model.space, model.dim)
            for s, r in zip(model.parts, model.shares(self.obs), strict=True)
        ]
        for other in rest:
            first = Quadratic(*(a + b for a, b in zip(first, other, strict=True)))
        return first


def require_observable(window: Window, like: Tensor) -> None:
    """Refuse a moving window of a linear model whose data do not determine the state at its start.

    Steering towards data that leave a direction free is a dead-beat control of what is not seen:
    errors then grow without bound.

    Raises:
        ValueError: naming the number of measurements and the length needed.
    """
    model = window.model
    count = len(window.places)
    ahead = window.times[window.places[0]] - window.times[0]
    gap = (window.times[-1] - window.times[0]) / count if count > 1 else ahead
    phi, _, _ = model.matrices(gap, like) if model.time == "continuous" else (None, None, None)
    if phi is None:
        steps = round(gap / model.dt)
        phi = torch.linalg.matrix_power(model.matrices(model.dt, like)[0], steps)
    H = torch.cat([s.h.to(like) for s in model.parts if isinstance(s.h, Tensor)], -2)
    if phi.ndim > 2 or H.ndim > 2:
        return
    seen = [_rank(phi, H, n) for n in range(1, model.dim + 1)]
    need = next(n for n, rank in enumerate(seen, 1) if rank == seen[-1])
    if count < need:
        raise ValueError(
            f"window={window.times[-1] - window.times[0]:g} holds {count} measurements, which "
            f"determine {seen[count - 1]} of the {seen[-1]} directions of the state that can be "
            f"seen: the filter would be unstable. It needs {need}, so a window of at least "
            f"{need * gap:g} (five times the filter's memory is better)."
        )


def _rank(phi: Tensor, H: Tensor, n: int) -> int:
    rows, at = [], phi
    for _ in range(n):
        rows.append(H @ at)
        at = phi @ at
    table = torch.cat(rows)
    table = table / table.norm(dim=0).clamp(min=1e-300)
    return int(torch.linalg.matrix_rank(table, rtol=1e-9))
