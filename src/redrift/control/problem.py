r"""The control problem in its own coordinates: target, reference and control as kernels.

The target is moved to z, x = loc + scale z. A controlled step draws $z' = a z + \sqrt q\,\xi$ with
$\xi \sim N(u, S)$, u = gain b, where the reference has N(0, I); so paths are walked and weighed by
`redrift.rollout`, and

    log w = log mu(z_N) - log N(z_N; 0, V) + log dP/dQ

is unbiased for Z in exp, for any control, any variance and any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from redrift._core.rng import Generators, normal
from redrift.control.reference import Reference
from redrift.measure import Diagonal, GaussianKernel, NoiseLaw
from redrift.rollout import rollout

Function = Callable[[Tensor], Tensor]


class Drift(Protocol):
    """Return b (B, dim) and log S / q (B, dim) or None at step k, given x and maybe g."""

    def __call__(self, k: int, x: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Evaluate at one step."""
        ...


@dataclass(frozen=True, eq=False)
class ControlProblem:
    """Hold the target, the reference chain and what a control sees of them.

    Args:
        log_prob: log-density of z, checked for shape and finiteness (see `density.checked`).
        score: its gradient.
        dim: length of z.
        reference: the chain.
        clip: largest norm of the gradient that a control sees.
    """

    log_prob: Function
    score: Function
    dim: int
    reference: Reference
    clip: float = 100.0

    def ratio_score(self, z: Tensor) -> Tensor:
        """Return the gradient of log(mu / mu_0), that of log mu clipped in norm."""
        g = self.score(z)
        size = torch.linalg.vector_norm(g, dim=-1, keepdim=True)
        return g * (self.clip / size.clamp(min=self.clip)) + z / self.reference.end

    def log_density_ratio(self, z: Tensor) -> Tensor:
        """Return log mu(z) - log mu_0(z)."""
        variance = self.reference.end
        constant = self.dim * math.log(2 * math.pi * variance) / 2
        return self.log_prob(z) + z.square().sum(-1) / (2 * variance) + constant

    def start(self, n: int, *, dtype: torch.dtype, generator: Generators) -> Tensor:
        """Draw x_0."""
        std = self.reference.start
        if std == 0:
            return torch.zeros(n, self.dim, dtype=dtype)
        return std * normal((n, self.dim), generator, dtype=dtype)

    def kernels(self, drift: Drift) -> tuple[list[GaussianKernel], list[GaussianKernel]]:
        """Return the controlled kernels and those of the reference."""
        chain = self.reference
        p = [_reference_kernel(float(a), float(q)) for a, q in zip(chain.a, chain.q, strict=True)]
        gains = chain.gain.tolist()
        q = [k.twisted(_law(drift, i, gains[i])) for i, k in enumerate(p)]
        return q, p

    def simulate(
        self,
        drift: Drift,
        n: int,
        *,
        dtype: torch.dtype = torch.float32,
        path: bool = False,
        antithetic: bool = False,
        checkpoint: bool = False,
        generator: Generators = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Simulate n paths: final states (n, dim), log-weights (n,), all states (N + 1, n, dim) if asked."""
        q, p = self.kernels(drift)
        run = rollout(
            q, p, self.start(n, dtype=dtype, generator=generator), path=path,
            antithetic=antithetic, checkpoint=checkpoint, generator=generator,
        )  # fmt: skip
        return run.x, run.log_weight + self.log_density_ratio(run.x), run.path

    def bridge(self, terminal: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths of the reference that end at `terminal` (B, dim): (N + 1, B, dim).

        Backwards: x_k given x_{k+1} and the start, which is the time reversal of the reference.
        """
        chain = self.reference
        variance = chain.marginal.tolist()
        x, states = terminal, [terminal]
        for k in range(chain.steps - 1, -1, -1):
            a, q = float(chain.a[k]), float(chain.q[k])
            gain = variance[k] * a / variance[k + 1]
            spread = math.sqrt(max(0.0, variance[k] * q / variance[k + 1]))
            x = gain * x
            if spread > 0:
                x = x + spread * normal(x.shape, generator, dtype=x.dtype, device=x.device)
            states.append(x)
        return torch.stack(states[::-1])


def _reference_kernel(a: float, q: float) -> GaussianKernel:
    mean: Function = (lambda x: x) if a == 1 else (lambda x: a * x)
    return GaussianKernel(mean, math.sqrt(q))


def _law(drift: Drift, k: int, gain: float) -> Callable[[Tensor], NoiseLaw]:
    def law(x: Tensor) -> NoiseLaw:
        b, log_s = drift(k, x)
        return NoiseLaw(gain * b, None if log_s is None else Diagonal(torch.exp(log_s / 2)))

    return law
