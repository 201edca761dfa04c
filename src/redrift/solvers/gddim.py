r"""gDDIM: DDIM and its multistep and stochastic relatives on any linear SDE.

Deterministic plans are those of `deis`: the builder there already works with matrices, and the
right parameterisation K_t = R_t is the process's root. `root="L"` takes the Cholesky factor instead,
as a control: the noise of a single data point is then not constant along the flow, and large steps
fail.

The stochastic family has the backward SDE with
$\hat F = F + \tfrac12(1 + \lambda^2) G G^\top \Sigma^{-1}$. With the prediction of the clean state held, a
step from t to t' is exactly

$$u' = \hat\Psi u + (S' - \hat\Psi S)\,c + N(0, P), \qquad P = \Sigma' - \hat\Psi \Sigma \hat\Psi^\top,$$

which for order 1 is the paper's step $\Psi u + (\hat\Psi - \Psi) R \varepsilon$. For order 2 the polynomial
is in c: a history of noises asked at earlier, differently noised states does not extrapolate for
lambda > 0. P is in closed form, so it is symmetric and positive by construction:
in the frame of R, $P = R'(I - Z Z^\top) R'^\top$ with $Z = R'^{-1} \hat\Psi R$, a contraction.

Paper: gDDIM, arXiv:2206.05564.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.linalg import inverse, product, transpose
from redrift._core.quadrature import gauss_legendre, lagrange
from redrift.process import Process
from redrift.solvers.coefficients import one
from redrift.solvers.ends import End
from redrift.solvers.multistep import MOST, deis
from redrift.solvers.plan import Plan
from redrift.solvers.registry import register, solver
from redrift.solvers.row import Row

_NODES = 32
_SUBSTEPS = 4  # of the transition between two quadrature nodes


@register
@dataclass(frozen=True)
class CholeskyAdams:
    """Rule: exponential Adams-Bashforth on the noise in Cholesky coordinates, the control.

    Attributes:
        order: number of points.
    """

    order: int

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start = process.level(t)._replace(root=process.root(t, "L"), kind="L")
        end = process.level(next_t)._replace(root=process.root(next_t, "L"), kind="L")
        points = [t, *past][: self.order]
        nodes, weights = gauss_legendre(_NODES)
        first, last = process.clock(t), process.clock(next_t)
        times = process.unclock(first + nodes * (last - first))
        noise = process.diffusion(times)
        half = product(noise, transpose(noise)) / 2
        kernel = product(
            process.psi(next_t, times), half, transpose(inverse(process.root(times, "L")))
        )
        rate = weights * (last - first) / process.clock_rate(times)
        values = torch.stack(lagrange(points, times)) * rate
        C = (values @ kernel.reshape(len(times), -1)).reshape(-1, *kernel.shape[1:])
        A = process.psi(next_t, t)
        return (Row(start, end, (start,), (one(A), A), ((), tuple(C)), keep=(0,)),)


@register
@dataclass(frozen=True)
class Stochastic:
    """Rule: the exact step of the lambda family with a polynomial for the clean state.

    Attributes:
        order: number of points, 1 or 2.
        stochasticity: lambda.
    """

    order: int
    stochasticity: float

    def __call__(
        self, process: Process, past: Sequence[Tensor], t: Tensor, next_t: Tensor, *, left: int
    ) -> Sequence[Row]:
        """Return the step's row."""
        start, end = process.level(t), process.level(next_t)
        points = [t, *past][: self.order]
        nodes, weights = gauss_legendre(_NODES)
        first, last = process.clock(t), process.clock(next_t)
        times = process.unclock(first + nodes * (last - first))
        here = process.level(times)
        # in the frame of R: Z(tau) carries the frame at tau to the frame at t'
        frames = transitions(process, torch.cat((t[None], times)), next_t, self.stochasticity)
        Z = frames[0]
        A = product(end.root, Z, inverse(start.root))
        noise = process.diffusion(times)
        white = product(inverse(here.root), noise)
        half = (1 + self.stochasticity**2) / 2 * product(white, transpose(white))
        pull = product(end.root, frames[1:], half, inverse(here.root), here.signal)
        rate = weights * (last - first) / process.clock_rate(times)
        values = torch.stack(lagrange([process.clock(p) for p in points], process.clock(times)))
        C = -((values * rate) @ pull.reshape(len(times), -1)).reshape(-1, *pull.shape[1:])
        scale = product(end.root, _root_of(one(Z) - product(Z, transpose(Z))))
        return (Row(start, end, (start,), (one(A), A), ((), tuple(C)), B=scale, keep=(0,)),)


def transitions(process: Process, times: Tensor, end: Tensor, stochasticity: float) -> Tensor:
    r"""Return $Z = R'^{-1} \hat\Psi(t', \tau) R_\tau$ for each of the decreasing times.

    $dZ/d\tau = -\tfrac12 \lambda^2 Z W$ with $W = R^{-1} G G^\top R^{-\top}$. For k = 1 it is a power of the
    ratio of the noise levels; otherwise fourth-order Magnus steps between the times.

    Args:
        process: the law.
        times: (Q,) decreasing, all above `end`.
        end: time t'.
        stochasticity: lambda.

    Returns:
        (Q, *modes, k, k).
    """
    power = stochasticity**2
    if process.k == 1:
        last, here = process.level(end), process.level(times)
        # rho' / rho by frequency: dZ/Z = lambda^2 dlog(rho)
        return (product(last.root, here.signal) / product(last.signal, here.root)) ** power
    edges = torch.cat((times, end[None]))
    clocks = process.clock(edges)
    share = torch.arange(_SUBSTEPS, dtype=clocks.dtype) / _SUBSTEPS
    width = clocks.diff()[:, None] / _SUBSTEPS
    starts = clocks[:-1, None] + clocks.diff()[:, None] * share
    offset = 3**0.5 / 6

    def generator(w: Tensor) -> Tensor:
        tau = process.unclock(w)
        white = inverse(process.root(tau)) @ process.diffusion(tau)
        rate = process.clock_rate(tau)[..., None, None]
        return power / 2 * white @ white.mT / rate

    a, b = (generator(starts + (0.5 + sign * offset) * width) for sign in (-1, 1))
    h = width[..., None, None]
    # time runs down and Z(t') = I: frames at later times are multiplied from the left
    steps = torch.matrix_exp(h / 2 * (a + b) - 3**0.5 / 12 * h**2 * (a @ b - b @ a))
    frames, total = [], torch.eye(process.k, dtype=times.dtype)
    for i in range(len(times) - 1, -1, -1):
        for j in range(_SUBSTEPS - 1, -1, -1):
            total = total @ steps[i, j]
        frames.append(total)
    return torch.stack(frames[::-1])


def _root_of(cov: Tensor) -> Tensor:
    """Return a root of a positive semi-definite table, rank deficient ones included."""
    if cov.shape[-1] == 1:
        return cov.clamp_min(0).sqrt()
    values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
    return vectors * values.clamp_min(0).sqrt()[..., None, :]


@solver(order=3)
def gddim(
    process: Process,
    times: Tensor | Sequence[float],
    *,
    order: int = 3,
    corrector: bool = False,
    stochasticity: float = 0.0,
    root: Literal["R", "L"] = "R",
    end: End = "min",
) -> Plan:
    """Build gDDIM on any linear SDE: deterministic multistep, or the stochastic family.

    Paper: gDDIM, arXiv:2206.05564.

    Args:
        process: the law; on a scalar one order 1 is DDIM.
        times: (steps + 1,) strictly decreasing times.
        order: number of points: 1 to 4 deterministic (the paper's q + 1), 1 or 2 stochastic.
        corrector: correct every step for free, see `deis`; deterministic only. Unstable in few
            steps on CLD and Blur.
        stochasticity: lambda in [0, 1]: 0 deterministic, 1 the reverse SDE.
        root: "R" is the paper's; "L" (the Cholesky factor) is a control that fails in large steps.
        end: "min", "zero" or "denoise", see `Plan.build`.

    Raises:
        ValueError: if lambda is outside [0, 1], the corrector or "L" is asked of a stochastic plan,
            or the order is out of range or above the number of steps.

    Cost: 1 evaluation per step; order - 1 stored predictions.

    Example:
        >>> from redrift.process import CLD, timegrid
        >>> print(gddim(CLD(), timegrid(CLD(), 20), order=2))
        gDDIM order 2 | 20 steps, 20 evaluations | CLD, k=2 | deterministic
    """
    choose("root", root, ("R", "L"))
    if not 0 <= stochasticity <= 1:
        raise ValueError(f"stochasticity must lie in [0, 1], got {stochasticity}.")
    if (stochasticity or root == "L") and corrector:
        raise ValueError("the corrector belongs to deterministic plans in R: leave it out.")
    if stochasticity and root == "L":
        raise ValueError("the stochastic step does not depend on the root: use root='R'.")
    notes = f"{', corrected' if corrector else ''}{', Cholesky' if root == 'L' else ''}"
    notes += f", lambda={stochasticity:g}" if stochasticity else ""
    whole("order", order, most=2 if stochasticity else MOST - corrector)
    name = f"gDDIM order {order}{notes}"
    if stochasticity:
        rule = Stochastic(order, float(stochasticity))
        return Plan.build(
            process, times, rule, wants="x0", order=order, name=name, papers=("gddim",),
            stochastic=True, end=end,
        )  # fmt: skip
    if root == "L" and process.k > 1:  # for k = 1 the two roots are one
        return Plan.build(
            process, times, CholeskyAdams(order), wants="eps", order=order, name=name,
            papers=("gddim",), end=end,
        )  # fmt: skip
    plan = deis(process, times, order=order, startup=False, corrector=corrector, end=end)
    return plan.named(name, ("gddim",))
