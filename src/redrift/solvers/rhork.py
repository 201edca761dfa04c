r"""Classical methods on the noise: Runge-Kutta in rho, and Adams weights of a uniform grid.

For x / alpha the flow is $dx/d\rho = \varepsilon$, without a linear part, so any Runge-Kutta tableau in
$\rho = \sigma/\alpha$ is a plan. `heun` is EDM's sampler. iPNDM uses the Adams-Bashforth weights of a
uniform grid on a grid that is not uniform in rho: of order 2 however long its history.

Papers: DEIS, arXiv:2204.13902 (rhoRK and iPNDM); EDM, arXiv:2206.00364.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift.process import Process
from redrift.solvers.churn import churned
from redrift.solvers.coefficients import constant, finite, one, require_scalar
from redrift.solvers.ends import End
from redrift.solvers.multistep import single
from redrift.solvers.plan import Plan
from redrift.solvers.registry import Options, register, solver
from redrift.solvers.row import Coefficients, Row

# order, then the rows of a Butcher tableau below its first stage, the weights last
TABLEAUS: dict[str, tuple[int, tuple[tuple[float, ...], ...]]] = {
    "euler": (1, ((1.0,),)),
    "heun": (2, ((1.0,), (1 / 2, 1 / 2))),
    "midpoint": (2, ((1 / 2,), (0.0, 1.0))),
    "kutta3": (3, ((1 / 2,), (-1.0, 2.0), (1 / 6, 2 / 3, 1 / 6))),
    "ralston3": (3, ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))),
    "rk4": (4, ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))),
}
_LOWER = {1: "euler", 2: "heun", 3: "kutta3"}  # what a shorter first step uses
_IPNDM = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@register
@dataclass(frozen=True)
class RhoRungeKutta:
    """Rule: a classical Runge-Kutta step in sigma / alpha.

    Attributes:
        method: a name in TABLEAUS.
        steps: number of steps of the whole run, if its first step is a shorter one.
        first_stages: of that first step, 0 for none.
    """

    method: str
    steps: int = 0
    first_stages: int = 0

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        if not (finite(process, t) and finite(process, next_t)):
            row = single(process, "eps", start, end)
            return (Row(start, end, row.asks, row.A, row.C),)
        shorter = self.first_stages and left == self.steps - 1
        rows = TABLEAUS[_LOWER[self.first_stages] if shorter else self.method][1]
        rho = torch.exp(-process.clock(t))
        step = torch.exp(-process.clock(next_t)) - rho
        stages = [start]
        for row in rows[:-1]:
            target = rho + sum(row) * step
            stages.append(end if sum(row) == 1 else process.level(process.unclock(-target.log())))
        A, C = [one(start.signal)], [()]
        for row, target in zip(rows, [*stages[1:], end], strict=True):
            A.append(target.signal / start.signal)
            weights: Coefficients = tuple(w * step * target.signal if w else None for w in row)
            C.append(weights)  # pyright: ignore[reportArgumentType]
        return (Row(start, end, tuple(stages), tuple(A), tuple(C)),)


@register
@dataclass(frozen=True)
class IPNDM:
    """Rule: the constant step of DDIM on a combination of predictions with uniform weights.

    Attributes:
        order: number of points, 1 to 4.
    """

    order: int

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        A, C = constant(process, "eps", start, end)
        weights = _IPNDM[min(self.order, len(past) + 1) - 1]
        return (
            Row(start, end, (start,), (one(A), A), ((), tuple(w * C for w in weights)), keep=(0,)),
        )


def _stages(options: Options) -> int:
    return len(TABLEAUS[choose("method", options.get("method", "kutta3"), TABLEAUS)][1])


@solver(stages=_stages, needs_signal=True)
def rho_rk(
    process: Process,
    times: Tensor | Sequence[float],
    method: str = "kutta3",
    *,
    first_stages: int = 0,
    end: End = "min",
) -> Plan:
    """Build a classical Runge-Kutta method in sigma / alpha on the predicted noise.

    Paper: DEIS, arXiv:2204.13902 (rhoRK-DEIS).

    Args:
        process: the law, with one noise level.
        times: (steps + 1,) strictly decreasing times.
        method: "heun", "midpoint" (order 2), "kutta3", "ralston3" (3) or "rk4" (4).
        first_stages: of a shorter first step, 0 for none, see `res`.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if the process has no single noise level or the method is unknown.

    Cost: 2, 2, 3, 3 or 4 evaluations per step.
    """
    require_scalar(process, "rho_rk")
    choose("method", method, [name for name in TABLEAUS if name != "euler"])
    order, rows = TABLEAUS[method]
    whole("first_stages", first_stages, least=0, most=len(rows) - 1)
    steps = len(times) - 1 - (end == "zero")
    rule = RhoRungeKutta(method, steps if first_stages else 0, first_stages)
    name = f"rho Runge-Kutta {method}, order {order}"
    return Plan.build(
        process, times, rule, wants="eps", order=order, history=0, name=name, papers=("deis",),
        end=end,
    )  # fmt: skip


@solver(fixed=2, stages=lambda options: 2, end="denoise", remainder=False, needs_signal=True)
def heun(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    churn: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
    scale: float = 1.0,
    end: End = "denoise",
) -> Plan:
    """Build EDM's sampler: Heun in sigma, noise put back before each step, a last Euler step to 0.

    Paper: EDM, arXiv:2206.00364, Algorithms 1 and 2.

    Args:
        process: the law, with one noise level.
        times: (steps + 1,) strictly decreasing times.
        churn: S_churn, 0 for the deterministic sampler.
        low: S_min: no churn at or below this sigma / alpha.
        high: S_max: no churn at or above it.
        scale: S_noise: factor on the added noise.
        end: "denoise" as published (an Euler step from the last level to 0), "min" or "zero", see
            `Plan.build`.

    Raises:
        ValueError: if the process has no single noise level or a churn argument is out of range.

    Cost: 2 evaluations per step, 1 for the last step to zero.
    """
    require_scalar(process, "heun")
    rule = churned(process, RhoRungeKutta("heun"), churn, len(times) - 1, low, high, scale)
    name = f"Heun{f', churn {churn:g}' if churn else ''}"
    return Plan.build(
        process, times, rule, wants="eps", order=2, history=0, name=name, papers=("edm",),
        stochastic=churn > 0, end=end,
    )  # fmt: skip


@solver(order=4, needs_signal=True)
def ipndm(
    process: Process, times: Tensor | Sequence[float], *, order: int = 4, end: End = "min"
) -> Plan:
    """Build iPNDM: Adams-Bashforth weights of a uniform grid on the predicted noise.

    Paper: DEIS, arXiv:2204.13902 (iPNDM), after PNDM, arXiv:2202.09778.

    Args:
        process: the law.
        times: (steps + 1,) strictly decreasing times.
        order: number of points, 1 to 4; it converges with order 2 at most.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Cost: 1 evaluation per step, order - 1 stored predictions.
    """
    whole("order", order, most=4)
    name = f"iPNDM order {order}"
    return Plan.build(
        process, times, IPNDM(order), wants="eps", order=order, name=name, papers=("ipndm", "deis"),
        end=end,
    )  # fmt: skip
