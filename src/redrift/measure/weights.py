"""Weights: the log-weights of a set of samples, and what they say about it.

Samples x_i of a law Q with w_i = dP/dQ (x_i), P unnormalised, estimate the mass of P without bias:
Z = E[w], and expectations under P by self-normalisation, sum_i W_i f(x_i), W = w / sum w.
Everything stays in logs, so a weight may be 0 (log -inf) or far beyond the range of exp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift._core.rng import Generators
from redrift.measure.resampling import effective_share, require_weight, resample
from redrift.measure.tail import pareto_k, smooth

K_HAT_LIMIT, ESS_LIMIT = 0.7, 0.01  # beyond these an estimate is not to be trusted


@dataclass(frozen=True, eq=False)
class Weights:
    """Hold unnormalised log-weights.

    Args:
        log_w: (..., N), one set of N samples for each index of the leading axes. -inf is a
            weight of 0.

    Raises:
        TypeError: if log_w is not a floating-point tensor.
        ValueError: if it has no samples, or holds NaN or +inf.

    Example:
        >>> w = Weights(torch.tensor([0.0, 0.0, -float("inf")]))
        >>> w.log_z.exp(), w.ess
        (tensor(0.6667), tensor(0.6667))
    """

    log_w: Tensor

    def __post_init__(self) -> None:
        """Refuse what cannot be log-weights."""
        if not isinstance(self.log_w, Tensor) or not self.log_w.is_floating_point():
            kind = getattr(self.log_w, "dtype", type(self.log_w).__name__)
            raise TypeError(f"log_w must be a floating-point tensor of log-weights, got {kind}.")
        if self.log_w.ndim == 0 or self.log_w.shape[-1] == 0:
            raise ValueError(
                f"log_w has shape {tuple(self.log_w.shape)}, expected (..., N) with N >= 1."
            )
        bad = self.log_w.isnan() | (self.log_w == torch.inf)
        if bad.any():
            raise ValueError(
                f"log_w has {int(bad.sum())} of {bad.numel()} entries NaN or +inf: a density "
                "returned them, or a state is not finite. The log of a weight 0 is -inf."
            )

    def __len__(self) -> int:
        """Return the number of samples N."""
        return self.log_w.shape[-1]

    def __repr__(self) -> str:
        """Show the number of samples and the two figures that matter."""
        if self.log_w.ndim > 1:
            return f"Weights(shape={tuple(self.log_w.shape)})"
        log_z = self.log_z.item()
        ess = 0.0 if log_z == -math.inf else self.ess.item()
        return f"Weights(n={len(self)}, log_z={log_z:.4g}, ess={ess:.3g})"

    @property
    def log_z(self) -> Tensor:
        """Return the log of the mean weight (...): exp of it is unbiased for Z; -inf if all 0."""
        return self.log_w.logsumexp(-1) - math.log(len(self))

    @property
    def log_z_se(self) -> Tensor:
        """Return the standard error of log_z (...), by the delta method; inf for one sample.

        It is the coefficient of variation of the weights over sqrt(N), so it is as blind as the
        samples: mass that no sample reached is missing from it too.
        """
        if len(self) == 1:
            return torch.full_like(self.log_z, torch.inf)
        return ((1 / self.ess - 1).clamp(min=0) / (len(self) - 1)).sqrt()

    @property
    def ess(self) -> Tensor:
        """Return the effective sample size (...) as a fraction of N, in [1/N, 1]."""
        return effective_share(self.normalised)

    @property
    def max_share(self) -> Tensor:
        """Return the largest normalised weight (...): near 1, one sample is all there is."""
        return self.log_normalised.amax(-1).exp()

    @property
    def k_hat(self) -> Tensor:
        """Return the tail index of the weights (...), float64: above .7, do not trust log_z.

        Paper: arXiv:1507.02646. Like the standard error it sees only what the samples reached.
        """
        return pareto_k(self.log_w)

    def smoothed(self) -> Weights:
        """Return the weights with their tail replaced by the fitted Pareto law's quantiles."""
        return Weights(smooth(self.log_w))

    @property
    def concern(self) -> str | None:
        """Return what speaks against the estimate, in one line, or None (one set only)."""
        if float(self.log_z) == -math.inf:
            return "all weights are 0: no sample reached the target's support"
        k, ess = float(self.k_hat), float(self.ess)
        said = [f"k-hat {k:.2f} is above {K_HAT_LIMIT}"] if k > K_HAT_LIMIT else []
        if ess < ESS_LIMIT:
            said.append(f"the effective sample size is {ess:.2%} of {len(self)}")
        return " and ".join(said) or None

    @property
    def log_normalised(self) -> Tensor:
        """Return the logs of the normalised weights (..., N).

        Raises:
            ValueError: if all weights of a set are 0, as for all that normalises.
        """
        require_weight(self.log_w)
        return self.log_w.log_softmax(-1)

    @property
    def normalised(self) -> Tensor:
        """Return the normalised weights (..., N), which sum to 1."""
        return self.log_normalised.exp()

    def resample(
        self,
        x: Tensor,
        n: int | None = None,
        method: str = "systematic",
        *,
        generator: Generators = None,
    ) -> Tensor:
        """Return n samples drawn by weight, equally weighted.

        Args:
            x: samples (..., N, *shape), leading axes as in log_w.
            n: how many; as many as there are by default.
            method: "systematic", "stratified", "multinomial" or "residual".
            generator: one, one per set of the leading axes, or None.

        Returns:
            (..., n, *shape).

        Raises:
            ValueError: if x does not fit, the method is unknown or all weights of a set are 0.
        """
        axes = self.log_w.ndim
        if x.shape[:axes] != self.log_w.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected it to begin with the shape of the "
                f"log-weights, {tuple(self.log_w.shape)}: one sample per weight."
            )
        n = len(self) if n is None else n
        ancestors = resample(self.log_w, n, method, generator)
        index = ancestors.reshape(*ancestors.shape, *[1] * (x.ndim - axes))
        return x.gather(axes - 1, index.expand(*ancestors.shape, *x.shape[axes:]))

    def merge(self, *others: Weights) -> Weights:
        """Return the weights of this set and the others together.

        All must come with the same normalisation (the same target, weights not rescaled); the
        merged log_z then is the estimate from all samples.
        """
        return Weights(torch.cat([self.log_w, *(other.log_w for other in others)], dim=-1))
