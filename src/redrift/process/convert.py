r"""One prediction turned into another: $e_q = P z + Q e_p$ at a noise level.

Every prediction is a fixed mixture of the clean state and the noise, and so is the state, so any
two are related by an affine map in the state. For k = 1, with a = alpha sigma_data, s^2 = a^2 +
sigma^2:

    eps    eps                          x0     x0
    score  -eps / sigma                 flow   eps - x0
    v      (a eps - sigma x0 / sigma_data) / s

The pair is composed in float64 before it touches the state, and nothing is done when the two
agree: going through x0 at a level where the signal is tiny would multiply the error of the
network by 1 / alpha.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift._core.linalg import apply, inverse, product, transpose
from redrift.process.base import Level, Process

PREDICTIONS = ("eps", "x0", "v", "score", "flow")


def available(process: Process) -> tuple[str, ...]:
    """Return the predictions that have a meaning for the process."""
    return PREDICTIONS if process.k == 1 else ("eps", "x0", "score")


def convert(process: Process, level: Level, source: str, target: str) -> tuple[Tensor, Tensor]:
    """Return the tables (P, Q) with e_target = P z + Q e_source.

    Args:
        process: whose states and predictions these are.
        level: noise level, t of shape () or (B,).
        source: prediction at hand, one of "eps", "x0", "v", "score", "flow".
        target: prediction wanted.

    Raises:
        ValueError: if one of them has no meaning for k > 1, or if the conversion divides by zero
            at this level (eps at zero signal, x0 at zero noise); the message names what works.
    """
    for name in (source, target):
        choose("prediction", name, PREDICTIONS)
        if name not in available(process):
            options = ", ".join(available(process))
            raise ValueError(f"{name!r} has no meaning for k = {process.k}; use one of {options}.")
    zero_signal = not bool((_smallest(level.signal) > 0).all())
    zero_noise = not bool((_smallest(level.root) > 0).all())
    if source == target:
        return torch.zeros_like(level.signal), _identity(level.signal)
    if zero_signal and source in ("eps", "score") and target not in ("eps", "score"):
        raise ValueError(
            f"{source!r} does not determine {target!r} where the signal is zero (t = {level.t}); "
            "predict 'x0', 'v' or 'flow' there, or start the grid below it."
        )
    if zero_noise and (source == "x0" or target == "score"):
        raise ValueError(
            f"{source!r} does not determine {target!r} where the noise is zero (t = {level.t}); "
            "predict 'eps', 'v' or 'flow' there, or end the grid above it."
        )
    clean, noise = _unmix(process, level, source)
    weight_clean, weight_noise = _mixture(process, level, target)
    return tuple(  # pyright: ignore[reportReturnType]
        product(weight_clean, c) + product(weight_noise, n)
        for c, n in zip(clean, noise, strict=True)
    )


def complete_score(process: Process, level: Level, z: Tensor, last: Tensor) -> Tensor:
    r"""Return the score of the whole state from that of its last block, for k > 1.

    The clean state's other blocks are 0 on average, so $s = -\Sigma^{-1}(z - S_0 x_0)$ with one
    unknown, x0, which the last block's score determines.

    Args:
        process: the law.
        level: noise level.
        z: state, (B, k, *shape).
        last: score of the last block, (B, *shape), as velocity-only networks predict it.

    Returns:
        (B, k, *shape).
    """
    undo = inverse(product(level.root, transpose(level.root)))
    pull = undo @ level.signal[..., :1]  # Sigma^-1 S_0, (*, k, 1)
    free = apply(undo, z, process.modes)
    x0 = apply(1 / pull[..., -1:, :], last + free[:, -1], process.modes)
    rest = [apply(pull[..., i : i + 1, :], x0, process.modes) for i in range(process.k)]
    return torch.stack(rest, 1) - free


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype).expand_as(like)


def _smallest(table: Tensor) -> Tensor:
    return table.abs() if table.shape[-1] == 1 else torch.linalg.det(table).abs()


def _unmix(process: Process, level: Level, source: str) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return ((a, b), (c, d)): clean = a z + b e, noise = c z + d e, for the source prediction e."""
    signal, root = level.signal, level.root
    zero, one = torch.zeros_like(signal), _identity(signal)
    if source in ("eps", "score"):
        noise = one if source == "eps" else -transpose(root)
        if not bool((_smallest(signal) > 0).all()):
            return (zero, zero), (zero, noise)
        undo = inverse(signal)
        return (undo, -product(undo, root, noise)), (zero, noise)
    if source == "x0":
        undo = inverse(root)
        return (zero, one), (undo, -product(undo, signal))
    if source == "v":
        scale, data = _angle(process, level), process.sigma_data
        return (
            (data**2 * signal / scale**2, -data * root / scale),
            (root / scale**2, data * signal / scale),
        )
    total = signal + root
    return (one / total, -root / total), (one / total, signal / total)


def _mixture(process: Process, level: Level, target: str) -> tuple[Tensor, Tensor]:
    """Return (a, b): target = a clean + b noise."""
    signal, root = level.signal, level.root
    zero, one = torch.zeros_like(signal), _identity(signal)
    if target == "eps":
        return zero, one
    if target == "score":
        return zero, -inverse(transpose(root))
    if target == "x0":
        return one, zero
    if target == "flow":
        return -one, one
    scale = _angle(process, level)
    return -root / (process.sigma_data * scale), process.sigma_data * signal / scale


def _angle(process: Process, level: Level) -> Tensor:
    return ((process.sigma_data * level.signal) ** 2 + level.root**2).sqrt()
