"""Relatives of the path integral sampler that differ in the reference alone."""

from __future__ import annotations

from typing import Any

from redrift.control.density import Function
from redrift.control.pis import PIS
from redrift.process import VP, OrnsteinUhlenbeck
from redrift.targets import Target


def dds(
    log_prob: Function | Target,
    dim: int | None = None,
    *,
    std: float = 1.0,
    **options: Any,  # noqa: ANN401
) -> PIS:
    """Return a denoising diffusion sampler: from and to N(0, std^2), by exact OU transitions.

    With Euler steps the reference is not stationary and weights are biased; these are exact.
    Arguments as `PIS`, but for `reference`.

    Paper: Denoising Diffusion Samplers, arXiv:2302.13834.
    """
    reference = OrnsteinUhlenbeck(scale=std, horizon=3.0)
    given: dict[str, Any] = {"reference": reference} | options
    return PIS(log_prob, dim, **given)


def dis(log_prob: Function | Target, dim: int | None = None, **options: Any) -> PIS:  # noqa: ANN401
    """Return a time-reversed diffusion sampler: from N(0, I), on the VP schedule with even steps.

    Arguments as `PIS`; give loc and scale if the target is not of unit size.

    Paper: Berner, Richter and Ullrich, arXiv:2211.01364.
    """
    given: dict[str, Any] = {"reference": VP(), "power": 0.0} | options
    return PIS(log_prob, dim, **given)
