"""The standard problems: five linear ones, where Kalman is exact, and five that are not linear."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.statespace.model import StateSpace
from redrift.statespace.prior import GaussianPrior
from redrift.statespace.sensor import Sensor


@dataclass(frozen=True, eq=False)
class FilteringProblem:
    """Hold a model, the times of its measurements, and a window that suits it.

    Attributes:
        model: the model.
        times: of the measurements.
        window: of the path-integral filter, in model time.
        stride: likewise; None is every measurement.
        scope: of the twisting function that suits it.
        about: one line.
    """

    model: StateSpace
    times: tuple[float, ...]
    window: float
    stride: float | None = None
    scope: str = "shared"
    about: str = ""


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _eye(d: int) -> Tensor:
    return torch.eye(d, dtype=torch.float64)


def _times(count: int, gap: float) -> tuple[float, ...]:
    return tuple(gap * (k + 1) for k in range(count))


def _linear(
    F: Tensor, G: Tensor, H: Tensor, R: float, dt: float, every: int, steps: int
) -> tuple[StateSpace, tuple[float, ...]]:
    d = len(F)
    prior = GaussianPrior(torch.zeros(d, dtype=torch.float64), _eye(d))
    sensor = Sensor(H, R * _eye(len(H)))
    model = StateSpace(prior, F, G, dt, sensor, time="discrete")
    return model, _times(steps // every, dt * every)


def ou() -> FilteringProblem:
    """Return the Ornstein-Uhlenbeck process under a nearly exact continuous sensor, r = 1e-3."""
    dt = 0.004
    model, times = _linear(
        (1 - dt) * _eye(1), math.sqrt(dt) * _eye(1), _eye(1), 1e-3 / dt, dt, 1, 400
    )
    return FilteringProblem(
        model, times, 24 * dt, 4 * dt, about="OU, continuous measurement, r = 1e-3"
    )


def tracking() -> FilteringProblem:
    """Return position and velocity, noise on the velocity, position sd .01 every .1 s (CV2)."""
    dt = 0.02
    F = torch.stack([_double(1, dt), _double(0, 1)])
    G = math.sqrt(dt) * _double(0, 1).unsqueeze(-1)
    model, times = _linear(F, G, _double(1, 0).unsqueeze(0), 1e-4, dt, 5, 250)
    return FilteringProblem(
        model, times, 25 * dt, about="position and velocity, position sd .01 every .1 s"
    )


def autoregression(d: int = 4) -> FilteringProblem:
    """Return a vector autoregression of order one, all seen, signal to noise 100."""
    up = torch.diag(torch.ones(d - 1, dtype=torch.float64), 1)
    model, times = _linear(0.95 * _eye(d) + 0.04 * up, _eye(d), _eye(d), 0.01, 1.0, 1, 40)
    return FilteringProblem(model, times, 3.0, about=f"AR in {d} dimensions, all seen, q/r = 100")


def integrators() -> FilteringProblem:
    """Return a chain of four integrators, noise on the last, the first seen with sd 1e-3."""
    dt, d = 0.1, 4
    up = torch.diag(torch.ones(d - 1, dtype=torch.float64), 1)
    G = torch.zeros(d, 1, dtype=torch.float64)
    G[-1] = math.sqrt(dt)
    H = torch.eye(1, d, dtype=torch.float64)
    model, times = _linear(torch.linalg.matrix_exp(up * dt), G, H, 1e-6, dt, 4, 160)
    return FilteringProblem(
        model, times, 32 * dt, about="four integrators, the first seen, sd 1e-3"
    )


def benes() -> FilteringProblem:
    """Return Benes' model, drift tanh x, seen with sd .01 every .5 s; start cosh x N(x; 0, 1/4)."""
    spread = 0.25

    def start(shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        z = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
        return spread * z[..., :1].sign() + math.sqrt(spread) * z[..., 1:]

    model = StateSpace(
        start, lambda x, t: torch.tanh(x), 1.0, 0.02, Sensor(_eye(1), 1e-4), dim=1
    )  # fmt: skip
    return FilteringProblem(model, _times(20, 0.5), 1.0, about="Benes, sd .01 every .5 s")


def double_well(sd: float = 0.01) -> FilteringProblem:
    """Return dX = 4 X (1 - X^2) dt + .7 dW, seen with sd every .5 s."""
    prior = GaussianPrior(_double(0), _eye(1))
    model = StateSpace(
        prior, lambda x, t: 4 * x * (1 - x * x), 0.7, 0.02, Sensor(_eye(1), sd**2)
    )  # fmt: skip
    about = f"double well, sd {sd:g} every .5 s"
    return FilteringProblem(model, _times(20, 0.5), 0.5, scope="particle", about=about)


def square_sensor() -> FilteringProblem:
    """Return an OU process of which x^2 is seen with sd .05 every .2 s: two modes."""
    prior = GaussianPrior(_double(0), _eye(1))
    sensor = Sensor(lambda x, t: x * x, 0.0025)
    model = StateSpace(prior, lambda x, t: -0.5 * x, 1.0, 0.02, sensor)
    about = "x^2 seen with sd .05 every .2 s: two modes"
    return FilteringProblem(model, _times(40, 0.2), 0.2, scope="particle", about=about)


def lorenz() -> FilteringProblem:
    """Return Lorenz's equations of 1963 with noise 2, the first coordinate seen, sd .01 every .1."""

    def drift(x: Tensor, t: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)

    prior = GaussianPrior(_double(1, 1, 25), 4 * _eye(3))
    model = StateSpace(prior, drift, 2.0, 0.01, Sensor(torch.eye(1, 3, dtype=torch.float64), 1e-4))
    about = "Lorenz-63, x1 seen with sd .01 every .1"
    return FilteringProblem(model, _times(20, 0.1), 0.2, scope="particle", about=about)


PROBLEMS: dict[str, Callable[[], FilteringProblem]] = {
    "ou": ou,
    "tracking": tracking,
    "ar4": autoregression,
    "ar10": lambda: autoregression(10),
    "integrators": integrators,
    "benes": benes,
    "double-well": double_well,
    "square": square_sensor,
    "lorenz": lorenz,
}
