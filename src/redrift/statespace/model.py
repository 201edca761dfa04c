r"""State-space models, lowered to a time grid on which the filters are exact.

    dX = b(X, t) dt + sigma(X, t) dW  (continuous)      x_{k+1} = f(x_k, t_k) + G eps  (discrete)

become x_{k+1} = f_k(x_k) + G_k(x_k) eps with eps ~ N(0, I_m), m below d allowed. A function b is
affine_step by Euler and Maruyama; a matrix b = A exactly, by the matrix exponential. Noise: sigma is per
square root of a unit of time for continuous models, G per step for discrete ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift._core.rng import Generators, normal
from redrift.statespace.cache import Cache
from redrift.statespace.columns import affine_step, diagonal_form, linear_map, scale_noise
from redrift.statespace.jacobian import jacobian
from redrift.statespace.observation import ObservationBatch
from redrift.statespace.prior import GaussianPrior, Initial, positive_root
from redrift.statespace.sensor import Field, Sensor
from redrift.statespace.space import Euclidean, Space

TIMES = ("continuous", "discrete")
CALCULI = ("ito", "stratonovich")


@dataclass(frozen=True, eq=False)
class StateSpace:
    """Describe a hidden state and its sensors.

    Args:
        initial: a `GaussianPrior`, or sample(shape, generator=) -> states (*shape, d), at time `start`.
        drift: b(x, t), or the matrix A (d, d) of b = A x + offset; for time="discrete" the mean
            f(x, t) of the next state or the matrix F of f = F x + offset. t is a number or a tensor
            (..., 1) that broadcasts against tangent vectors (..., d). For parameter sets, tensors
            inside broadcast against (B, 1, d).
        scale: sigma or G: a number (times the identity), (d, m), or a function (x, t) ->
            (..., d, m). Per square root of a unit of time; per step for time="discrete".
        dt: longest step; the step itself for time="discrete".
        sensors: one `Sensor` or several; their measurements lie side by side in y.
        log_obs: log_prob(y, x, t) -> (...), short for one sensor of one number given by it.
        offset: (d,), with a matrix only.
        time: "continuous" or "discrete".
        calculus: "ito" or "stratonovich": the meaning of a scale that depends on x.
        space: where the state lives.
        start: time of the first state; measurements come after it.
        dim: d, where initial is a function.

    Raises:
        ValueError: if shapes do not fit or a covariance is not one.

    Example:
        >>> prior = GaussianPrior(torch.zeros(1), torch.eye(1))
        >>> model = StateSpace(prior, -torch.eye(1), 1.0, 0.1, Sensor(torch.eye(1), 0.01))
        >>> x, y = model.simulate([0.5, 1.0], batch=3, generator=torch.Generator().manual_seed(0))
        >>> y.shape
        torch.Size([3, 2, 1])
    """

    initial: Initial
    drift: Tensor | Field
    scale: float | Tensor | Field = 1.0
    dt: float = 1.0
    sensors: Sensor | Sequence[Sensor] = ()
    log_obs: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    offset: Tensor | None = None
    time: str = "continuous"
    calculus: str = "ito"
    space: Space = field(default_factory=Euclidean)
    start: float = 0.0
    dim: int = 0
    _measured: int = field(default=0, repr=False, init=False)
    _cache: Cache = field(default_factory=Cache, repr=False, init=False)
    windows: Cache = field(default_factory=lambda: Cache(64), repr=False, init=False)

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        choose("time", self.time, TIMES)
        choose("calculus", self.calculus, CALCULI)
        if not (self.dt > 0 and math.isfinite(self.dt)):
            raise ValueError(f"dt={self.dt!r} must be positive and finite.")
        sensors = (self.sensors,) if isinstance(self.sensors, Sensor) else tuple(self.sensors)
        if self.log_obs is not None:
            sensors = (*sensors, Sensor(log_prob=self.log_obs))
        if not sensors:
            raise ValueError("the model has no sensor: give sensors=Sensor(h, cov) or log_obs=.")
        object.__setattr__(self, "sensors", sensors)
        object.__setattr__(self, "_measured", sum(sensor.size or 1 for sensor in sensors))
        dim = self.initial.dim if isinstance(self.initial, GaussianPrior) else self.dim
        if dim < 1:
            raise ValueError("initial is a function: state dim=, the number of coordinates.")
        object.__setattr__(self, "dim", dim)
        self._check_shapes(dim)

    def _check_shapes(self, d: int) -> None:
        if isinstance(self.drift, Tensor) and self.drift.shape[-2:] != (d, d):
            raise ValueError(f"drift has shape {tuple(self.drift.shape)}, expected ({d}, {d}).")
        if isinstance(self.drift, Tensor) and not self.space.flat:
            raise ValueError(
                "drift is a matrix, but the space is curved: give a function of points."
            )
        if isinstance(self.scale, Tensor) and self.scale.ndim != 0:  # noqa: SIM102
            if self.scale.ndim < 2 or self.scale.shape[-2] != d:
                raise ValueError(
                    f"scale has shape {tuple(self.scale.shape)}, expected a number or ({d}, m): "
                    "use torch.diag(scale) for one number per coordinate."
                )
        for sensor in self.parts:
            if isinstance(sensor.h, Tensor) and not self.space.flat:
                raise ValueError(
                    "a sensor's h is a matrix, but the space is curved: give a function of points."
                )
            if isinstance(sensor.h, Tensor) and sensor.h.shape[-1] != d:
                raise ValueError(f"a sensor's h reads {sensor.h.shape[-1]} numbers of {d}.")

    @property
    def parts(self) -> tuple[Sensor, ...]:
        """Return the sensors as a tuple."""
        return self.sensors  # pyright: ignore[reportReturnType]

    @property
    def measured(self) -> int:
        """Return how many numbers one measurement has, over all sensors."""
        return self._measured

    @property
    def linear(self) -> bool:
        """Say whether everything is linear and Gaussian, so that Kalman's filter is exact."""
        return (
            isinstance(self.drift, Tensor)
            and not callable(self.scale)
            and isinstance(self.initial, GaussianPrior)
            and self.space.flat
            and all(s.linear for s in self.parts)
        )

    @cached_property
    def affine(self) -> bool:
        """Say whether a step is F x + offset + G eps, the same for all states."""
        return isinstance(self.drift, Tensor) and not callable(self.scale) and self.space.flat

    def advance(self, x: Tensor, t: Tensor | float, h: Tensor | float) -> Tensor:
        """Return f(x), the next state without noise: a point of the space.

        Args:
            x: states (..., *point).
            t: time, a number or a tensor that broadcasts against tangent vectors (..., d).
            h: length of the step, likewise.

        Raises:
            ValueError: if drift returns another shape than it should, on a space of matrices.
        """
        if isinstance(self.drift, Tensor):
            if isinstance(h, Tensor):
                h = float(h.flatten()[0])
            F, offset, _ = self.matrices(h, x)
            moved = linear_map(x, F)
            return moved if self.offset is None else moved + offset
        clock = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        v = self.drift(x, clock) if self.space.axes == 1 else self._drift_of_points(x, clock)
        if self.time == "discrete":
            return v
        if self.calculus == "stratonovich" and callable(self.scale):
            v = v + self._correction(self.scale, x, clock)
        return self.space.retract(x, v * h)

    def _drift_of_points(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the drift at points that are not vectors, its shape checked."""
        lead = x.shape[: x.ndim - self.space.axes]
        expected = x.shape if self.time == "discrete" else (*lead, self.dim)
        try:
            v = self.drift(x, t)  # pyright: ignore[reportCallIssue]
            if torch.broadcast_shapes(v.shape, expected) == torch.Size(expected):
                return v
            came: str | RuntimeError = f"it returned shape {tuple(v.shape)}"
        except RuntimeError as error:
            if t.ndim == 0:
                raise
            came = error
        raise ValueError(
            f"drift(x, t) with x of shape {tuple(x.shape)} and t of shape {tuple(t.shape)}: {came}; "
            f"expected {tuple(expected)}. t broadcasts against tangent vectors (..., d): beside "
            f"points write t.reshape(*t.shape, {', '.join(['1'] * (self.space.axes - 1))})."
        )

    def root(self, x: Tensor, t: Tensor | float, h: Tensor | float) -> Tensor:
        """Return G, (d, m) or (..., d, m): noise eps moves the state by G eps."""
        if isinstance(self.drift, Tensor) and not callable(self.scale):
            return self.matrices(float(h), x)[2]
        unit = 1.0 if self.time == "discrete" else h**0.5
        if callable(self.scale):
            clock = torch.as_tensor(t, dtype=x.dtype, device=x.device)
            if isinstance(unit, Tensor):
                unit = unit.unsqueeze(-1)
            return self.scale(x, clock) * unit
        return self._constant(x) * unit

    def noise_size(self, x: Tensor, t: float, h: float) -> int:
        """Return m, how many numbers of noise a step takes."""
        return self._cache.keep("m", lambda: self.root(x, t, h).shape[-1])

    def step(self, x: Tensor, t: float, h: float, z: Tensor) -> Tensor:
        """Return the next states (B, N, *point) with the model's own noise z (m, B, N)."""
        if self.affine:
            F, offset, G = self._cache.keep(
                ("step", round(h, 12), x.dtype, x.device), self._affine, h, x
            )
            if F is not None:
                x = affine_step(x, z, F, G)
                return x if self.offset is None else x + offset
        return self.space.retract(
            self.advance(x, t, h), scale_noise(self.root(x, t, h), z.permute(1, 2, 0))
        )

    def _affine(self, h: float, like: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return F, offset and G as `affine_step` takes them; F is None if there are several."""
        F, offset, G = self.matrices(h, like)
        if F.ndim > 2 or G.ndim > 2:
            return None, offset, G
        if F.requires_grad or G.requires_grad:
            return F, offset, G
        F, G = diagonal_form(F, G)
        return F, offset, G

    def shares(self, obs: ObservationBatch) -> list[ObservationBatch]:
        """Return each sensor's share of measurements."""
        if len(self.parts) == 1:
            return [obs]
        pieces = obs.y.split([s.size or 1 for s in self.parts], -1)
        return [obs._replace(y=y) for y in pieces]

    def log_likelihood(self, obs: ObservationBatch, at: Tensor) -> Tensor:
        """Return l of measurements (..., B, N), over all sensors, at states (..., B, N, *point)."""
        first, *rest = self.parts
        if not rest:
            return first.log_likelihood(obs, at)
        each = zip(self.parts, self.shares(obs), strict=True)
        return sum((s.log_likelihood(r, at) for s, r in each), start=at.new_zeros(()))

    def matrices(self, h: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return F, offset and G of one step of a linear model, in the dtype of `like`.

        Continuous models by the block exponential of Van Loan (1978): exact for every h.
        """
        return self._cache.keep((round(h, 12), like.dtype, like.device), self._matrices, h, like)

    def _matrices(self, h: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(self.drift, Tensor):
            raise ValueError("drift is a function: only a matrix has matrices.")
        A, d = self.drift.to(like), self.dim
        offset = like.new_zeros(d) if self.offset is None else self.offset.to(like)
        sigma = like.new_zeros(d, 1) if callable(self.scale) else self._constant(like)
        if self.time == "discrete":
            return A, offset, sigma
        noise = (sigma @ sigma.mT).expand(*A.shape[:-2], d, d)
        block = torch.cat(
            [torch.cat([-A, noise], -1), torch.cat([torch.zeros_like(A), A.mT], -1)], -2
        )
        exp = torch.linalg.matrix_exp(block * h)
        F = exp[..., d:, d:].mT
        Q = F @ exp[..., :d, d:]
        wide = torch.cat([A, offset.expand(*A.shape[:-2], d).unsqueeze(-1)], -1)
        wide = torch.cat([wide, torch.zeros_like(wide[..., :1, :])], -2)
        moved = torch.linalg.matrix_exp(wide * h)[..., :d, -1]
        G = positive_root("the step's covariance", (Q + Q.mT) / 2, semi=True)
        return F, moved, G

    def _constant(self, like: Tensor) -> Tensor:
        scale = torch.as_tensor(self.scale, dtype=like.dtype, device=like.device)
        eye = torch.eye(self.dim, dtype=like.dtype, device=like.device)
        return scale * eye if scale.ndim == 0 else scale

    def _correction(self, scale: Field, x: Tensor, t: Tensor) -> Tensor:
        """Return sum_i (D sigma_i) sigma_i / 2 (..., d), the drift that Ito's calculus adds.

        Derivatives are along the space, in coordinates around x.
        """
        columns = scale(x, t)
        total = origin = x.new_zeros(*x.shape[: x.ndim - self.space.axes], self.dim)
        for i in range(columns.shape[-1]):
            _, slope = jacobian(
                lambda xi: scale(self.space.retract(x, xi), t)[..., i],  # noqa: B023
                origin,
            )
            total = total + (slope @ columns[..., i].unsqueeze(-1)).squeeze(-1) / 2
        return total

    def draw(self, batch: int, n: int, generator: Generators, like: Tensor) -> Tensor:
        """Return first states (batch, n, *point)."""
        if isinstance(self.initial, GaussianPrior):
            z = normal((batch, n, self.dim), generator, dtype=like.dtype, device=like.device)
            return self.space.retract(
                self.initial.mean.to(like), z @ self.initial.root.to(like).mT
            )
        return self.initial((batch, n), generator=generator).to(like)

    def grid(self, before: float, until: float) -> list[float]:
        """Return the grid after `before` up to `until`: equal steps of at most dt.

        Raises:
            ValueError: for time="discrete", if `until` is not a whole number of steps away.
        """
        ratio = (until - before) / self.dt
        count = math.ceil(ratio - 1e-6)
        if self.time == "discrete" and (abs(ratio - round(ratio)) > 1e-6 or count < 1):
            raise ValueError(
                f"time {until:g} is {ratio:g} steps of {self.dt:g} after {before:g}: a discrete "
                "model needs whole steps. Change dt, or state the model in continuous time."
            )
        if count == 1:
            return [until]
        return [*(before + (until - before) * i / count for i in range(1, count)), until]

    def simulate(
        self, times: Sequence[float] | Tensor, *, batch: int = 1, generator: Generators = None
    ) -> tuple[Tensor, Tensor]:
        """Draw states and measurements.

        Args:
            times: increasing, after `start`.
            batch: number of data sets.
            generator: one, one per data set, or None.

        Returns:
            States (batch, K, *point) and measurements (batch, K, p), float64.
        """
        like = torch.zeros((), dtype=torch.float64)
        x = self.draw(batch, 1, generator, like)
        now, states, data = self.start, [], []
        for until in [float(t) for t in times]:
            before = now
            for then in self.grid(now, until):
                h = then - now
                G = self.root(x, now, h)
                z = normal((batch, 1, G.shape[-1]), generator, dtype=torch.float64)
                move = (G @ z.unsqueeze(-1)).squeeze(-1)
                x, now = self.space.retract(self.advance(x, now, h), move), then
            states.append(x[:, 0])
            t = torch.tensor(until).double()
            interval = torch.tensor(until - before).double()
            noise = normal((batch, 1, self.measured), generator, dtype=torch.float64)
            pieces = noise.split([s.size or 1 for s in self.parts], -1)
            y = [s.draw(x, t, interval, p) for s, p in zip(self.parts, pieces, strict=True)]
            data.append(torch.cat(y, -1)[:, 0])
        return torch.stack(states, 1), torch.stack(data, 1)
