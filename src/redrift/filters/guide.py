r"""The guide: a backward pass that says how to steer the noise so that paths meet the data.

psi_k(x) ~ E[prod_{j >= k} exp l_j | x_k = x] is kept as exp(c + eta' xi - xi' Lam xi / 2) in the
coordinates xi of x around a nominal path. Backward, with xi' = F xi + a + G eps:

    measurement    Lam += -l'',  eta += l',  c += l                    (at the nominal point)
    step           S = (I + G' Lam G)^-1,  A = Lam - Lam G S G' Lam,  v = eta - Lam G S G' eta
                   c += log det S / 2 + eta' G S G' eta / 2 - a' A a / 2 + a' v
                   eta = F' (v - A a),  Lam = F' A F

Forward, the noise of a step has the law N(mu, S) with mu = S G' (eta - Lam xi), xi the coordinates
of f(x). For linear-Gaussian models this is exact: all paths then weigh the same. Nothing inverts the
covariance of a step, so noise on the velocity alone is no obstacle. For other models the
nominal path is improved by sweeps, each accepted only where its cost fell (iLQR, Gauss-Newton).

Paper: Adaptive smoothing particle filter as control, arXiv:2110.03199; derived here from the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.filters._jacobian import jacobian
from redrift.filters.sensors import Quadratic, Reading, push, turned
from redrift.filters.statespace import Gaussian, StateSpace

ALPHAS = (1.0, 0.5, 0.25, 0.1)  # shares of a sweep that are tried


@dataclass(frozen=True, eq=False)
class Window:
    """Hold what a guide is made for: a stretch of the grid and its measurements.

    Attributes:
        model: the model.
        times: grid times, W + 1 of them.
        places: for each measurement its index in the grid, 1 to W.
        reading: the measurements, stacked, or None if there are none.
    """

    model: StateSpace
    times: tuple[float, ...]
    places: tuple[int, ...]
    reading: Reading | None

    @property
    def steps(self) -> int:
        """Return W."""
        return len(self.times) - 1

    def clock(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the starts and lengths of the steps, (W, 1, 1, 1)."""
        t = torch.tensor(self.times, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)
        return t[:-1], t[1:] - t[:-1]

    def log_likelihood(self, path: Tensor) -> Tensor | None:
        """Return l of each measurement (J, B, N) on a path (W + 1, B, N, *point)."""
        if self.reading is None:
            return None
        return self.model.log_likelihood(self.reading, path[self.spots])

    @property
    def spots(self) -> slice | list[int]:
        """Return the measurements' places as an index: a slice where they are evenly spaced."""
        steps = {b - a for a, b in zip(self.places, self.places[1:])}  # noqa: B905
        if len(steps) > 1:
            return list(self.places)
        return slice(self.places[0], self.places[-1] + 1, steps.pop() if steps else 1)

    def readings(self) -> list[Reading]:
        """Return each sensor's share of the measurements."""
        if self.reading is None:
            return []
        return self.model.shares(self.reading)

    def quadratic(self, base: Tensor) -> Quadratic | None:
        """Return the quadratic forms (J, B, n, ...) of the measurements around a nominal path."""
        if self.reading is None:
            return None
        model, at = self.model, base[self.spots]
        first, *rest = [
            s.quadratic(r, at, model.space, model.dim)
            for s, r in zip(model.parts, self.readings(), strict=True)
        ]
        for other in rest:
            first = Quadratic(*(a + b for a, b in zip(first, other, strict=True)))
        return first


@dataclass(frozen=True, eq=False)
class Guide:
    """Hold the steering of a window: eps = gain - feedback xi + root z at each of W steps.

    Attributes:
        base: nominal path (W + 1, B, n, *point); n is 1 (shared) or one per particle.
        gain: (W, B, n, m).
        feedback: (W, b, n, m, d), b is B or 1.
        root: (W, b, n, m, m), or None for the identity.
        log_det: log|det root| (W, b, n).
        curvature: Lam of psi at the window's start (b, n, d, d).
        slope: eta there (B, n, d).
        value: c there (B, n).
    """

    base: Tensor
    gain: Tensor
    feedback: Tensor
    root: Tensor | None
    log_det: Tensor
    curvature: Tensor
    slope: Tensor
    value: Tensor

    def log_psi(self, model: StateSpace, x: Tensor) -> Tensor:
        """Return log psi at the start, (B, N), of states (B, N, *point)."""
        xi = model.space.local(self.base[0], x)
        return (times(self.curvature, xi).mul(-0.5).add(self.slope) * xi).sum(-1) + self.value

    def take(self, index: Tensor) -> Guide:
        """Return the guides of selected particles, index (B, N)."""

        def pick(v: Tensor, lead: int) -> Tensor:
            if v.shape[lead + 1] == 1:
                return v
            shape = (*v.shape[:lead], *index.shape, *v.shape[lead + 2 :])
            wide = v.expand(*v.shape[:lead], len(index), *v.shape[lead + 1 :])
            at = index.reshape(*[1] * lead, *index.shape, *[1] * (v.ndim - lead - 2))
            return wide.gather(lead + 1, at.expand(shape))

        return Guide(
            base=pick(self.base, 1),
            gain=pick(self.gain, 1),
            feedback=pick(self.feedback, 1),
            root=None if self.root is None else pick(self.root, 1),
            log_det=pick(self.log_det, 1),
            curvature=pick(self.curvature, 0),
            slope=pick(self.slope, 0),
            value=pick(self.value, 0),
        )


def times(matrix: Tensor, v: Tensor) -> Tensor:
    """Return M v for matrices (..., n, a, b) and vectors (..., N, b), n = 1 or N."""
    if matrix.shape[-3] == 1:
        if matrix.ndim == 4 and len(matrix) == 1 and v.ndim == 3:
            return turned(v, matrix[0, 0])
        return v @ matrix.squeeze(-3).mT
    return (matrix @ v.unsqueeze(-1)).squeeze(-1)


def noise_law(curvature: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return S = (I + G' Lam G)^-1, a root of it, and the log of that root's determinant."""
    inner = G.mT @ curvature @ G
    if inner.shape[-1] == 1:
        S = 1 / (1 + inner)
        root = S.sqrt()
        return S, root, root[..., 0, 0].log()
    inner = inner + torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    lower = torch.linalg.cholesky_ex(inner)[0]
    eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    root = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False).mT
    return root @ root.mT, root, -lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@dataclass(frozen=True, eq=False)
class Chain:
    """Hold the linearised steps xi' = F xi + a + G eps around a nominal path, each of W."""

    F: Tensor
    a: Tensor
    G: Tensor


def linearise(window: Window, base: Tensor) -> Chain:
    """Return the steps around a nominal path (W + 1, B, n, *point)."""
    model, space = window.model, window.model.space
    start, h = window.clock(base)
    if isinstance(model.drift, Tensor) and not callable(model.scale) and space.flat:
        made = [model.matrices(b - a, base) for a, b in zip(window.times, window.times[1:])]  # noqa: B905
        F, offset, G = (torch.stack(m) for m in zip(*made, strict=True))
        F, G = (m.reshape(len(m), -1, 1, *m.shape[-2:]) for m in (F, G))
        moved = (F @ base[:-1].unsqueeze(-1)).squeeze(-1) + offset.reshape(
            len(F), -1, 1, model.dim
        )
        return Chain(F, moved - base[1:], G)
    origin = space.local(base[:-1], base[:-1])

    def step(xi: Tensor) -> Tensor:
        return space.local(base[1:], model.advance(space.retract(base[:-1], xi), start, h))

    a, F = jacobian(step, origin)
    G = model.root(base[:-1], start, h)
    if G.ndim == 2:
        G = G.expand(window.steps, 1, 1, *G.shape)
    return Chain(F, a, G)


def backward(window: Window, base: Tensor, chain: Chain, twist: bool = True) -> Guide:
    """Run the backward recursion around a nominal path."""
    form, at = window.quadratic(base), {p: j for j, p in enumerate(window.places)}
    d = chain.F.shape[-1]
    Lam = base.new_zeros(1, 1, d, d)
    eta = base.new_zeros(1, 1, d)
    c = base.new_zeros(1, 1)
    gains, feedbacks, roots, dets = [], [], [], []
    for k in range(window.steps, 0, -1):
        if form is not None and k in at:
            j = at[k]
            curvature = form.curvature if form.curvature.ndim < 5 else form.curvature[j]
            Lam, eta, c = Lam + curvature, eta + form.slope[j], c + form.value[j]
        F, a, G = chain.F[k - 1], chain.a[k - 1], chain.G[k - 1]
        S, root, log_det = noise_law(Lam, G)
        GL = G.mT @ Lam
        feedback = S @ GL
        Ge = times(G.mT, eta)
        gain = times(S, Ge)
        gains.append(gain)
        feedbacks.append(feedback)
        roots.append(root)
        dets.append(log_det)
        A = Lam - GL.mT @ feedback
        v = eta - times(GL.mT, gain)
        Aa = times(A, a)
        c = c + log_det + 0.5 * (Ge * gain).sum(-1) + (a * (v - 0.5 * Aa)).sum(-1)
        eta = times(F.mT, v - Aa)
        Lam = F.mT @ A @ F
        Lam = 0.5 * (Lam + Lam.mT)
    back = [
        torch.stack(torch.broadcast_tensors(*v[::-1])) for v in (gains, feedbacks, roots, dets)
    ]
    if not twist:
        back[2], back[3] = None, torch.zeros_like(back[3])  # pyright: ignore
    return Guide(base, *back, Lam, eta, c)  # pyright: ignore


class Start:
    """The first state of a window as noise step 0: x = retract(mean, G0 eps), eps ~ N(0, I).

    Args:
        mean: (B, n, *point) or broadcastable.
        root: G0 (..., d, d).
    """

    def __init__(self, mean: Tensor, root: Tensor) -> None:
        self.mean = mean
        self.root = root if root.ndim > 2 else root[None, None]
        if self.root.ndim == 3:
            self.root = self.root.unsqueeze(1)

    @classmethod
    def of(cls, initial: Gaussian, batch: int, like: Tensor) -> Start:
        """Return the start of a Gaussian first state."""
        mean = initial.mean.to(like)
        return cls(mean.expand(batch, 1, *mean.shape[mean.ndim - 1 :]), initial.root.to(like))

    def steer(self, model: StateSpace, guide: Guide) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean (B, n, d), root and log-determinant of the noise that psi twists."""
        S, root, log_det = noise_law(guide.curvature, self.root)
        xi = model.space.local(guide.base[0], self.mean)
        pull = guide.slope - times(guide.curvature, xi)
        return times(S, times(self.root.mT, pull)), root, log_det


def nominal(
    window: Window, x: Tensor, start: Start | None, sweeps: int, *, twist: bool = True
) -> Guide:
    """Return the guide around a nominal path that starts at x (B, n, *point).

    Args:
        window: grid and data.
        x: starting points; free to move under the law `start`, fixed if that is None.
        start: law of the starting points.
        sweeps: most improvements of the nominal path (iLQR), at least 0; linear models need none.
        twist: use the covariance S of the noise, not only its mean.
    """
    model = window.model
    if model.linear:
        origin = x.new_zeros(1, 1, 1, model.dim).expand(window.steps + 1, len(x), x.shape[1], -1)
        return backward(window, origin, linearise(window, origin), twist)
    still = x.expand(window.steps + 1, *x.shape)
    base, eps = _roll(window, x, None, None)
    good = _finite(base)
    base = torch.where(_wide(good, base), base, still)
    noise, first = eps, None
    cost = _cost(window, base, noise, first)
    guide = backward(window, base, linearise(window, base), twist)
    for _ in range(sweeps):
        gained = torch.zeros_like(cost, dtype=torch.bool)
        drop = torch.zeros_like(cost)
        for alpha in ALPHAS:
            start_noise = None
            begin = x
            if start is not None:
                mu = start.steer(model, guide)[0]
                start_noise = mu if first is None else alpha * mu + (1 - alpha) * first
                start_noise = start_noise * (alpha if first is None else 1.0)
                begin = model.space.retract(start.mean, times(start.root, start_noise))
            found, eps = _roll(window, begin, guide, None if alpha == 1.0 else (alpha, noise))
            value = _cost(window, found, eps, start_noise)
            better = _finite(found) & (value < cost) & ~gained
            base = torch.where(_wide(better, base), found, base)
            noise = torch.where(better[..., None], eps, noise)
            if start_noise is not None:
                old = torch.zeros_like(start_noise) if first is None else first
                first = torch.where(better[..., None], start_noise, old)
            drop = torch.where(better, cost - value, drop)
            cost, gained = torch.where(better, value, cost), gained | better
            if bool(gained.all()):
                break
        if not bool(gained.any()):
            break
        guide = backward(window, base, linearise(window, base), twist)
        if bool((drop < 1e-6).all()):
            break
    return guide


def _roll(
    window: Window,
    x: Tensor,
    guide: Guide | None,
    mixed: tuple[float, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Return the path without noise, under a guide, and the controls (W, B, n, m) along it."""
    model, space = window.model, window.model.space
    path, controls = [x], []
    for k, (t, then) in enumerate(zip(window.times, window.times[1:])):  # noqa: B905
        m = model.advance(x, t, then - t)
        G = model.root(x, t, then - t)
        if guide is None:
            mu = x.new_zeros(*x.shape[:2], G.shape[-1])
        else:
            mu = guide.gain[k] - times(guide.feedback[k], space.local(guide.base[k + 1], m))
            if mixed is not None:
                mu = mixed[0] * mu + (1 - mixed[0]) * mixed[1][k]
        x = space.retract(m, push(G, mu))
        path.append(x)
        controls.append(mu)
    return torch.stack(path), torch.stack(controls)


def _cost(window: Window, path: Tensor, eps: Tensor, first: Tensor | None) -> Tensor:
    cost = 0.5 * (eps * eps).sum((0, -1))
    if first is not None:
        cost = cost + 0.5 * (first * first).sum(-1)
    log_l = window.log_likelihood(path)
    if log_l is not None:
        cost = cost - log_l.sum(0)
    return torch.where(cost.isnan(), torch.full_like(cost, torch.inf), cost)


def _finite(path: Tensor) -> Tensor:
    ok = torch.isfinite(path) & (path.abs() < 1e6)
    return ok.flatten(3).all(-1).all(0)


def _wide(flag: Tensor, path: Tensor) -> Tensor:
    return flag.reshape(1, *flag.shape, *[1] * (path.ndim - 3))
