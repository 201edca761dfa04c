r"""Path-integral (cross-entropy) refinement of a guide.

The best control is the mean of the noise under the posterior, u* dt = E[eps | x], so weighted paths
fit it: open loop by a weighted mean, in feedback by weighted ridge regression of eps on x. The
weights are tempered until the effective sample size is a tenth or more of N. A fit is kept, data
set by data set, only if fresh noise gives it a larger effective sample size.

Paper: Kappen and Ruiz (2016), adaptive importance sampling for control and inference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redrift._core.rng import Generators
from redrift.filters.forward import Walk, walk
from redrift.filters.guide import Guide, Window
from redrift.filters.law import effective
from redrift.filters.particle import draw_noise

if TYPE_CHECKING:
    from redrift.filters.pathintegral import PathIntegral

SHARE = 0.3  # effective share that tempering aims at
RIDGE = 1e-6


def refine(
    window: Window,
    guide: Guide | None,
    x: Tensor,
    log_w: Tensor,
    options: PathIntegral,
    generator: Generators,
) -> Guide:
    """Return a guide that weighs paths from x (B, N, *point) more evenly, or the one given.

    Args:
        window: grid and data.
        guide: to begin with; None is no control.
        x: the window's starting particles.
        log_w: their log-weights.
        options: iterations and family.
        generator: one, one per data set, or None.

    Cost:
        options.iterations + 1 walks of all particles.
    """
    run = _try(window, guide, x, generator)
    guide = _none(window, x, run) if guide is None else guide
    best = _share(run, log_w)
    for _ in range(options.iterations):
        found = _fit(window, guide, run, log_w, options.family)
        fresh = _try(window, found, x, generator)
        share = _share(fresh, log_w)
        better = share > best
        if not bool(better.any()):
            break
        guide = _mix(better, found, guide)
        run = _merge(better, fresh, run)
        best = torch.where(better, share, best)
    return guide


def _try(window: Window, guide: Guide | None, x: Tensor, generator: Generators) -> Walk:
    z = draw_noise(window.model, window.times, x, generator).permute(0, 2, 3, 1)
    run = walk(window, guide, x, z)
    gain = run.gain.nan_to_num(nan=-1e30, posinf=-1e30, neginf=-1e30)
    return run._replace(gain=gain, path=run.path.nan_to_num())


def _share(run: Walk, log_w: Tensor) -> Tensor:
    total = log_w + run.gain.sum(0)
    return effective(total - total.logsumexp(-1, keepdim=True))


def _none(window: Window, x: Tensor, run: Walk) -> Guide:
    """Return the guide that does nothing, around the mean path."""
    W, B, _, m = run.noise.shape
    base = run.path.mean(2, keepdim=True)
    d = window.model.dim
    zero = x.new_zeros
    return Guide(
        base, zero(W, B, 1, m), zero(W, B, 1, m, d), None, zero(W, B, 1),
        zero(B, 1, d, d), zero(B, 1, d), zero(B, 1),
    )  # fmt: skip


def _fit(window: Window, guide: Guide, run: Walk, log_w: Tensor, family: str) -> Guide:
    """Fit gain, feedback and covariance of the noise to weighted paths."""
    model = window.model
    w = _tempered(log_w + run.gain.sum(0))
    moved = torch.stack(
        [
            model.advance(x, t, then - t)
            for x, t, then in zip(run.path, window.times, window.times[1:], strict=False)
        ]
    )
    xi = model.space.local(guide.base[1:], moved)
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
    root, log_det = guide.root, guide.log_det
    if family == "feedback+cov":
        rest = eps - off @ slope.squeeze(2).mT
        cov = (wide * rest).mT @ rest
        eye = torch.eye(cov.shape[-1], dtype=xi.dtype, device=xi.device)
        root = torch.linalg.cholesky_ex(0.9 * cov + 0.1 * eye)[0].unsqueeze(2)
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return replace(guide, gain=gain, feedback=-slope, root=root, log_det=log_det)


def _tempered(total: Tensor) -> Tensor:
    """Return weights (B, N) flattened by the power that leaves an effective share of `SHARE`."""
    low, high = torch.zeros_like(total[:, :1]), torch.ones_like(total[:, :1])
    total = total - total.amax(-1, keepdim=True)
    if bool((effective(total.log_softmax(-1)) >= SHARE).all()):
        return total.softmax(-1)
    for _ in range(40):
        middle = (low + high) / 2
        enough = effective((middle * total).log_softmax(-1)).unsqueeze(-1) >= SHARE
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return (low * total).softmax(-1)


def _mix(better: Tensor, new: Guide, old: Guide) -> Guide:
    """Take the new guide in the data sets where it is better."""

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


def _merge(better: Tensor, new: Walk, old: Walk) -> Walk:
    def pick(a: Tensor, b: Tensor, lead: int) -> Tensor:
        return torch.where(better.reshape(*[1] * lead, -1, *[1] * (a.ndim - lead - 1)), a, b)

    return Walk(
        pick(new.path, old.path, 1), pick(new.gain, old.gain, 1), pick(new.calm, old.calm, 0),
        pick(new.noise, old.noise, 1),
    )  # fmt: skip
