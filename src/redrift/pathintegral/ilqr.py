"""iLQR: the nominal path of a window, improved by sweeps of its own control.

Each sweep walks the noise-free path under the control of the last twisting function, and is accepted
only where its cost fell: |eps|^2 / 2 minus the log-likelihood of the measurements (Gauss-Newton with a
line search).
"""

from __future__ import annotations

import torch
from torch import Tensor

from redrift.pathintegral.twisting import GaussianStart, TwistingFunction, backward, linearise
from redrift.pathintegral.window import Window
from redrift.statespace.columns import matvec, scale_noise

ALPHAS = (1.0, 0.5, 0.25, 0.1)  # shares of a sweep that are tried


def nominal(
    window: Window, x: Tensor, start: GaussianStart | None, sweeps: int, *, twist: bool = True
) -> TwistingFunction:
    """Return psi around a nominal path that starts at x (B, n, *point).

    Args:
        window: grid and data.
        x: starting points; free to move under `start`, fixed if that is None.
        start: distribution of the starting points.
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
    psi = backward(window, base, linearise(window, base), twist)
    for _ in range(sweeps):
        gained = torch.zeros_like(cost, dtype=torch.bool)
        drop = torch.zeros_like(cost)
        for alpha in ALPHAS:
            start_noise = None
            begin = x
            if start is not None:
                mu = start.steer(model, psi)[0]
                start_noise = mu if first is None else alpha * mu + (1 - alpha) * first
                start_noise = start_noise * (alpha if first is None else 1.0)
                begin = model.space.retract(start.mean, matvec(start.root, start_noise))
            found, eps = _roll(window, begin, psi, None if alpha == 1.0 else (alpha, noise))
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
        psi = backward(window, base, linearise(window, base), twist)
        if bool((drop < 1e-6).all()):
            break
    return psi


def _roll(
    window: Window,
    x: Tensor,
    psi: TwistingFunction | None,
    mixed: tuple[float, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Return the path without noise, under the control of psi, and the noise (W, B, n, m) along it."""
    model, space = window.model, window.model.space
    path, controls = [x], []
    for k, (t, then) in enumerate(zip(window.times, window.times[1:])):  # noqa: B905
        m = model.advance(x, t, then - t)
        G = model.root(x, t, then - t)
        if psi is None:
            mu = x.new_zeros(*x.shape[:2], G.shape[-1])
        else:
            mu = psi.control(k, space, m)
            if mixed is not None:
                mu = mixed[0] * mu + (1 - mixed[0]) * mixed[1][k]
        x = space.retract(m, scale_noise(G, mu))
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
