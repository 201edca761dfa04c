r"""Path-integral (cross-entropy) refinement of the control.

The best control is the mean of the noise under the posterior, u* dt = E[eps | x], so weighted paths
fit it: open loop by a weighted mean, in feedback by weighted ridge regression of eps on x. The
weights are tempered until the effective sample size is a tenth or more of N. A fit is kept, data
set by data set, only if fresh noise gives it a larger effective sample size.

Paper: Kappen and Ruiz (2016), adaptive importance sampling for control and inference.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from redrift._core.rng import Generators
from redrift.measure import effective_share
from redrift.pathintegral.forward import Paths, simulate_paths
from redrift.pathintegral.twisting import TwistingFunction
from redrift.pathintegral.window import Window
from redrift.statespace.recursion import draw_noise

FAMILIES = ("open_loop", "feedback", "feedback+cov")
SHARE = 0.3  # effective share that tempering aims at
RIDGE = 1e-6


def refine(
    window: Window,
    psi: TwistingFunction | None,
    x: Tensor,
    log_w: Tensor,
    iterations: int,
    family: str,
    generator: Generators,
) -> TwistingFunction:
    """Return a control that weighs paths from x (B, N, *point) more evenly, or the one given.

    Args:
        window: grid and data.
        psi: to begin with; None is no control.
        x: the window's starting particles.
        log_w: their log-weights.
        iterations: at most so many fits.
        family: of the control, one of `FAMILIES`.
        generator: one, one per data set, or None.

    Cost:
        iterations + 1 walks of all particles.
    """
    run = _try(window, psi, x, generator)
    psi = _none(window, x, run) if psi is None else psi
    best = _share(run, log_w)
    for _ in range(iterations):
        found = _fit(window, psi, run, log_w, family)
        fresh = _try(window, found, x, generator)
        share = _share(fresh, log_w)
        better = share > best
        if not bool(better.any()):
            break
        psi = _mix(better, found, psi)
        run = _merge(better, fresh, run)
        best = torch.where(better, share, best)
    return psi


def _try(window: Window, psi: TwistingFunction | None, x: Tensor, generator: Generators) -> Paths:
    z = draw_noise(window.model, window.times, x, generator).permute(0, 2, 3, 1)
    run = simulate_paths(window, psi, x, z)
    increments = run.increments.nan_to_num(nan=-1e30, posinf=-1e30, neginf=-1e30)
    return run._replace(increments=increments, path=run.path.nan_to_num())


def _share(run: Paths, log_w: Tensor) -> Tensor:
    total = log_w + run.increments.sum(0)
    return effective_share((total - total.logsumexp(-1, keepdim=True)).exp())


def _none(window: Window, x: Tensor, run: Paths) -> TwistingFunction:
    """Return the control that does nothing, around the mean path."""
    W, B, _, m = run.noise.shape
    space, d = window.model.space, window.model.dim
    even = x.new_full(run.path.shape[:3], 1 / run.path.shape[2])
    base = space.mean(run.path, even).unsqueeze(2)
    zero = x.new_zeros
    return TwistingFunction(
        base, zero(W, B, 1, m), zero(W, B, 1, m, d), None, zero(W, B, 1),
        zero(B, 1, d, d), zero(B, 1, d), zero(B, 1),
    )  # fmt: skip


def _fit(
    window: Window, psi: TwistingFunction, run: Paths, log_w: Tensor, family: str
) -> TwistingFunction:
    """Fit gain, feedback and covariance of the noise to weighted paths."""
    model = window.model
    w = _tempered(log_w + run.increments.sum(0))
    moved = torch.stack(
        [
            model.advance(x, t, then - t)
            for x, t, then in zip(run.path, window.times, window.times[1:], strict=False)
        ]
    )
    xi = model.space.local(psi.base[1:], moved)
    wide = w.unsqueeze(-1)
    mean, at = (wide * run.noise).sum(2, keepdim=True), (wide * xi).sum(2, keepdim=True)
    eps, off = run.noise - mean, xi - at
    slope = mean.new_zeros(*mean.shape[:2], 1, mean.shape[-1], xi.shape[-1])
    if family != "open_loop":
        spread = (wide * off).mT @ off
        trace = spread.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp(min=1e-300)
        eye = torch.eye(spread.shape[-1], dtype=xi.dtype, device=xi.device)
        slope = torch.linalg.solve(spread + RIDGE * trace * eye, (wide * off).mT @ eps)
        slope = slope.mT.unsqueeze(2)
    gain = mean - (slope @ at.unsqueeze(-1)).squeeze(-1)
    root, log_det = psi.root, psi.log_det
    if family == "feedback+cov":
        rest = eps - off @ slope.squeeze(2).mT
        cov = (wide * rest).mT @ rest
        eye = torch.eye(cov.shape[-1], dtype=xi.dtype, device=xi.device)
        root = torch.linalg.cholesky_ex(0.9 * cov + 0.1 * eye)[0].unsqueeze(2)
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return replace(psi, gain=gain, feedback=-slope, root=root, log_det=log_det)


def _tempered(total: Tensor) -> Tensor:
    """Return weights (B, N) flattened by the power that leaves an effective share of `SHARE`."""
    low, high = torch.zeros_like(total[:, :1]), torch.ones_like(total[:, :1])
    total = total - total.amax(-1, keepdim=True)
    if bool((effective_share(total.softmax(-1)) >= SHARE).all()):
        return total.softmax(-1)
    for _ in range(40):
        middle = (low + high) / 2
        enough = effective_share((middle * total).softmax(-1)).unsqueeze(-1) >= SHARE
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return (low * total).softmax(-1)


def _mix(better: Tensor, new: TwistingFunction, old: TwistingFunction) -> TwistingFunction:
    """Take the new control in the data sets where it is better."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        flag = better.reshape(1, -1, *[1] * (a.ndim - 2))
        return torch.where(flag, a, b)

    root = new.root
    if root is not None:
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        root = pick(root, eye.expand_as(root) if old.root is None else old.root)
    return replace(
        new, gain=pick(new.gain, old.gain), feedback=pick(new.feedback, old.feedback), root=root,
        log_det=pick(new.log_det, old.log_det),
    )  # fmt: skip


def _merge(better: Tensor, new: Paths, old: Paths) -> Paths:
    """Take the new paths in the data sets where they are better."""
    return Paths(
        *(
            torch.where(better.reshape(*[1] * lead, -1, *[1] * (a.ndim - lead - 1)), a, b)
            for a, b, lead in zip(new, old, (1, 1, 0, 1), strict=True)
        )
    )
