r"""Girsanov's formula in the forms in use, for chains that share their covariance.

A reference P takes steps of length h driven by dw; the control u adds g u h to the mean, so under Q_u
the same path is driven by dB = dw - u h. On a path that Q_v walked, driven by dB_v:

    log dP/dQ_u = -sum_k u_k' (v_k - u_k / 2) h_k + u_k' dB_k,

with u = v the usual -sum |u|^2 h / 2 + u' dB. For a constant g this holds exactly for every h, and
equals the ratio of kernels that `rollout` accumulates. Its mean under Q_u is -KL(Q_u || P), and the
Ito term u' dB, whose mean is 0, only adds variance: `control_cost` leaves it out.

Paper: Path Integral Sampler, arXiv:2111.15141; Richter and Berner, arXiv:2307.01198 (other walks).
"""

from __future__ import annotations

import torch
from torch import Tensor

from redrift.measure.noise import total


def log_girsanov(
    u: Tensor, increments: Tensor, lengths: Tensor, *, walked: Tensor | None = None
) -> Tensor:
    """Return log dP/dQ_u of paths, (B,).

    Args:
        u: controls at the starts of the steps, (N, B, *noise).
        increments: the Brownian increments dB that drove the walk, of variance h, (N, B, *noise).
        lengths: the steps' lengths h, (N,), > 0.
        walked: controls v of the walk that made the path; u itself by default.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> log_girsanov(2 * one, 0 * one, torch.tensor([0.5]))
        tensor([-1.])
    """
    _check(u, increments, lengths)
    h = lengths.to(u).reshape(-1, *[1] * (u.ndim - 1))
    drive = increments + h * ((u if walked is None else walked) - u / 2)
    return -total((u * drive).transpose(0, 1))


def control_cost(u: Tensor, lengths: Tensor) -> Tensor:
    """Return sum_k |u_k|^2 h_k / 2 of each path, (B,): its mean under Q_u is KL(Q_u || P).

    Args:
        u: controls (N, B, *noise).
        lengths: (N,).
    """
    _check(u, u, lengths)
    return total((u * u * (lengths.to(u) / 2).reshape(-1, *[1] * (u.ndim - 1))).transpose(0, 1))


def _check(u: Tensor, increments: Tensor, lengths: Tensor) -> None:
    if u.ndim < 2 or u.shape != increments.shape or lengths.shape != (len(u),):
        raise ValueError(
            f"u has shape {tuple(u.shape)}, increments {tuple(increments.shape)} and lengths "
            f"{tuple(lengths.shape)}: expected (N, B, *noise) twice and (N,), one row per step."
        )
    if not bool((lengths > 0).all()) or not bool(torch.isfinite(lengths).all()):
        raise ValueError("lengths must be positive and finite: the grid is not increasing.")
