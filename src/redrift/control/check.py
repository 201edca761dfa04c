r"""Judging a sampler from both sides: its own weights, and weights of paths that end elsewhere.

Under Q the mean of w is Z and log w averages below log Z; along paths bridged backwards from samples of
the target the mean of 1 / w is 1 / Z and log w averages above. A mode that Q never visits is invisible
to the first and makes the second enormous.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from redrift.measure import Weights

# A path whose weight is R times the mean is one that Q makes R times too rarely.
_RARE, _MISSED_LIMIT, _DISAGREE = 1000, 0.05, 0.5


class TrustWarning(UserWarning):
    """Say that weights or a sampler should not be trusted, and what to try."""


class LogZ(NamedTuple):
    """Hold an estimate of log Z, its standard error and the number of samples."""

    value: float
    error: float
    n: int

    @classmethod
    def mean(cls, log_w: Tensor) -> LogZ:
        """Return the mean of log-weights (N,), a bound of log Z."""
        n = len(log_w)
        return cls(float(log_w.mean()), float(log_w.std() / math.sqrt(n)), n)


def warn_of(weights: Weights) -> None:
    """Warn if weights have collapsed."""
    if weights.concern:
        warnings.warn(
            f"{weights.concern}: log Z and expectations from these weights are not reliable. "
            "Fit longer, take more steps, a wider reference, or resample along the path "
            "(redrift.control.sample_smc).",
            TrustWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class Check:
    """Hold the verdict on a sampler.

    Attributes:
        log_z: from its own weights; log_z_se its standard error.
        log_z_se: see log_z.
        ess: effective sample size of its own weights, a fraction.
        k_hat: of its own weights.
        elbo: mean of its own log-weights, a lower bound.
        eubo: mean log-weight of paths that end in the other samples, an upper bound if those are
            exact; None without any.
        forward_ess: of those paths: near 0 where they end in places that the sampler does not reach.
        missed: share of those paths that the sampler makes less than a thousandth as often as it
            should.
        log_z_annealed: of the annealed chains, if they served.
        concern: what speaks against the sampler and what to try; None if nothing does.
    """

    log_z: float
    log_z_se: float
    ess: float
    k_hat: float
    elbo: float
    eubo: float | None
    forward_ess: float | None
    missed: float | None
    log_z_annealed: float | None
    concern: str | None

    def __str__(self) -> str:
        """Say it in two lines."""
        lines = [
            f"log Z {self.log_z:.4f} +- {self.log_z_se:.4f} | ESS {self.ess:.3f} | "
            f"k-hat {self.k_hat:.2f} | ELBO {self.elbo:.4f}"
        ]
        if self.eubo is not None and self.forward_ess is not None:
            lines.append(f"EUBO {self.eubo:.4f} | forward ESS {self.forward_ess:.3f}")
        return "\n".join([*lines, *([] if self.concern is None else [self.concern])])


def judge(own: Weights, other: Tensor | None, annealed: Weights | None) -> Check:
    """Weigh own paths against others.

    Args:
        own: weights of the sampler's paths.
        other: log-weights of paths that end in target samples (M,), or None.
        annealed: weights of the annealed chains that made them, or None.
    """
    log_z, error = float(own.log_z), float(own.log_z_se)
    said = [own.concern] if own.concern else []
    eubo = forward = missed = None
    if other is not None:
        eubo, forward = float(other.mean()), forward_ess(other)
        missed = float((other > log_z + math.log(_RARE)).double().mean())
        if missed > _MISSED_LIMIT:
            said.append(
                f"{missed:.0%} of the target lies where it goes {_RARE} times too rarely "
                f"(forward ESS {forward:.1e}): modes or tails are missing"
            )
    reached = None
    if annealed is not None:
        reached = float(annealed.log_z)
        # too little says nothing: annealed chains miss mass themselves
        if reached - log_z > _DISAGREE + 4 * math.hypot(error, float(annealed.log_z_se)):
            said.append(f"annealed chains find log Z = {reached:.2f}, the sampler {log_z:.2f}")
    concern = None
    if said:
        concern = (
            f"do not trust this sampler: {'; '.join(said)}. Try loss='mixed' with a buffer that "
            "covers the target, gradient=True, a wider reference or start, more steps, a longer fit."
        )
    return Check(
        log_z, error, float(own.ess), float(own.k_hat), float(own.log_w.mean()), eubo, forward, missed,
        reached, concern,
    )  # fmt: skip


def forward_ess(log_w: Tensor) -> float:
    """Return 1 / (mean(w) mean(1 / w)) of weights on paths from the target, in (0, 1]."""
    log_w = log_w.double()
    n = 2 * math.log(len(log_w))
    return float(torch.exp(n - log_w.logsumexp(0) - (-log_w).logsumexp(0)))
