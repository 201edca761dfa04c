r"""Walk a window: paths under a guide, and the log-increment of every step.

The noise of a step is eps = mu + L z with z ~ N(0, I), and the increment

    log N(eps; 0, I) - log N(eps; mu, L L') + l = -|eps|^2 / 2 + |z|^2 / 2 + log det L + l

is the log-ratio of `measure.noise` for the law N(mu, L L'). It is exact for every guide.
For linear models a whole window is one matrix product (`Dense`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from redrift.filters.guide import Guide, Window, backward, linearise, push, times


class Walk(NamedTuple):
    """Hold paths.

    Attributes:
        path: (W + 1, B, N, *point).
        gain: log-increments of the steps (W, B, N).
        calm: the end of the walk without noise, if asked for, else the path's end.
        noise: eps (W, B, N, m).
    """

    path: Tensor
    gain: Tensor
    calm: Tensor
    noise: Tensor


def walk(
    window: Window, guide: Guide | None, x: Tensor, z: Tensor, *, quiet: bool = False
) -> Walk:
    """Simulate paths under a guide; None is the model's own noise.

    Args:
        window: grid and data.
        guide: the steering.
        x: starting states (B, N, *point).
        z: standard normal numbers (W, B, N, m).
        quiet: also walk the same particles without noise.

    Cost:
        W evaluations of drift and scale (twice that if quiet), one of each sensor.
    """
    model, space = window.model, window.model.space
    path, noises, calm = [x], [], x
    spread = z
    if guide is not None and guide.root is not None:
        spread = z * guide.root[..., 0] if z.shape[-1] == 1 else times(guide.root, z)
    for k, (t, then) in enumerate(zip(window.times, window.times[1:])):  # noqa: B905
        h = then - t
        m = model.advance(x, t, h)
        G = model.root(x, t, h)
        if guide is None:
            eps = z[k]
        else:
            pull = times(guide.feedback[k], space.local(guide.base[k + 1], m))
            eps = guide.gain[k] - pull + spread[k]
            noises.append(eps)
        x = space.retract(m, push(G, eps))
        path.append(x)
        if quiet:
            m = model.advance(calm, t, h)
            mu = calm.new_zeros(*eps.shape)
            if guide is not None:
                mu = guide.gain[k] - times(guide.feedback[k], space.local(guide.base[k + 1], m))
            calm = space.retract(m, push(model.root(calm, t, h), mu))
    whole = torch.stack(path)
    noise = z if guide is None else torch.stack(noises)
    gain = z.new_zeros(z.shape[:-1]) if guide is None else log_ratio(noise, z, guide.log_det)
    gain = add_data(gain, window, window.log_likelihood(whole))
    return Walk(whole, gain, calm if quiet else x, noise)


def log_ratio(eps: Tensor, z: Tensor, log_det: Tensor) -> Tensor:
    """Return log N(eps; 0, I) - log N(eps; mu, L L') for eps = mu + L z."""
    return 0.5 * ((z - eps) * (z + eps)).sum(-1) + log_det


def add_data(gain: Tensor, window: Window, log_l: Tensor | None) -> Tensor:
    """Add the measurements' log-likelihoods (J, B, N) to the steps they belong to."""
    if log_l is None:
        return gain
    if len(window.places) == window.steps:
        return gain + log_l
    at = torch.tensor(window.places, device=gain.device) - 1
    return gain.index_add(0, at, log_l)


@dataclass(frozen=True, eq=False)
class Dense:
    """A window of a linear model as matrices: path and noise from start, noise and data.

    Attributes:
        paths: (d + W m, W d + W m): from (x, z) to (x_1 .. x_W, eps_1 .. eps_W).
        data: (J p + 1, (W + 1) d + W m): from (measurements, 1) to the same.
        slope: (J p + 1, d): from (measurements, 1) to eta at the start.
        guide: of data that are all zero: holds Lam, and the determinants.
    """

    paths: Tensor
    data: Tensor
    slope: Tensor
    guide: Guide

    def steer(self, rows: Tensor) -> Guide:
        """Return the guide for measurements (B, J p + 1): only psi at the start serves."""
        g = self.guide
        slope, none = (rows @ self.slope).unsqueeze(1), g.value.new_zeros(1, 1)
        base = g.base[:1, :1]  # all zeros
        return Guide(base, g.gain, g.feedback, g.root, g.log_det, g.curvature, slope, none)

    def walk(
        self, window: Window, rows: Tensor, x: Tensor, z: Tensor, *, quiet: bool = False
    ) -> Walk:
        """Do what `walk` does for a guide, in one matrix product; z is (B, N, W, m)."""
        W, d = window.steps, x.shape[-1]
        width = (W + 1) * d
        drift = (rows @ self.data).unsqueeze(1)
        out = torch.baddbmm(drift, x, self.paths[:d].expand(len(x), -1, -1))
        out = torch.baddbmm(out, z.flatten(2), self.paths[d:].expand(len(x), -1, -1))
        path = out[..., :width].unflatten(-1, (W + 1, d)).permute(2, 0, 1, 3)
        eps = out[..., width:].unflatten(-1, (W, -1))
        ratio = ((z - eps) * (z + eps)).sum(-1).permute(2, 0, 1)
        gain = torch.add(self.guide.log_det, ratio, alpha=0.5)
        calm = path[-1]
        if quiet:
            last = slice(W * d, width)
            calm = x @ self.paths[:d, last] + drift[..., last]
        gain = add_data(gain, window, window.log_likelihood(path))
        return Walk(path, gain, calm, eps.permute(2, 0, 1, 3))


def dense(window: Window, like: Tensor, twist: bool) -> Dense:
    """Build the matrices of a linear window whose measurements are complete.

    The recursions are run on unit vectors: data through the backward pass, start and noise
    through the forward one.
    """
    model, d, W = window.model, window.model.dim, window.steps
    if window.reading is None:
        count, unit = 0, None
    else:
        J, p = len(window.places), model.measured
        count = J * p
        rows = torch.cat([torch.eye(count, dtype=like.dtype), like.new_zeros(1, count)])
        unit = window.reading._replace(y=rows.reshape(-1, J, 1, p).movedim(0, 1))
    probe = Window(model, window.times, window.places, unit)
    base = like.new_zeros(W + 1, count + 1, 1, d)
    chain = linearise(window, base)
    found = backward(probe, base, chain, twist)
    gain = found.gain.expand(W, count + 1, 1, -1)[:, :, 0]
    slope = found.slope.expand(count + 1, 1, d)[:, 0]
    m = gain.shape[-1]
    F, G, feedback = chain.F[:, 0, 0], chain.G[:, 0, 0], found.feedback[:, 0, 0]
    a = chain.a[:, 0, 0]
    x = torch.cat([torch.eye(d, dtype=like.dtype), like.new_zeros(W * m, d)])
    y = like.new_zeros(count + 1, d)
    states, noises, calm, pulls = [x], [], [y], []
    for k in range(W):
        z = like.new_zeros(d + W * m, m)
        root = torch.eye(m, dtype=like.dtype) if found.root is None else found.root[k, 0, 0]
        z[d + k * m : d + (k + 1) * m] = root.mT
        step, moved = x @ F[k].mT, y @ F[k].mT + a[k]
        eps, mu = z - step @ feedback[k].mT, gain[k] - moved @ feedback[k].mT
        x, y = step + eps @ G[k].mT, moved + mu @ G[k].mT
        for store, value in ((states, x), (noises, eps), (calm, y), (pulls, mu)):
            store.append(value)
    paths = torch.cat([*states, *noises], -1)
    data = torch.cat([*calm, *pulls], -1)
    return Dense(paths, _affine(data), _affine(slope), found)


def _affine(rows: Tensor) -> Tensor:
    """Turn the responses to unit vectors and to zero into a matrix for (data, 1)."""
    return torch.cat([rows[:-1] - rows[-1:], rows[-1:]])
