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

from typing import Any

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
    signal, root = level.signal, level.root
    if process.k > 1:
        small = [float(torch.linalg.det(table).abs().min()) for table in (signal, root)]
        _check_defined(source, target, level.t, *small)
        return _matrices(signal, root, source, target)
    if signal.numel() == 1 and not signal.requires_grad and not root.requires_grad:
        P, Q = mix(process, level, source, target)
        return signal.new_full(signal.shape, P), signal.new_full(signal.shape, Q)
    small = [float(table.detach().abs().min()) for table in (signal, root)]
    _check_defined(source, target, level.t, *small)
    P, Q = _scalars(signal, root, process.sigma_data, source, target)
    return P + torch.zeros_like(signal), Q + torch.zeros_like(signal)


def mix(process: Process, level: Level, source: str, target: str) -> tuple[float, float]:
    """Return `convert`'s (P, Q) as numbers, for a process and level with one noise level."""
    signal, root = float(level.signal), float(level.root)
    _check_defined(source, target, level.t, signal, root)
    return _scalars(signal, root, process.sigma_data, source, target)


def _check_defined(source: str, target: str, t: Tensor, signal: float, root: float) -> None:
    """Refuse a conversion that divides by zero."""
    if source == target:
        return
    if signal == 0 and source in ("eps", "score") and target not in ("eps", "score"):
        raise ValueError(
            f"{source!r} does not determine {target!r} where the signal is zero (t = {t}); "
            "predict 'x0', 'v' or 'flow' there, or start the grid below it."
        )
    if root == 0 and (source == "x0" or target == "score"):
        raise ValueError(
            f"{source!r} does not determine {target!r} where the noise is zero (t = {t}); "
            "predict 'eps', 'v' or 'flow' there, or end the grid above it."
        )


def _scalars(signal: Any, root: Any, data: float, source: str, target: str) -> Any:  # noqa: ANN401
    """Return (P, Q) for k = 1, where tables act entry by entry: numbers or tables alike.

    clean = a z + b e and noise = c z + d e for the source prediction e; the target is a fixed
    mixture of the two.
    """
    if source == target:
        return 0.0, 1.0
    angle = ((data * signal) ** 2 + root**2) ** 0.5
    on_clean, on_noise = {
        "eps": (0.0, 1.0),
        "score": (0.0, -1 / root if target == "score" else 0.0),
        "x0": (1.0, 0.0),
        "flow": (-1.0, 1.0),
        "v": (-root / (data * angle), data * signal / angle),
    }[target]
    if source == "x0":
        clean, noise = (0.0, 1.0), (1 / root, -signal / root)
    elif source == "v":
        clean = (data**2 * signal / angle**2, -data * root / angle)
        noise = (root / angle**2, data * signal / angle)
    elif source == "flow":
        total = signal + root
        clean, noise = (1 / total, -root / total), (1 / total, signal / total)
    else:
        size = 1.0 if source == "eps" else -root
        noise, clean = (0.0, size), (0.0, 0.0)
        if target not in ("eps", "score"):
            clean = (1 / signal, -root * size / signal)
    P = on_clean * clean[0] + on_noise * noise[0]
    return P, on_clean * clean[1] + on_noise * noise[1]


def _matrices(signal: Tensor, root: Tensor, source: str, target: str) -> tuple[Tensor, Tensor]:
    """Return (P, Q) for k > 1, where eps, x0 and score have a meaning."""
    zero, one = torch.zeros_like(signal), _identity(signal)
    if source == target:
        return zero, one
    if source == "x0":
        undo = inverse(root)
        noise = undo, -product(undo, signal)
    else:
        noise = zero, one if source == "eps" else -transpose(root)
    if target == "eps":
        return noise
    if target == "score":
        turn = -inverse(transpose(root))
        return product(turn, noise[0]), product(turn, noise[1])
    undo = inverse(signal)
    return undo, -product(undo, root, noise[1])


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
