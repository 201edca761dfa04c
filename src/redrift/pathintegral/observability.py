"""Windows that are too short to see the state: refused for linear models, with the length needed."""

from __future__ import annotations

import torch
from torch import Tensor

from redrift.pathintegral.window import Window


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
