r"""The path-integral particle filter: windows of optimally steered paths.

At a time t the paths of a window [t - L, t] are drawn anew under a control that looks ahead to
all data of the window, and weighed exactly, whatever the control is. Two recursions:

    block      paths are kept; the old stretch's log-increments are taken off the weight, the
               stretch is drawn again under the new guide, and its increments are added
    archive    weighted particles of earlier filter laws are kept; the law at t - L starts the window

Both start with a look-ahead: particles are resampled by their weight times psi, the value of
the guide at the start, so that the start, too, is steered. A window that reaches the first time
draws its first state from the twisted prior.

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
from redrift.filters.dense import Dense, prepared, rows_of
from redrift.filters.forward import log_ratio, walk
from redrift.filters.guide import Guide, Start, Window, nominal, times
from redrift.filters.law import Law, select
from redrift.filters.observability import require_observable
from redrift.filters.particle import (
    ParticleFilter,
    State,
    ancestors,
    draw_noise,
    make_window,
    renew,
    settle,
)
from redrift.filters.space import covariance, moments
from redrift.filters.statespace import Gaussian
from redrift.measure.resampling import require_weight

MODES = ("block", "archive")
SCOPES = ("shared", "particle")


class Begin(NamedTuple):
    """Hold the start of a window.

    Attributes:
        x: states (B, N, *point).
        log_w: log-weights (B, N), of which the log-sum is what the look-ahead adds to log Z.
        guide: the steering from here.
        start: log-weights of the look-ahead (B, n), see `Law`.
        origin: ancestors (B, N), or None.
        calm: states that are walked without noise, where they are not x.
    """

    x: Tensor
    log_w: Tensor
    guide: Guide | None
    start: Tensor
    origin: Tensor | None = None
    calm: Tensor | None = None


@dataclass(frozen=True)
class PathIntegral:
    """Steer the paths of a window towards its data.

    Args:
        window: length L in model time; math.inf is the whole record. At least five times the
            time that the filter forgets in, and long enough to see the whole state.
        stride: least time between laws; None gives one per measurement, math.inf only the last.
        guide: "auto" ("lq" for linear-Gaussian models, "ilqr" for others), "lq" (one
            linearisation), "ilqr", "none", or a function (window, guide) -> guide that changes the
            automatic one.
        scope: "shared", one guide per data set, or "particle", one per particle: for laws with
            several modes, and for start laws that are wide.
        proposal: "twist" steers mean and covariance of the noise, "shift" the mean only.
        sweeps: most iLQR sweeps.
        iterations: path-integral (cross-entropy) refinements of a shared guide; each is kept
            only where fresh noise gives a larger effective sample size. Needs N of 1000 and more.
        family: of the refinements: "open_loop", "feedback" or "feedback+cov".
        mode: "block" or "archive".
        start: "lookahead", or "none": resample by weight alone, below `threshold`.
        init: "twist", "oversample" or "prior": the first state. "twist" needs a Gaussian; with
            scope="particle" it is "oversample".
        oversample: candidates per particle for the first state.
        rao_blackwell: report the mean of the noise-free ends of the window's paths: for linear models
            exact to the window's memory, for others with a bias.
        threshold: effective share below which start="none" (or guide="none") resamples.
        scheme: of resampling.
        check: refuse windows that are too short to see the state (linear models).

    Raises:
        ValueError: if an option is unknown.

    Cost:
        Per law and data set: the guide, sweeps * W steps (W grid steps per window; N times that with
        scope="particle"), and N W evaluations of drift and scale.
    """

    window: float
    stride: float | None = None
    guide: str | Callable[[Window, Guide], Guide] = "auto"
    scope: str = "shared"
    proposal: str = "twist"
    sweeps: int = 3
    iterations: int = 0
    family: str = "feedback"
    mode: str = "block"
    start: str = "lookahead"
    init: str = "twist"
    oversample: int = 8
    rao_blackwell: bool = False
    threshold: float = 0.5
    scheme: str = "systematic"
    check: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.window >= 0:
            raise ValueError(f"window={self.window!r} must be at least 0, in units of time.")
        if isinstance(self.guide, str):
            choose("guide", self.guide, ("auto", "lq", "ilqr", "none"))
        choose("scope", self.scope, SCOPES)
        choose("proposal", self.proposal, ("twist", "shift"))
        choose("family", self.family, ("open_loop", "feedback", "feedback+cov"))
        choose("mode", self.mode, MODES)
        choose("start", self.start, ("lookahead", "none"))
        choose("init", self.init, ("twist", "oversample", "prior"))
        whole("sweeps", self.sweeps, least=0)
        whole("iterations", self.iterations, least=0)
        if self.iterations and self.scope == "particle":
            raise ValueError("iterations refine a shared guide: use scope='shared'.")

    @property
    def guided(self) -> bool:
        """Say whether there is a guide, or refinements that make one."""
        return self.guide != "none" or self.iterations > 0

    def emit(
        self, filter: ParticleFilter, state: State, generator: Generators, /
    ) -> tuple[State, Law]:
        """Return the state and the law at the end of state.grid."""
        model = filter.model
        i, kept = self._begin(state, model.start)
        window = make_window(model, state.grid[i:], state.data, filter.like)
        plan, rows = self._dense(filter, window, state.batch), None
        if plan is not None:
            rows = rows_of(window, state.batch, filter.like)
        if kept is None:
            log_z = filter.like.new_zeros(state.batch)
            begin = self._first(filter, state.batch, window, plan, rows, generator)
        else:
            if self.check:
                require_observable(filter, window)
            x, old, log_z, off = kept
            guide = self._guide(window, x, old, plan, rows)
            log_w = old if off is None else old - off
            begin = self._look(x, log_w, guide, filter, generator)
        x, log_w, guide, looked, index, calm = begin
        if self.iterations:
            from redrift.filters.refine import refine

            guide = refine(window, guide, x, log_w, self, generator)
        if calm is None and self.rao_blackwell:
            calm = x
        z = draw_noise(model, window.times, x, generator).permute(0, 2, 3, 1)
        if plan is not None and rows is not None:
            run = plan.walk(window, rows, x, z, calm)
        else:
            run = walk(window, guide, x, z, calm)
        path, gain = run.path, run.gain
        end, log_w, log_z, lost = settle(path[-1], log_w + gain.sum(0), log_z, state.time)
        if lost:
            path = torch.where(torch.isfinite(path), path, torch.zeros_like(path))
            path = torch.cat([path[:-1], end.unsqueeze(0)])
            gain = gain.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        law = Law(
            state.time, end, log_w, log_z, looked, index, run.calm if self.rao_blackwell else None,
            lost=lost, space=model.space,
        )  # fmt: skip
        if filter.smooth:
            w = log_w.exp().expand(len(path), -1, -1)
            law = law._replace(lags=moments(model.space, path, w), lag_times=window.times)
        return self._next(state, i, path, gain, log_w, log_z), law

    def _begin(
        self, state: State, first: float
    ) -> tuple[int, tuple[Tensor, Tensor, Tensor, Tensor | None] | None]:
        """Return where the window starts in the grid, and its law there (None: the prior)."""
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
        off = None if state.gain is None else state.gain[i:].sum(0)
        return i, (state.path[i], state.log_w, state.log_z, off)

    def _next(
        self, state: State, i: int, path: Tensor, gain: Tensor, log_w: Tensor, log_z: Tensor
    ) -> State:
        """Return the state after a window that began at grid index i."""
        archive = state.archive
        if self.mode == "archive":
            until = state.time - self.window + 1e-9
            old = [e for e in archive if e[0] <= until][-1:]
            new = [e for e in archive if e[0] > until]
            archive = (*old, *new, (state.time, path[-1], log_w, log_z))
            first = old[0][0] if old else state.grid[0]
            i, path, gain = state.grid.index(first), path[-1:], gain[:0]
        since = state.grid[i]
        data = tuple(d for d in state.data if d.time > since)
        return State(
            state.grid[i:], state.batch, state.time, data, None, log_w, log_z, path, gain, archive
        )

    def _dense(self, filter: ParticleFilter, window: Window, batch: int) -> Dense | None:
        """Return the window as matrices, where that is possible and small; kept by its shape."""
        if not filter.model.linear or self.scope != "shared" or self.iterations:
            return None
        if self.guide not in ("auto", "lq", "ilqr"):
            return None
        twist, paths = self.proposal == "twist", batch * filter.particles
        return prepared(window, filter.like, twist, paths)

    def _guide(
        self,
        window: Window,
        x: Tensor,
        log_w: Tensor | None,
        plan: Dense | None,
        rows: Tensor | None,
    ) -> Guide | None:
        """Return the guide of a window that starts at particles x."""
        if plan is not None and rows is not None:
            return plan.steer(rows)
        if self.guide == "none":
            return None
        space, start = window.model.space, None
        if self.scope == "shared" and log_w is not None:
            w = log_w.exp()
            mean = space.mean(x, w)
            spread = covariance(space, mean, x, w)
            small = 1e-10 * torch.eye(spread.shape[-1], dtype=x.dtype, device=x.device)
            mean = mean.unsqueeze(1)
            start = Start(mean, torch.linalg.cholesky(spread + small))
            x = mean
        elif self.scope == "shared":
            start = Start.of(window.model.initial, len(x), x)  # pyright: ignore
            x = start.mean
        return self._made(window, x, start)

    def _made(self, window: Window, x: Tensor, start: Start | None) -> Guide:
        sweeps = 0 if self.guide == "lq" else self.sweeps
        guide = nominal(window, x.detach(), start, sweeps, twist=self.proposal == "twist")
        return self.guide(window, guide) if callable(self.guide) else guide

    def _first(
        self,
        filter: ParticleFilter,
        batch: int,
        window: Window,
        plan: Dense | None,
        rows: Tensor | None,
        generator: Generators,
    ) -> Begin:
        """Draw first states: from the twisted prior, or the best of many candidates."""
        model, n, like = filter.model, filter.particles, filter.like
        whole, calm = like.new_zeros(batch, 1), None
        gaussian = isinstance(model.initial, Gaussian)
        shared = self.scope == "shared" or model.linear
        if self.guided and self.init == "twist" and gaussian and shared:
            start = Start.of(model.initial, batch, like)  # pyright: ignore
            if plan is not None and rows is not None:
                guide = plan.steer(rows)
            elif self.guide == "none":
                guide = None
            else:
                guide = self._made(window, start.mean, start)
            z = normal((batch, n, model.dim), generator, dtype=like.dtype, device=like.device)
            if guide is None:
                eps, log_w = z, like.new_full((batch, n), -math.log(n))
            else:
                mu, root, log_det = start.steer(model, guide)
                eps = mu + times(root, z)
                log_w = log_ratio(eps, z, log_det) - math.log(n)
                if self.rao_blackwell and model.linear:  # the start is a step of noise, too
                    calm = start.mean + times(start.root, mu).expand(-1, n, -1)
            x = model.space.retract(start.mean, times(start.root, eps))
            return Begin(x, log_w, guide, whole, calm=calm)
        few = self.guide == "none" or self.init == "prior" or self.start == "none"
        many = n if few else n * self.oversample
        x = model.draw(batch, many, generator, like)
        log_w = like.new_full((batch, many), -math.log(many))
        if not self.guided:
            return Begin(x, log_w, None, whole)
        guide = self._guide(window, x, log_w, plan, rows)
        return self._look(x, log_w, guide, filter, generator)

    def _look(
        self,
        x: Tensor,
        log_w: Tensor,
        guide: Guide | None,
        filter: ParticleFilter,
        generator: Generators,
    ) -> Begin:
        """Look ahead: resample by weight times psi, and take psi off the weight again."""
        n = filter.particles
        if guide is None or self.start == "none":
            total = log_w.logsumexp(-1, keepdim=True)
            level = log_w - total if bool((total.abs() > 1e-12).any()) else log_w
            x, renewed, index = renew(x, level, self.threshold, self.scheme, generator)
            log_w = renewed if level is log_w else renewed + total
            if guide is not None and index is not None:
                guide = guide.take(index)
            return Begin(x, log_w, guide, level, index)
        psi = guide.log_psi(filter.model, x)
        ahead = log_w + psi
        top = ahead.amax(-1, keepdim=True)
        if not math.isfinite(top.sum().item()):
            ahead = ahead.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            require_weight(ahead)
            top = ahead.amax(-1, keepdim=True)
        w = (ahead - top).exp()
        total = w.sum(-1, keepdim=True)
        index = ancestors(w, n, self.scheme, generator)
        log_w = (total.log() + top - math.log(n)) - psi.gather(-1, index)
        return Begin(select(x, index), log_w, guide.take(index), ahead, index)


def Guided(*, scope: str = "particle", sweeps: int = 3, threshold: float = 0.5) -> PathIntegral:
    """Return the guided particle filter: steer to the next measurement, resample afterwards.

    Args:
        scope: "particle" linearises around every particle.
        sweeps: of iLQR.
        threshold: effective share below which particles are resampled.
    """
    return PathIntegral(
        0.0, scope=scope, sweeps=sweeps, start="none", threshold=threshold, check=False
    )


def Auxiliary(*, scope: str = "particle", sweeps: int = 3) -> PathIntegral:
    """Return the auxiliary particle filter: a guided one whose particles are chosen by what comes.

    Paper: Pitt and Shephard (1999).
    """
    return PathIntegral(0.0, scope=scope, sweeps=sweeps, check=False)
