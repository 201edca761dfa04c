r"""A window of a linear model as matrices, made once for all windows of its shape.

For one set of matrices and complete measurements the whole window is affine in its start, its noise
and its data. It is kept in blocks of about sqrt(W) steps, each a product with the block's first state
and noise, so that the cost of a path grows as W^(3/2) and not as W^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import repeat
from operator import sub

import torch
from torch import Tensor

from redrift.measure.noise import white_log_ratio
from redrift.pathintegral.forward import Paths, add_data
from redrift.pathintegral.twisting import TwistingFunction, backward, linearise
from redrift.pathintegral.window import Window
from redrift.statespace.prior import GaussianPrior

FEW = 1000  # paths


@dataclass(frozen=True, eq=False)
class WindowBlock:
    """Hold the steps first .. first + steps of a window as matrices.

    Attributes:
        first: step.
        steps: s.
        states: to the states from the block's first state (s d, d) and its noise (s d, s m).
        noise: to the noise eps from the same, (s m, d) and (s m, s m).
    """

    first: int
    steps: int
    states: tuple[Tensor, Tensor]
    noise: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class WindowMatrices:
    """Hold a window as matrices.

    Attributes:
        blocks: of its steps.
        data: from measurements to what they add to states and noise, (W d + W m, J p), and what is
            added without them, (W d + W m, 1).
        slope: from measurements to eta at the start, (J p, d), and eta without them (d,).
        psi: of data that are all zero: holds Lam, and the determinants.
        rows: the measurements side by side, (B, J p).
    """

    blocks: tuple[WindowBlock, ...]
    data: tuple[Tensor, Tensor]
    slope: tuple[Tensor, Tensor]
    psi: TwistingFunction
    rows: Tensor

    def steer(self) -> TwistingFunction:
        """Return psi of the measurements: only its value at the start serves."""
        slope = torch.addmm(self.slope[1], self.rows, self.slope[0]).unsqueeze(1)
        return replace(self.psi, slope=slope)

    def simulate_paths(
        self, window: Window, x: Tensor, z: Tensor, noise_free: Tensor | None = None
    ) -> Paths:
        """Do what `forward.simulate_paths` does under the window's own psi, by matrix products."""
        W, (B, N, d), m = window.steps, x.shape, z.shape[-1]
        z = z.permute(0, 3, 1, 2)  # by step and coordinate, as `draw_noise` laid it
        fed = z.reshape(W * m, B * N)
        added = torch.addmm(self.data[1], self.data[0], self.rows.mT)
        path = x.new_empty((W + 1) * d, B, N)
        path[:d] = x.permute(2, 0, 1)
        path[d:] = added[: W * d].unsqueeze(-1)
        eps = added[W * d :].unsqueeze(-1).repeat(1, 1, N)
        states, noise = path.view(-1, B * N), eps.view(-1, B * N)
        for block in self.blocks:
            i, j = block.first, block.first + block.steps
            at, inner = states[i * d : (i + 1) * d], fed[i * m : j * m]
            states[(i + 1) * d : (j + 1) * d].addmm_(block.states[0], at).addmm_(
                block.states[1], inner
            )
            noise[i * m : j * m].addmm_(block.noise[0], at).addmm_(block.noise[1], inner)
        path, eps = path.view(W + 1, d, B, N), eps.view(W, m, B, N)
        increments = white_log_ratio(eps, z, self.psi.log_det, dim=1)
        path, eps = path.permute(0, 2, 3, 1), eps.permute(0, 2, 3, 1)
        increments = add_data(increments, window, window.log_likelihood(path))
        end = path[-1]
        if noise_free is not None:
            end = noise_free
            for block in self.blocks:
                j = block.first + block.steps
                end = end @ block.states[0][-d:].mT
                end = end + added[(j - 1) * d : j * d].mT.unsqueeze(1)
        return Paths(path, increments, end, eps)


def make_matrices(window: Window, like: Tensor, twist: bool, size: int) -> WindowMatrices:
    """Build the matrices of a linear window whose measurements are complete.

    The recursions are run on unit vectors: data through the backward pass, start and noise
    through the forward one.

    Args:
        window: grid and places of the data.
        like: gives dtype and device.
        twist: whether the covariance of the noise is steered.
        size: steps of a block.
    """
    model, d, W = window.model, window.model.dim, window.steps
    if window.obs is None:
        count, unit = 0, None
    else:
        J, p = len(window.places), model.measured
        count = J * p
        rows = torch.cat([_eye(count, like), like.new_zeros(1, count)])
        unit = window.obs._replace(y=rows.reshape(-1, J, 1, p).movedim(0, 1))
    probe = Window(model, window.times, window.places, unit)
    steps = linearise(window, like.new_zeros(W + 1, count + 1, 1, d))
    found = backward(probe, like.new_zeros(W + 1, count + 1, 1, d), steps, twist)
    gain = found.gain.expand(W, count + 1, 1, -1)[:, :, 0]
    slope = found.slope.expand(count + 1, 1, d)[:, 0]
    m = gain.shape[-1]
    F, G, feedback = steps.F[:, 0, 0], steps.G[:, 0, 0], found.feedback[:, 0, 0]
    a = steps.a[:, 0, 0]
    blocks, states, pulls = [], [], []
    for first in range(0, W, size):
        s = min(size, W - first)
        x = torch.cat([_eye(d, like), like.new_zeros(s * m, d)])
        y, ends, noises = like.new_zeros(count + 1, d), [], []
        for i in range(s):
            k = first + i
            z = like.new_zeros(d + s * m, m)
            z[d + i * m : d + (i + 1) * m] = (
                _eye(m, like) if found.root is None else found.root[k, 0, 0].mT
            )
            step, moved = x @ F[k].mT, y @ F[k].mT + a[k]
            eps, mu = z - step @ feedback[k].mT, gain[k] - moved @ feedback[k].mT
            x, y = step + eps @ G[k].mT, moved + mu @ G[k].mT
            for store, value in ((ends, x), (noises, eps), (states, y), (pulls, mu)):
                store.append(value)
        both = [torch.cat(v, -1).mT.contiguous() for v in (ends, noises)]
        blocks.append(
            WindowBlock(first, s, *((v[:, :d].contiguous(), v[:, d:].contiguous()) for v in both))
        )
    data, rest = _affine(torch.cat([*states, *pulls], -1))
    still = replace(found, base=found.base[:1, :1], value=found.value.new_zeros(1, 1))
    pair = (data.mT.contiguous(), rest.unsqueeze(-1))
    return WindowMatrices(tuple(blocks), pair, _affine(slope), still, like)


def matrices_of(
    window: Window, like: Tensor, twist: bool, batch: int, particles: int
) -> WindowMatrices | None:
    """Return a window as matrices, kept with its model by its shape, or None if it has none.

    For few paths, where an operation costs more than its numbers, blocks are longer.
    """
    if not _plain(window):
        return None
    steps = tuple(map(round, map(sub, window.times[1:], window.times), repeat(10)))
    gaps, obs = (), window.obs
    if obs is not None and any(s.kind == "increment" for s in window.model.parts):
        gaps = tuple(round(float(g), 10) for g in torch.as_tensor(obs.interval).flatten())
    size = max(1, math.isqrt(len(steps))) * (3 if batch * particles < FEW else 1)
    key = (steps, window.places, gaps, twist, size, like.device)
    found = window.model.windows.keep(key, make_matrices, window, like, twist, size)
    y = like.new_empty(batch, 0) if obs is None else obs.y.squeeze(2).movedim(0, 1)
    return replace(found, rows=y.reshape(batch, -1))


def _plain(window: Window) -> bool:
    """Say whether one set of matrices serves all data sets of a linear window, without gradients."""
    model = window.model
    if not model.linear:
        return False
    if window.obs is not None and not window.obs.fully_observed:
        return False
    tensors = [model.drift, model.scale, model.offset]
    tensors += [v for s in model.parts for v in (s.h, s.cov)]
    if any(isinstance(v, Tensor) and (v.ndim > 2 or v.requires_grad) for v in tensors):
        return False
    first = model.initial
    graph = isinstance(first, GaussianPrior) and (
        first.mean.requires_grad or first.cov.requires_grad
    )
    return not graph and (window.obs is None or not window.obs.y.requires_grad)


def _eye(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _affine(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the responses to unit vectors and to zero into a matrix and an offset."""
    return rows[:-1] - rows[-1:], rows[-1]
