"""The first state: a Gaussian, or any function that draws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """Draw the first state from N(mean, cov): the point `mean`, moved by Gaussian noise.

    Args:
        mean: a point of the space, (d,) in R^d, or (B, 1, *point) for one per data set.
        cov: (d, d) in coordinates around the mean, positive semi-definite: 0 is a known start.

    Raises:
        ValueError: if cov is not a covariance.

    Example:
        >>> GaussianPrior(torch.zeros(2), torch.eye(2)).dim
        2
    """

    mean: Tensor
    cov: Tensor
    root: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Check the covariance."""
        mean, cov = torch.as_tensor(self.mean), torch.as_tensor(self.cov)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "cov", cov)
        object.__setattr__(self, "root", positive_root("initial cov", cov, semi=True))

    @property
    def dim(self) -> int:
        """Return d."""
        return self.cov.shape[-1]

    def means(self, batch: int, axes: int, like: Tensor) -> Tensor:
        """Return the mean for each data set, (batch, 1, *point), of points with `axes` axes."""
        mean = self.mean.to(like)
        return mean.expand(batch, 1, *mean.shape[mean.ndim - axes :])


Initial = GaussianPrior | Callable[..., Tensor]


def positive_root(name: str, cov: Tensor, *, semi: bool = False) -> Tensor:
    """Return a root of a covariance (..., d, d).

    Raises:
        ValueError: if it is not finite, symmetric, and positive definite (semi-definite if semi).
    """
    if cov.ndim < 2 or cov.shape[-1] != cov.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(cov.shape)}, expected square matrices (d, d).")
    scale = cov.abs().amax()
    if not bool(torch.isfinite(cov).all()) or bool((cov - cov.mT).abs().amax() > 1e-9 * scale):
        raise ValueError(f"{name} is not a finite symmetric matrix: {cov.tolist()}.")
    root, info = torch.linalg.cholesky_ex(cov)
    if not bool(info.any()):
        return root
    lam, vec = torch.linalg.eigh(cov)
    least = float(lam.amin())
    if not semi or least < -1e-12 * float(scale):
        raise ValueError(
            f"{name} is not positive definite: its smallest eigenvalue is {least:.3g}. Give a "
            "covariance (variances, not standard deviations), or add a small multiple of I."
        )
    return vec * lam.clamp(min=0).sqrt().unsqueeze(-2)
