r"""How far a network's errors go: a plan's response to independent errors of its predictions.

For standard normal data (of scale sigma_data) the exact prediction is linear in the state, so the sample
is linear in the errors that are added to the predictions, $z_0 = \dots + \sum_j r_j\,\delta_j$. A plan
that extrapolates from a reading to which the network's prediction converts badly has large r_j.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from redrift.process import Level, Process
from redrift.process.base import Wants
from redrift.process.convert import mix
from redrift.solvers.coefficients import require_scalar
from redrift.solvers.loop import Ask, NextState, walk
from redrift.solvers.row import Row


def responses(
    process: Process, rows: Iterable[Row], wants: Wants, history: int, predicts: str
) -> Tensor:
    """Return r_j, (evaluations,) float64, in units of the data; noise that is added is left out.

    Args:
        process: with one noise level.
        rows: of the plan.
        wants: its reading.
        history: how many predictions it keeps.
        predicts: what the network predicts, and so has its errors in.
    """
    require_scalar(process, "the response to errors")
    rows = list(rows)
    count = sum(len(row.asks) for row in rows)
    errors = iter(torch.eye(count, dtype=torch.float64))
    steps = walk(rows, torch.zeros(count, dtype=torch.float64), history=history)
    request = next(steps)
    while True:
        if isinstance(request, Ask):
            output = _network(process, request.z, request.level, predicts) + next(errors)
            P, Q = mix(process, request.level, predicts, wants)
            answer = P * request.z + Q * output
        else:
            answer = NextState(request.mean)
        try:
            request = steps.send(answer)
        except StopIteration as stop:
            return stop.value / float(rows[-1].end.signal)


def _network(process: Process, z: Tensor, level: Level, predicts: str) -> Tensor:
    """Return the exact prediction of standard normal data of the process's scale."""
    signal, root = float(level.signal), float(level.root)
    variance = process.sigma_data**2
    P, Q = mix(process, level, "x0", predicts)
    return (P + Q * signal * variance / (signal**2 * variance + root**2)) * z
