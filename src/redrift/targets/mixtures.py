r"""Isotropic Gaussian mixtures: every sampler's first test of finding all modes."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from redrift.targets.base import Target


class Mixture(Target):
    r"""Mix isotropic Gaussians, $\sum_i w_i N(m_i, s^2 I)$; log Z = 0.

    Args:
        means: (K, dim).
        std: s, > 0.
        weights: (K,), >= 0, normalised here; equal by default.
        name: for tables.

    Example:
        >>> Mixture(torch.tensor([[-1.0], [1.0]]), 0.5).log_prob(torch.zeros(1, 1))
        tensor([-2.2258])
    """

    log_z = 0.0

    def __init__(
        self, means: Tensor, std: float, weights: Tensor | None = None, name: str = "mixture"
    ) -> None:
        if means.ndim != 2 or not std > 0:
            raise ValueError(
                f"means must be (K, dim) and std > 0, got {tuple(means.shape)} and {std}."
            )
        weights = torch.ones(len(means)) if weights is None else weights
        if weights.shape != (len(means),) or bool((weights < 0).any()):
            raise ValueError(f"weights must be ({len(means)},) and >= 0.")
        self.means = means.double()
        self.std = float(std)
        self.log_weights = (weights.double() / weights.double().sum()).log()
        self.dim, self.name = means.shape[1], name

    @property
    def modes(self) -> Tensor:
        """Return the means (K, dim)."""
        return self.means

    def _logits(self, x: Tensor) -> Tensor:
        means, variance = self.means.to(x), self.std**2
        # |x - m|^2 without |x|^2, which is the same for all components
        return x @ (means.T / variance) + (
            self.log_weights.to(x) - means.square().sum(1) / (2 * variance)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density (B,)."""
        constant = self.dim * math.log(2 * math.pi * self.std**2) / 2
        far = x.square().sum(-1) / (2 * self.std**2)
        return self._logits(x).logsumexp(-1) - far - constant

    def score(self, x: Tensor) -> Tensor:
        """Return its gradient (B, dim)."""
        return (self._logits(x).softmax(-1) @ self.means.to(x) - x) / self.std**2

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return n exact samples."""
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return self.means[which] + self.std * noise


def grid9() -> Mixture:
    """Return the nine-mode mixture of the path integral sampler: {-5, 0, 5}^2, variance .3.

    Paper: arXiv:2111.15141.
    """
    return _grid([-5.0, 0.0, 5.0], 0.3, "mog9")


def grid25() -> Mixture:
    """Return 25 modes on {-10, -5, 0, 5, 10}^2 with variance .3."""
    return _grid([-10.0, -5.0, 0.0, 5.0, 10.0], 0.3, "mog25")


def _grid(places: list[float], variance: float, name: str) -> Mixture:
    g = torch.tensor(places, dtype=torch.float64)
    return Mixture(torch.cartesian_prod(g, g), math.sqrt(variance), name=name)


@functools.cache
def _forty() -> Tensor:
    g = torch.Generator().manual_seed(42)
    return (torch.rand(40, 2, generator=g) - 0.5) * 80


def gmm40(std: float = 1.3132616875182228) -> Mixture:
    """Return forty modes spread over [-40, 40]^2.

    The means in circulation differ between code bases, and so does the width (log(1 + e) or 1), so
    figures compare only within one: these are torch's generator at seed 42.

    Args:
        std: of each mode.
    """
    return Mixture(_forty().double(), std, name="gmm40")
