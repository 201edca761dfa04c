r"""Funnel, wells and rings: closed forms of log Z, each with one difficulty."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from redrift.targets.base import Target

_LOG_2PI = math.log(2 * math.pi)


class Funnel(Target):
    r"""Neal's funnel, $x_0 \sim N(0, \eta^2)$, $x_i \mid x_0 \sim N(0, e^{x_0})$; log Z = 0.

    Two variances are in use: 9 nearly everywhere, and 1 in the path integral sampler's own code,
    which makes a much easier problem.

    Args:
        dim: >= 2.
        variance: of x_0, > 0.
    """

    log_z = 0.0

    def __init__(self, dim: int = 10, variance: float = 9.0) -> None:
        if dim < 2 or not variance > 0:
            raise ValueError(f"a funnel needs dim >= 2 and variance > 0, got {dim}, {variance}.")
        self.dim, self.variance = dim, float(variance)
        self.name = f"funnel{variance:g}"

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density (B,)."""
        a, radius = x[..., 0], x[..., 1:].square().sum(-1)
        head = -a * a / (2 * self.variance) - (_LOG_2PI + math.log(self.variance)) / 2
        return head - radius * torch.exp(-a) / 2 - (self.dim - 1) * (a + _LOG_2PI) / 2

    def score(self, x: Tensor) -> Tensor:
        """Return its gradient (B, dim)."""
        a, rest = x[..., :1], x[..., 1:]
        pull = rest * torch.exp(-a)
        first = (rest * pull).sum(-1, keepdim=True) / 2 - a / self.variance - (self.dim - 1) / 2
        return torch.cat([first, -pull], -1)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return n exact samples."""
        x = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        a = math.sqrt(self.variance) * x[:, :1]
        return torch.cat([a, torch.exp(a / 2) * x[:, 1:]], 1)


class ManyWell(Target):
    r"""Tilted double wells in pairs: $\log\hat\mu = \sum 0.5 a + 6 a^2 - a^4 - y^2/2$ over pairs (a, y).

    Each pair (a, y) has two wells at a = -1.70 and 1.78, the right one with probability .844; dim / 2
    pairs make 2^(dim / 2) modes. log Z is dim / 2 times that of a pair, by quadrature (1e-13).

    Args:
        dim: even, >= 2; 2 is the double well.
    """

    def __init__(self, dim: int = 32) -> None:
        if dim < 2 or dim % 2:
            raise ValueError(f"many wells come in pairs: dim must be even, got {dim}.")
        self.dim, self.name = dim, f"manywell{dim}"
        nodes, density, _ = _well()
        self.log_z = dim / 2 * (math.log(float(density.sum() * nodes.diff()[0])) + _LOG_2PI / 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density (B,)."""
        a, y = x[..., 0::2], x[..., 1::2]
        square = a * a
        return (0.5 * a + square * (6 - square) - y * y / 2).sum(-1)

    def score(self, x: Tensor) -> Tensor:
        """Return its gradient (B, dim)."""
        a, y = x[..., 0::2], x[..., 1::2]
        return torch.stack([0.5 + a * (12 - 4 * a * a), -y], -1).flatten(-2)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return n samples: the well by inversion on a fine grid (error below 1e-6), y exactly."""
        nodes, _, cumulated = _well()
        u = torch.rand(n, self.dim // 2, generator=generator, dtype=torch.float64)
        i = torch.searchsorted(cumulated, u).clamp(1, len(nodes) - 1)
        low, high = cumulated[i - 1], cumulated[i]
        a = nodes[i - 1] + (u - low) / (high - low).clamp(min=1e-300) * (nodes[1] - nodes[0])
        y = torch.randn(n, self.dim // 2, generator=generator, dtype=torch.float64)
        return torch.stack([a, y], -1).flatten(-2)


@functools.cache
def _well() -> tuple[Tensor, Tensor, Tensor]:
    nodes = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    density = torch.exp(0.5 * nodes + 6 * nodes**2 - nodes**4)
    cumulated = torch.cat([torch.zeros(1).double(), ((density[1:] + density[:-1]) / 2).cumsum(0)])
    return nodes, density, cumulated / cumulated[-1]


class Wells(Target):
    r"""Separated symmetric wells: $\exp(-\sum_{i \le m} (x_i^2 - \delta)^2 - \tfrac12\sum_{i > m} x_i^2)$.

    Args:
        dim: length of x.
        wells: m, the number of coordinates with two wells each, 1 <= m <= dim.
        delta: wells at plus and minus its root, > 0.
    """

    def __init__(self, dim: int = 5, wells: int = 5, delta: float = 4.0) -> None:
        if not 1 <= wells <= dim or not delta > 0:
            raise ValueError(f"needs 1 <= wells <= dim and delta > 0, got {wells}, {delta}.")
        self.dim, self.wells, self.delta = dim, wells, float(delta)
        self.name = f"wells{wells}-{dim}"
        nodes = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
        one = torch.exp(-((nodes**2 - delta) ** 2)).sum() * nodes.diff()[0]
        self.log_z = wells * math.log(float(one)) + (dim - wells) * _LOG_2PI / 2

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density (B,)."""
        a, rest = x[..., : self.wells], x[..., self.wells :]
        return -(a * a - self.delta).square().sum(-1) - rest.square().sum(-1) / 2

    def score(self, x: Tensor) -> Tensor:
        """Return its gradient (B, dim)."""
        a, rest = x[..., : self.wells], x[..., self.wells :]
        return torch.cat([-4 * a * (a * a - self.delta), -rest], -1)


class Rings(Target):
    r"""Concentric rings in the plane, $\exp(-100 \min_j (|x| - r_j)^2)$, r = 1, 3, 5.

    log Z by quadrature in polar coordinates (1e-10).
    """

    dim, name = 2, "rings"
    radii = (1.0, 3.0, 5.0)

    def __init__(self) -> None:
        r = torch.linspace(0, 8, 400_001, dtype=torch.float64)
        density = 2 * math.pi * r * torch.exp(self._exponent(r))
        self.log_z = math.log(float(density.sum() * r.diff()[0]))
        self._r, self._cumulated = r, density.cumsum(0) / density.sum()

    def _exponent(self, r: Tensor) -> Tensor:
        gaps = r[..., None] - torch.tensor(self.radii, dtype=r.dtype, device=r.device)
        return -100 * gaps.square().amin(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density (B,)."""
        return self._exponent(torch.linalg.vector_norm(x, dim=-1))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return n samples, the radius by inversion on a grid of width 2e-5."""
        u = torch.rand(2, n, generator=generator, dtype=torch.float64)
        r = self._r[torch.searchsorted(self._cumulated, u[0]).clamp(max=len(self._r) - 1)]
        angle = 2 * math.pi * u[1]
        return torch.stack([r * angle.cos(), r * angle.sin()], 1)
