r"""Walk a window: paths under a guide, and the log-increment of every step.

The noise of a step is eps = mu + L z with z ~ N(0, I), and the increment

    log N(eps; 0, I) - log N(eps; mu, L L') + l = -|eps|^2 / 2 + |z|^2 / 2 + log det L + l

is the log-ratio of `measure.noise` for the law N(mu, L L'). It is exact for every guide.
A linear model's windows are walked by matrices instead, see `dense`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from redrift.filters.guide import Guide, Window, times
from redrift.filters.sensors import push


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
    window: Window, guide: Guide | None, x: Tensor, z: Tensor, calm: Tensor | None = None
) -> Walk:
    """Simulate paths under a guide; None is the model's own noise.

    Args:
        window: grid and data.
        guide: the steering.
        x: starting states (B, N, *point).
        z: standard normal numbers (W, B, N, m).
        calm: starting states that are walked, too, without noise.

    Cost:
        W evaluations of drift and scale (twice that if calm is given), one of each sensor.
    """
    model, space = window.model, window.model.space
    path, noises = [x], []
    spread = z
    if guide is not None and guide.root is not None:
        spread = z * guide.root[..., 0] if z.shape[-1] == 1 else times(guide.root, z)
    for k, (t, then) in enumerate(zip(window.times, window.times[1:])):  # noqa: B905
        h = then - t
        if guide is None:
            x = model.step(x, t, h, z[k].permute(2, 0, 1))
        else:
            m = model.advance(x, t, h)
            pull = times(guide.feedback[k], space.local(guide.base[k + 1], m))
            eps = guide.gain[k] - pull + spread[k]
            noises.append(eps)
            x = space.retract(m, push(model.root(x, t, h), eps))
        path.append(x)
        if calm is not None:
            m = model.advance(calm, t, h)
            mu = torch.zeros_like(z[k])
            if guide is not None:
                mu = guide.gain[k] - times(guide.feedback[k], space.local(guide.base[k + 1], m))
            calm = space.retract(m, push(model.root(calm, t, h), mu))
    whole = torch.stack(path)
    noise = z if guide is None else torch.stack(noises)
    gain = z.new_zeros(z.shape[:-1]) if guide is None else log_ratio(noise, z, guide.log_det)
    gain = add_data(gain, window, window.log_likelihood(whole))
    return Walk(whole, gain, x if calm is None else calm, noise)


def log_ratio(eps: Tensor, z: Tensor, log_det: Tensor) -> Tensor:
    """Return log N(eps; 0, I) - log N(eps; mu, L L') for eps = mu + L z."""
    return 0.5 * ((z - eps) * (z + eps)).sum(-1) + log_det


def add_data(gain: Tensor, window: Window, log_l: Tensor | None) -> Tensor:
    """Add the measurements' log-likelihoods (J, B, N) to the steps they belong to, in place."""
    if log_l is None:
        return gain
    spots = window.spots
    if isinstance(spots, slice):
        spots = slice(spots.start - 1, spots.stop - 1, spots.step)
        gain[spots] += log_l
        return gain
    return gain.index_add_(0, torch.tensor(spots, device=gain.device) - 1, log_l)
