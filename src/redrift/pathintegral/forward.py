r"""Walk a window: paths under a control, and the log-increment of every step.

The noise of a step is eps = mu + L z with z ~ N(0, I), and its increment is the log-ratio of
`measure.noise` for the law N(mu, L L'), plus the log-likelihood l of what is measured at its end. It is
exact for every control. A linear model's windows are walked by matrices instead, see `dense`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from redrift.measure.noise import white_log_ratio
from redrift.pathintegral.twisting import TwistingFunction
from redrift.pathintegral.window import Window
from redrift.statespace.columns import matvec, scale_noise


class Paths(NamedTuple):
    """Hold paths.

    Attributes:
        path: (W + 1, B, N, *point).
        increments: log-increments of the steps (W, B, N).
        noise_free: the end of the walk without noise, if asked for, else the path's end.
        noise: eps (W, B, N, m).
    """

    path: Tensor
    increments: Tensor
    noise_free: Tensor
    noise: Tensor


def simulate_paths(
    window: Window,
    psi: TwistingFunction | None,
    x: Tensor,
    z: Tensor,
    noise_free: Tensor | None = None,
) -> Paths:
    """Simulate paths under the control of psi; None is the model's own noise.

    Args:
        window: grid and data.
        psi: the twisting function.
        x: starting states (B, N, *point).
        z: standard normal numbers (W, B, N, m).
        noise_free: starting states that are walked, too, under the control without noise.

    Cost:
        W evaluations of drift and scale (twice that if noise_free is given), one of each sensor.
    """
    model, space = window.model, window.model.space
    path, noises, spread = [x], [], z
    if psi is not None and psi.root is not None:
        spread = z * psi.root[..., 0] if z.shape[-1] == 1 else matvec(psi.root, z)
    for k, (t, then) in enumerate(zip(window.times, window.times[1:])):  # noqa: B905
        h = then - t
        if psi is None:
            x = model.step(x, t, h, z[k].permute(2, 0, 1))
        else:
            m = model.advance(x, t, h)
            eps = psi.control(k, space, m) + spread[k]
            noises.append(eps)
            x = space.retract(m, scale_noise(model.root(x, t, h), eps))
        path.append(x)
        if noise_free is not None:
            m = model.advance(noise_free, t, h)
            mu = torch.zeros_like(z[k]) if psi is None else psi.control(k, space, m)
            noise_free = space.retract(m, scale_noise(model.root(noise_free, t, h), mu))
    whole = torch.stack(path)
    if psi is None:
        noise, increments = z, z.new_zeros(z.shape[:-1])
    else:
        noise = torch.stack(noises)
        increments = white_log_ratio(noise, z, psi.log_det)
    increments = add_data(increments, window, window.log_likelihood(whole))
    return Paths(whole, increments, x if noise_free is None else noise_free, noise)


def add_data(increments: Tensor, window: Window, log_l: Tensor | None) -> Tensor:
    """Add the measurements' log-likelihoods (J, B, N) to the steps they belong to, in place."""
    if log_l is None:
        return increments
    spots = window.spots
    if isinstance(spots, slice):
        spots = slice(spots.start - 1, spots.stop - 1, spots.step)
        increments[spots] += log_l
        return increments
    at = torch.tensor(spots, device=increments.device) - 1
    return increments.index_add_(0, at, log_l)
