r"""The path-integral particle filter: windows of optimally steered paths.

At a time t the paths of a window [t - L, t] are drawn anew under a control that looks ahead to
all data of the window, and weighed exactly, whatever the control is. Two recursions:

    block      paths are kept; the old stretch's log-increments are taken off the weight, the
               stretch is drawn again under the new control, and its increments are added
    archive    weighted particles of earlier times are kept; those at t - L start the window

Both start with a look-ahead: particles are resampled by their weight times psi, the twisting function
at the start, so that the start, too, is steered. A window that reaches the first time draws its first
state from the twisted prior.

Paper: path-integral particle filtering, arXiv:2110.03199.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.rng import Generators, normal
from redrift.measure.noise import white_log_ratio
from redrift.measure.resampling import METHODS, ancestors, check_ess_threshold, require_weight
from redrift.pathintegral.dense import WindowMatrices, matrices_of
from redrift.pathintegral.forward import simulate_paths
from redrift.pathintegral.ilqr import nominal
from redrift.pathintegral.refine import FAMILIES, refine
from redrift.pathintegral.twisting import GaussianStart, TwistingFunction
from redrift.pathintegral.window import Window, require_observable
from redrift.statespace.cloud import ParticleCloud, select
from redrift.statespace.columns import matvec
from redrift.statespace.prior import GaussianPrior
from redrift.statespace.recursion import (
    FilterState,
    Setup,
    draw_noise,
    normalise,
    resample_below,
)
from redrift.statespace.space import covariance, mean_and_variance

OPTIONS = {
    "twisting": ("auto", "lq", "ilqr", "none"),
    "scope": ("shared", "particle"),
    "proposal": ("twist", "shift"),
    "family": FAMILIES,
    "mode": ("block", "archive"),
    "init": ("twist", "oversample", "prior"),
    "resampling": METHODS,
}


class WindowStart(NamedTuple):
    """Hold the start of a window.

    Attributes:
        x: states (B, N, *point).
        log_w: log-weights (B, N), of which the log-sum is what the look-ahead adds to log Z.
        psi: the steering from here.
        first_stage: log-weights of the look-ahead (B, n), see `ParticleCloud`.
        origin: ancestors (B, N), or None.
        noise_free: states that are walked without noise, where they are not x.
    """

    x: Tensor
    log_w: Tensor
    psi: TwistingFunction | None
    first_stage: Tensor
    origin: Tensor | None = None
    noise_free: Tensor | None = None


@dataclass(frozen=True)
class PathIntegral:
    """Steer the paths of a window towards its data.

    Args:
        window: length L in model time; math.inf is all data. At least five times the time that the
            filter forgets in, and long enough to see the whole state.
        stride: least time between clouds; None gives one per measurement, math.inf only the last.
        twisting: how psi, the twisting function, is made: "auto" ("lq" for linear-Gaussian models,
            "ilqr" for others), "lq" (one linearisation), "ilqr", "none", or a function
            (window, psi) -> psi that changes the automatic one.
        scope: "shared", one psi per data set, or "particle", one per particle: for distributions with
            several modes, and for wide first states.
        proposal: "twist" steers mean and covariance of the noise, "shift" the mean only.
        sweeps: most iLQR sweeps.
        iterations: path-integral (cross-entropy) refinements of a shared psi; each is kept
            only where fresh noise gives a larger effective sample size. Needs N of 1000 and more.
        family: of the refinements: "open_loop", "feedback" or "feedback+cov".
        mode: "block" or "archive".
        look_ahead: choose the window's first states by weight times psi; if False by weight alone,
            below `ess_threshold`.
        init: "twist", "oversample" or "prior": the first state. "twist" needs a `GaussianPrior`; with
            scope="particle" it is "oversample".
        oversample: candidates per particle for the first state.
        rao_blackwell: report the mean of the noise-free ends of the window's paths: for linear models
            exact to the window's memory, for others with a bias.
        ess_threshold: where there is no look-ahead (or no psi), resample below this effective sample
            size, a share of N.
        resampling: method, see `redrift.measure.resample`.
        check: refuse windows that are too short to see the state (linear models).

    Raises:
        ValueError: if an option is unknown.

    Cost:
        Per cloud and data set: psi, sweeps * W steps (W grid steps per window; N times that with
        scope="particle"), and N W evaluations of drift and scale.
    """

    window: float
    stride: float | None = None
    twisting: str | Callable[[Window, TwistingFunction], TwistingFunction] = "auto"
    scope: str = "shared"
    proposal: str = "twist"
    sweeps: int = 3
    iterations: int = 0
    family: str = "feedback"
    mode: str = "block"
    look_ahead: bool = True
    init: str = "twist"
    oversample: int = 8
    rao_blackwell: bool = False
    ess_threshold: float = 0.5
    resampling: str = "systematic"
    check: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.window >= 0:
            raise ValueError(f"window={self.window!r} must be at least 0, in units of time.")
        for name, known in OPTIONS.items():
            if not callable(value := getattr(self, name)):
                choose(name, value, known)
        whole("sweeps", self.sweeps, least=0)
        whole("iterations", self.iterations, least=0)
        whole("oversample", self.oversample)
        check_ess_threshold(self.ess_threshold)
        if self.iterations and self.scope == "particle":
            raise ValueError("iterations refine a shared psi: use scope='shared'.")

    @property
    def guided(self) -> bool:
        """Say whether there is a twisting function, or refinements that make one."""
        return self.twisting != "none" or self.iterations > 0

    def step(
        self, setup: Setup, state: FilterState, generator: Generators, /
    ) -> tuple[FilterState, ParticleCloud]:
        """Return the state and the particles at the end of state.grid."""
        model, like = setup.model, setup.like
        i, kept = self._kept(state, model.start)
        window = Window.of(model, state.grid[i:], state.data, like)
        linear = self._linear(setup, window, state.batch)
        if kept is None:
            log_z = like.new_zeros(state.batch)
            begin = self._first(setup, state.batch, window, linear, generator)
        else:
            if self.check and not state.checked and model.linear and window.obs is not None:
                require_observable(window, like)
                state = state._replace(checked=True)
            x, old, log_z, off = kept
            psi = self._twisting(window, x, old, linear)
            log_w = old if off is None else old - off
            begin = self._choose(x, log_w, psi, setup, generator)
        x, log_w, psi, first_stage, index, noise_free = begin
        if self.iterations:
            psi = refine(window, psi, x, log_w, self.iterations, self.family, generator)
        if noise_free is None and self.rao_blackwell:
            noise_free = x
        z = draw_noise(model, window.times, x, generator).permute(0, 2, 3, 1)
        if linear is None:
            run = simulate_paths(window, psi, x, z, noise_free)
        else:
            run = linear.simulate_paths(window, x, z, noise_free)
        path, increments = run.path, run.increments
        end, log_w, log_z, lost = normalise(path[-1], log_w + increments.sum(0), log_z, state.time)
        if lost:
            path, increments = _mended(path, end, log_w), increments.nan_to_num(0.0, 0.0, 0.0)
        cloud = ParticleCloud(
            state.time, end, log_w, log_z, first_stage, index,
            run.noise_free if self.rao_blackwell else None, lost=lost, space=model.space,
        )  # fmt: skip
        if setup.smooth:
            w = log_w.exp().expand(len(path), -1, -1)
            cloud = cloud._replace(
                lags=mean_and_variance(model.space, path, w), lag_times=window.times
            )
        return self._next(state, i, path, increments, log_w, log_z), cloud

    def _kept(
        self, state: FilterState, first: float
    ) -> tuple[int, tuple[Tensor, Tensor, Tensor, Tensor | None] | None]:
        """Return where the window starts in the grid, and the particles there (None: the prior)."""
        until = state.time - self.window + 1e-9
        if state.path is None or state.log_w is None or state.log_z is None:
            return 0, None
        if self.mode == "archive":
            past = [entry for entry in state.archive if entry[0] <= until]
            if not past:
                return 0, None
            t, x, log_w, log_z = past[-1]
            return state.grid.index(t), (x, log_w, log_z, None)
        i = max((k for k, t in enumerate(state.grid[: len(state.path)]) if t <= until), default=0)
        if i == 0 and state.grid[0] == first:
            return 0, None
        off = None if state.increments is None else state.increments[i:].sum(0)
        return i, (state.path[i], state.log_w, state.log_z, off)

    def _next(
        self,
        state: FilterState,
        i: int,
        path: Tensor,
        increments: Tensor,
        log_w: Tensor,
        log_z: Tensor,
    ) -> FilterState:
        """Return the state after a window that began at grid index i."""
        archive = state.archive
        if self.mode == "archive":
            until = state.time - self.window + 1e-9
            old = [e for e in archive if e[0] <= until][-1:]
            new = [e for e in archive if e[0] > until]
            archive = (*old, *new, (state.time, path[-1], log_w, log_z))
            first = old[0][0] if old else state.grid[0]
            i, path, increments = state.grid.index(first), path[-1:], increments[:0]
        since = state.grid[i]
        data = tuple(d for d in state.data if d.time > since)
        return FilterState(
            state.grid[i:], state.batch, state.time, data, None, log_w, log_z, path, increments,
            archive, state.checked,
        )  # fmt: skip

    def _linear(self, setup: Setup, window: Window, batch: int) -> WindowMatrices | None:
        """Return the window as matrices, where that is possible."""
        own = self.scope != "shared" or self.iterations or callable(self.twisting)
        if own or self.twisting == "none":
            return None
        return matrices_of(window, setup.like, self.proposal == "twist", batch, setup.particles)

    def _twisting(
        self, window: Window, x: Tensor, log_w: Tensor, linear: WindowMatrices | None
    ) -> TwistingFunction | None:
        """Return psi of a window that starts at particles x."""
        if linear is not None:
            return linear.steer()
        if self.twisting == "none":
            return None
        if self.scope == "particle":
            return self._nominal(window, x, None)
        space, w = window.model.space, log_w.exp()
        mean = space.mean(x, w)
        spread = covariance(space, mean, x, w)
        small = 1e-10 * torch.eye(spread.shape[-1], dtype=x.dtype, device=x.device)
        mean = mean.unsqueeze(1)
        start = GaussianStart(mean, torch.linalg.cholesky(spread + small))
        return self._nominal(window, mean, start)

    def _nominal(self, window: Window, x: Tensor, start: GaussianStart | None) -> TwistingFunction:
        sweeps = 0 if self.twisting == "lq" else self.sweeps
        psi = nominal(window, x.detach(), start, sweeps, twist=self.proposal == "twist")
        return self.twisting(window, psi) if callable(self.twisting) else psi

    def _first(
        self,
        setup: Setup,
        batch: int,
        window: Window,
        linear: WindowMatrices | None,
        generator: Generators,
    ) -> WindowStart:
        """Draw first states: from the twisted prior, or the best of many candidates."""
        model, n, like = setup.model, setup.particles, setup.like
        even, noise_free = like.new_zeros(batch, 1), None
        gaussian = isinstance(model.initial, GaussianPrior)
        shared = self.scope == "shared" or model.linear
        if self.guided and self.init == "twist" and gaussian and shared:
            start = GaussianStart.of(model, batch, like)
            if linear is not None:
                psi = linear.steer()
            elif self.twisting == "none":
                psi = None
            else:
                psi = self._nominal(window, start.mean, start)
            z = normal((batch, n, model.dim), generator, dtype=like.dtype, device=like.device)
            if psi is None:
                eps, log_w = z, like.new_full((batch, n), -math.log(n))
            else:
                mu, root, log_det = start.steer(model, psi)
                eps = mu + matvec(root, z)
                log_w = white_log_ratio(eps, z, log_det) - math.log(n)
                if self.rao_blackwell and model.linear:  # the start is a step of noise, too
                    noise_free = start.mean + matvec(start.root, mu).expand(-1, n, -1)
            x = model.space.retract(start.mean, matvec(start.root, eps))
            return WindowStart(x, log_w, psi, even, noise_free=noise_free)
        few = self.twisting == "none" or self.init == "prior" or not self.look_ahead
        many = n if few else n * self.oversample
        x = model.draw(batch, many, generator, like)
        log_w = like.new_full((batch, many), -math.log(many))
        if not self.guided:
            return WindowStart(x, log_w, None, even)
        psi = self._twisting(window, x, log_w, linear)
        return self._choose(x, log_w, psi, setup, generator)

    def _choose(
        self,
        x: Tensor,
        log_w: Tensor,
        psi: TwistingFunction | None,
        setup: Setup,
        generator: Generators,
    ) -> WindowStart:
        """Look ahead: resample by weight times psi, and take psi off the weight again."""
        n = setup.particles
        if psi is None or not self.look_ahead:
            total = log_w.logsumexp(-1, keepdim=True)
            level = log_w - total if bool((total.abs() > 1e-12).any()) else log_w
            x, renewed, index = resample_below(
                x, level, self.ess_threshold, self.resampling, generator
            )
            log_w = renewed if level is log_w else renewed + total
            if psi is not None and index is not None:
                psi = psi.reindex(index)
            return WindowStart(x, log_w, psi, level, index)
        log_psi = psi.log_psi(setup.model, x)
        ahead = log_w + log_psi
        top = ahead.amax(-1, keepdim=True)
        if not math.isfinite(top.sum().item()):
            ahead = ahead.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            require_weight(ahead)
            top = ahead.amax(-1, keepdim=True)
        w = (ahead - top).exp()
        total = w.sum(-1, keepdim=True)
        index = ancestors(w, n, self.resampling, generator)
        log_w = (total.log() + top - math.log(n)) - log_psi.gather(-1, index)
        return WindowStart(select(x, index), log_w, psi.reindex(index), ahead, index)


def _mended(path: Tensor, end: Tensor, log_w: Tensor) -> Tensor:
    """Return paths (W + 1, B, N, *point) with the heaviest in place of those that are not finite."""
    fine = torch.isfinite(path).flatten(3).all(-1).all(0)
    other = torch.stack([select(x, log_w.argmax(-1, keepdim=True)) for x in path])
    path = torch.where(fine.reshape(1, *fine.shape, *[1] * (path.ndim - 3)), path, other)
    return torch.cat([path[:-1], end.unsqueeze(0)])


def GuidedProposal(
    *, scope: str = "particle", sweeps: int = 3, ess_threshold: float = 0.5
) -> PathIntegral:
    """Return the guided particle filter: steer to the next measurement, resample afterwards.

    Args:
        scope: "particle" linearises around every particle.
        sweeps: of iLQR.
        ess_threshold: resample below this effective sample size, a share of N.
    """
    return PathIntegral(
        0.0, scope=scope, sweeps=sweeps, look_ahead=False, ess_threshold=ess_threshold, check=False
    )


def AuxiliaryProposal(*, scope: str = "particle", sweeps: int = 3) -> PathIntegral:
    """Return the auxiliary particle filter: a guided one whose particles are chosen by what comes.

    Paper: Pitt and Shephard (1999).
    """
    return PathIntegral(0.0, scope=scope, sweeps=sweeps, check=False)
