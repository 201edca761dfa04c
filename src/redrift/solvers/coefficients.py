r"""The one quadrature behind every solver.

A step in a reading (N, M) is exact when the prediction is a polynomial in the chosen variable p:

$$z' = N' N^{-1} z + \sum_j C_j e_j, \qquad C_j = N' \int \ell_j(p)\, d[N^{-1} M].$$

The integral is Gauss-Legendre in the process's clock (log-SNR for k = 1), where the weight is
smooth: 16 nodes reach rounding over a step of ordinary length, 32 are used for long ones.

Papers: DEIS, arXiv:2204.13902 (k = 1, p = t or rho); gDDIM, arXiv:2206.05564 (matrices); RES,
arXiv:2308.02157 (p = log-SNR, reading x0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift._core.linalg import inverse, product
from redrift._core.quadrature import gauss_legendre, lagrange
from redrift.process import Level, Process, ScalarProcess
from redrift.process.base import Wants
from redrift.process.grids import vp_time

VARIABLES = ("t", "rho", "logrho", "softlog", "angle")
_FINE, _COARSE = 0.05, 5.0  # noise levels below and above which "softlog" is flat
_NODES = 32


def variable(process: Process, name: str) -> Callable[[Tensor], Tensor]:
    """Return the polynomial variable as a function of time.

    Args:
        process: whose time it is.
        name: "t" (the time of the linear VP schedule at the same noise level, so that a plan means
            the same on every scalar process; the own time where there is no single noise level),
            "rho" (sigma / alpha), "logrho", "softlog" (log rho flattened below .05 and above 5, where
            data of unit scale are resolved or not seen yet: log((rho + .05) / (1 + rho / 5))) or
            "angle" (arctan(rho / sigma_data)).
    """
    choose("variable", name, VARIABLES)
    if not isinstance(process, ScalarProcess):
        choose("variable", name, ("t",))
        return lambda t: t
    p = variable_of_log_snr(name, process.sigma_data)
    return lambda t: p(process.clock(t))


def variable_of_log_snr(name: str, scale: float) -> Callable[[Tensor], Tensor]:
    """Return a polynomial variable as a function of half the log-SNR, for data of a scale."""
    return {
        "t": vp_time,
        "rho": lambda w: torch.exp(-w),
        "logrho": lambda w: w,
        "softlog": lambda w: _softlog(torch.exp(-w)),
        "angle": lambda w: torch.atan(torch.exp(-w) / scale),
    }[name]


def _softlog(rho: Tensor) -> Tensor:
    return torch.log(rho + _FINE) - torch.log1p(rho / _COARSE)


def one(like: Tensor) -> Tensor:
    """Return identity tables of the same shape."""
    return torch.eye(like.shape[-1], dtype=like.dtype).expand_as(like)


def finite(process: Process, t: Tensor) -> bool:
    """Say whether the clock is finite at t: signal and noise are both present."""
    return bool(process.clock(t.detach()).isfinite())


def require_scalar(process: Process, what: str) -> ScalarProcess:
    """Return the process if it has one noise level.

    Raises:
        ValueError: naming what needs it.
    """
    if not isinstance(process, ScalarProcess):
        raise ValueError(f"{what} needs a process with one noise level, got {process.describe()}.")
    return process


def transfer(process: Process, wants: Wants, start: Level, end: Level) -> Tensor:
    """Return A = N' N^-1."""
    return product(process.reading(end, wants)[0], inverse(process.reading(start, wants)[0]))


def constant(process: Process, wants: Wants, start: Level, end: Level) -> tuple[Tensor, Tensor]:
    """Return (A, C) of the step that is exact for a constant prediction: DDIM, in closed form.

    It needs no quadrature, so it also serves a step from zero signal or to zero noise.
    """
    A = transfer(process, wants, start, end)
    _, before = process.reading(start, wants)
    _, after = process.reading(end, wants)
    return A, after - product(A, before)


def integrate(
    process: Process,
    wants: Wants,
    start: Level,
    end: Level,
    basis: Callable[[Tensor], Sequence[Tensor]],
) -> list[Tensor]:
    """Return N' times the integral of each basis function against d[N^-1 M] over the step.

    Args:
        process: the law.
        wants: the reading.
        start: level at which the integral begins.
        end: level at which it ends.
        basis: function of times (Q,) that returns the basis functions, (Q,) each.
    """
    nodes, weights = gauss_legendre(_NODES)
    first, last = process.clock(start.t), process.clock(end.t)
    times = process.unclock(first + nodes * (last - first))
    rate = process.increment(wants, end, times)
    values = torch.stack(list(basis(times))) * (weights * (last - first))
    return list((values @ rate.reshape(len(times), -1)).reshape(-1, *rate.shape[1:]))


def adams(
    process: Process, wants: Wants, start: Level, end: Level, points: Sequence[Tensor], name: str
) -> list[Tensor]:
    """Return C_j for the polynomial through predictions at the times `points`.

    Args:
        process: the law.
        wants: the reading.
        start: level of the incoming state.
        end: level of the result.
        points: times of the predictions, newest first.
        name: polynomial variable, see `variable`.
    """
    if len(points) == 1:
        return [constant(process, wants, start, end)[1]]
    p = variable(process, name)
    nodes = [p(point) for point in points]
    return integrate(process, wants, start, end, lambda t: lagrange(nodes, p(t)))


def moments(
    process: Process, wants: Wants, start: Level, end: Level, full: Level, count: int
) -> list[Tensor]:
    r"""Return N' times the integrals of 1, s, s^2, ..., s from 0 at `start` to 1 at `full`.

    In the reading x0 of a scalar process they are h c^{j+1} j! phi_{j+1}(-c h), c the fraction of
    the step covered.
    """
    first = process.clock(start.t)
    width = process.clock(full.t) - first

    def powers(t: Tensor) -> list[Tensor]:
        s = (process.clock(t) - first) / width
        return [s**j for j in range(count)]

    return integrate(process, wants, start, end, powers)


def fraction(process: Process, start: Level, end: Level, c: float) -> Level:
    """Return the level a fraction c of the way through the step, in the clock."""
    first = process.clock(start.t)
    return process.level(process.unclock(first + c * (process.clock(end.t) - first)))
