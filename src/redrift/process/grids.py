r"""Time grids: where a plan's steps begin and end.

All processes with one noise level $\rho = \sigma/\alpha$ share the same spacings, so a grid means the
same steps on every one of them: "quadratic" and "cubic" are powers of the time of the linear VP
schedule (0.1, 20) at that noise level, "logsnr" is uniform in $\log \rho$, "karras" a power 1/7 of
$\rho$, "angle" uniform in $\arctan(\rho/\sigma_{data})$. "uniform" is uniform in the process's own time.
Processes without a single noise level know the powers of their own time only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.process.base import Process
from redrift.process.scalar import ScalarProcess
from redrift.process.vp import VP

_POWERS = {"uniform": 1.0, "quadratic": 2.0, "cubic": 3.0}
SPACINGS = ("quadratic", "cubic", "logsnr", "karras", "angle", "uniform")
_KARRAS = 7.0
_REFERENCE = VP()


def vp_time(clock: Tensor) -> Tensor:
    """Return the time at which the linear VP schedule (0.1, 20) has this half log-SNR."""
    return _REFERENCE.unclock(clock)


def timegrid(
    process: Process,
    steps: int,
    spacing: str | None = None,
    *,
    start: float | None = None,
    stop: float | None = None,
) -> Tensor:
    """Build a strictly decreasing grid of times.

    Args:
        process: whose time this is.
        steps: number of steps, >= 1 (not the number of evaluations: see `plan_for`).
        spacing: "quadratic", "cubic", "logsnr", "karras", "angle" or "uniform"; None takes the
            process's default.
        start: first time, the noisy end, in the process's own time; None takes its default.
        stop: last time, 0 <= stop < start.

    Returns:
        float64 tensor (steps + 1,), from `start` down to `stop` exactly.

    Raises:
        ValueError: if steps < 1, the spacing is unknown or undefined for the process, or the
            times are not decreasing within the process's horizon.

    Example:
        >>> timegrid(VP(), 2, "uniform", start=1.0, stop=0.5).tolist()
        [1.0, 0.75, 0.5]
    """
    steps = whole("steps", steps)
    spacing = choose("spacing", process.spacing if spacing is None else spacing, SPACINGS)
    first = process.interval[0] if start is None else float(start)
    last = process.interval[1] if stop is None else float(stop)
    if not 0 <= last < first <= process.horizon:
        raise ValueError(
            f"a grid needs 0 <= stop < start <= {process.horizon}, got start={first}, stop={last}."
        )
    ends = torch.tensor([first, last], dtype=torch.float64)
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    times = _scalar(process, spacing, ends, u)
    times[0], times[-1] = first, last
    return times


def _powers(ends: Tensor, u: Tensor, power: float) -> Tensor:
    roots = ends ** (1 / power)
    return (roots[0] + u * (roots[1] - roots[0])) ** power


def _scalar(process: Process, spacing: str, ends: Tensor, u: Tensor) -> Tensor:
    if not isinstance(process, ScalarProcess):
        choose("spacing", spacing, _POWERS)
    if spacing == "uniform" or not isinstance(process, ScalarProcess):
        return _powers(ends, u, _POWERS[spacing])
    clocks = process.clock(ends)
    if not bool(clocks.isfinite().all()):
        raise ValueError(
            f"spacing={spacing!r} needs signal and noise at both ends, got times {ends.tolist()}; "
            "use spacing='uniform', or move the ends inside."
        )
    if spacing == "logsnr":
        clock = clocks[0] + u * (clocks[1] - clocks[0])
    elif spacing == "karras":
        clock = -torch.log(_powers(torch.exp(-clocks), u, _KARRAS))
    elif spacing == "angle":
        angles = torch.atan(torch.exp(-clocks) / process.sigma_data)
        angle = angles[0] + u * (angles[1] - angles[0])
        clock = -torch.log(process.sigma_data * torch.tan(angle))
    else:
        clock = _REFERENCE.clock(_powers(vp_time(clocks), u, _POWERS[spacing]))
    return process.unclock(clock)
