r"""The law of a linear SDE, in modal form.

$dz = F(t)\,z\,dt + G(t)\,dw$, so $z_t = S(t)\,c + R(t)\,\varepsilon$ with the *signal* $S$ (mean
map from the clean state c) and a *root* R of the noise covariance, $R R^\top = \mathrm{cov}$.
In a fixed orthonormal basis every process here is a family of k-by-k SDEs, one per mode, and
F, G, S, R are float64 tables of shape (*modes, k, k). Time runs from `horizon` (noise) to 0
(data).

Every prediction a network can make is one *reading* $z = N(t)\,c + M(t)\,e$ of the state:

    eps   (N, M) = (S, R)          e is the noise
    x0    (N, M) = (R, S)          e is the clean state
    v     (N, M) = (s, s phi)      e = cos(phi) eps - sin(phi) x0 / sigma_data, k = 1 only;
                                   s^2 = (S sigma_data)^2 + R^2, phi = atan2(R, S sigma_data)

With e constant the probability-flow ODE is solved by $z' = N' N^{-1} z + (M' - N' N^{-1} M)\,e$;
with e a polynomial, by $C_j = N' \int \ell_j \, d[N^{-1} M]$. `reading` and `increment` are all
that the solvers know of a process.

Papers: DEIS, arXiv:2204.13902 (k = 1); gDDIM, arXiv:2206.05564 (matrix case, K_t = R_t).
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from redrift._core.linalg import inverse, product, transpose
from redrift.process.rotation import rotation

Wants = Literal["eps", "x0", "v"]


class Level(NamedTuple):
    """A noise level: all that a conversion needs, so that a run never computes a root.

    Attributes:
        t: process time, shape () or (B,), float64.
        signal: mean map S(t), (*modes, k, k) or (B, *modes, k, k), float64.
        root: R(t), of the same shape.
        kind: "R", or "L" where a plan works in Cholesky coordinates.
    """

    t: Tensor
    signal: Tensor
    root: Tensor
    kind: str = "R"

    @property
    def sigma(self) -> float:
        """Return the noise level sigma / alpha, of the loudest mode; infinite without signal."""
        noise = self.root.detach().abs().amax((-2, -1))
        return float((noise / self.signal.detach().abs().amax((-2, -1))).max())


_OF_NUMBERS = (
    *("signal", "cov", "drift", "diffusion", "clock", "unclock", "clock_rate"),
    *("psi", "root", "level", "alpha", "sigma", "log_alpha_rate"),
)


def _of_numbers(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method's times be numbers, too."""

    @functools.wraps(method)
    def call(self: Any, *args: Any) -> Any:  # noqa: ANN401
        return method(self, *(_as_time(a) if isinstance(a, (float, int)) else a for a in args))

    return call


def _as_time(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class Process(ABC):
    """A linear SDE. Subclasses give `signal`, `cov`, `drift`, `diffusion`; the rest follows.

    Times are numbers or float64 tensors.

    Attributes:
        k: size of the blocks (1, or 2 for position and velocity).
        modes: the last axes of the data's shape that have tables of their own, or ().
        sigma_data: scale of the clean data in the angle of "v" (1 gives the usual v).
        spacing: default spacing of a time grid.
    """

    k: int = 1
    modes: tuple[int, ...] = ()
    sigma_data: float = 1.0
    spacing: str = "quadratic"

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        """Let the times of the subclass's methods be numbers."""
        super().__init_subclass__(**kwargs)
        for name in _OF_NUMBERS:
            if name in cls.__dict__:
                setattr(cls, name, _of_numbers(cls.__dict__[name]))

    @property
    def horizon(self) -> float:
        """Return the largest time."""
        return 1.0

    @property
    def clean(self) -> float:
        """Return the time that stands for no noise at all; below 0 where 0 has some."""
        return 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the default (start, stop) of a time grid, noisy end first."""
        return (self.horizon, 1e-3)

    @abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """Return the mean map S(t) from the clean state to time t; invertible for t < horizon."""

    @abstractmethod
    def cov(self, t: Tensor) -> Tensor:
        """Return the covariance of z_t given the clean state."""

    @abstractmethod
    def drift(self, t: Tensor) -> Tensor:
        """Return F(t)."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """Return G(t)."""

    @_of_numbers
    def clock(self, t: Tensor) -> Tensor:
        """Return the variable of the quadrature and the default polynomials; monotone in t."""
        return t

    @_of_numbers
    def unclock(self, w: Tensor) -> Tensor:
        """Invert `clock`."""
        return w

    @_of_numbers
    def clock_rate(self, t: Tensor) -> Tensor:
        """Return d clock / dt at t."""
        return torch.ones_like(t)

    @_of_numbers
    def psi(self, s: Tensor, t: Tensor) -> Tensor:
        """Return the mean map from time t to time s, S(s) S(t)^-1."""
        return product(self.signal(s), inverse(self.signal(t)))

    @_of_numbers
    def root(self, t: Tensor, kind: Literal["R", "L"] = "R") -> Tensor:
        r"""Return a root K of cov(t), K K^T = cov.

        "L" is the Cholesky factor. "R" solves $dR/dt = F R + \tfrac12 G G^\top R^{-\top}$, so that
        the noise of a single data point is constant along the flow; for k = 1 it is the square
        root, for k = 2 the Cholesky factor turned by one angle (up to a constant rotation).

        Paper: gDDIM, arXiv:2206.05564.
        """
        cov = self.cov(t)
        if self.k == 1:
            return cov.sqrt()
        lower = torch.linalg.cholesky(cov)
        return lower if kind == "L" else lower @ rotation(self, t)

    @_of_numbers
    def level(self, t: Tensor) -> Level:
        """Return the noise level at t, shape () or (B,)."""
        return Level(t, self.signal(t), self.root(t))

    def to(self, x: Tensor) -> Tensor:
        """Map from the network's basis to the modal basis (here the identity)."""
        return x

    def back(self, z: Tensor) -> Tensor:
        """Map from the modal basis to the network's basis (here the identity)."""
        return z

    def lift(self, x0: Tensor) -> Tensor:
        """Map clean data (B, *shape) to the clean modal state; for k > 1 all but the first are 0."""
        z0 = self.to(x0)
        if self.k == 1:
            return z0
        return torch.stack([z0] + [torch.zeros_like(z0)] * (self.k - 1), 1)

    def data(self, z: Tensor) -> Tensor:
        """Map a modal state to data (B, *shape): the inverse basis, the position for k > 1."""
        return self.back(z if self.k == 1 else z[:, 0])

    def channels(self, channels: int) -> int:
        """Return the network's channels for data of `channels` channels; position comes first."""
        return self.k * channels

    def reading(self, level: Level, wants: Wants) -> tuple[Tensor, Tensor]:
        """Return (N, M) of the reading `wants` at a level."""
        if wants == "eps":
            return level.signal, level.root
        if wants == "x0":
            return level.root, level.signal
        if self.k > 1:
            raise ValueError(f"'v' has no meaning for k = {self.k}; use 'eps' or 'x0'.")
        clean = level.signal * self.sigma_data
        scale = (clean**2 + level.root**2).sqrt()
        return scale, scale * torch.atan2(level.root, clean)

    def increment(self, wants: Wants, end: Level, t: Tensor) -> Tensor:
        r"""Return $d[N' N^{-1} M]/dw$ at times t of shape (Q,), w the clock: (Q, *modes, k, k).

        N' belongs to the level `end`. This is the weight that a prediction made at t carries
        into the state at `end`.
        """
        here = self.level(t)
        noise = self.diffusion(t)
        half = product(noise, transpose(noise)) / 2
        inverse_root = inverse(here.root)
        rate = self.clock_rate(t).reshape(-1, *[1] * (len(self.modes) + 2))
        if wants == "eps":
            move = product(end.signal, inverse(here.signal))
            return product(move, half, transpose(inverse_root)) / rate
        if wants == "x0":
            move = product(end.root, inverse_root)
            turn = product(half, transpose(inverse_root), inverse_root, here.signal)
            return -product(move, turn) / rate
        clean = here.signal * self.sigma_data
        scale = (clean**2 + here.root**2).sqrt()
        # d phi / dt = (d rho / dt) / (1 + rho^2), d rho / dt = half / (S R): all at sigma_data
        return self.reading(end, "v")[0] * half * clean / (here.root * scale**2) / rate

    def agrees(self, other: Process) -> bool:
        """Say whether another process is the same law, but for the rounding of its constants."""
        return self == other

    def describe(self) -> str:
        """Return a short name for reports, as in "VP, k=1"."""
        modes = f", modes={self.modes}" if self.modes else ""
        return f"{type(self).__name__}, k={self.k}{modes}"
