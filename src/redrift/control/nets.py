r"""Networks for the control: the drift b_k(x) and the log-variance of the step, from state and score.

$b = \tau^2 g + \lambda_k\,g + o$ and $\log S / q = B \tanh(r)$, where g is the gradient of log(mu / mu_0),
clipped in norm, $\tau = (k + 1) / N$, and (o, r) come from a network of x and g. At the chain's end b = g is
the exact control, so an untrained network is right there.

Paper: Path Integral Sampler, arXiv:2111.15141 (the gradient in the control); the ratio's gradient, the
gate, clipping of the norm and the step's variance are ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Control(nn.Module):
    """Predict b and the log-variance ratio from (x, g) at step k.

    Args:
        dim: length of x.
        steps: N of the chain.
        variance: V of the reference's end; sets the units of x and b.
        width: of the hidden layers.
        depth: hidden layers after the first.
        gradient: take the target's gradient as input and in the gate (PIS-Grad); False is PIS-NN.
        spread: bound on |log S / q|; 0 keeps the reference's variance.

    Cost: about (3 dim + depth width) width multiplications a state.
    """

    def __init__(
        self,
        dim: int,
        steps: int,
        variance: float,
        *,
        width: int = 96,
        depth: int = 2,
        gradient: bool = True,
        spread: float = 2.0,
    ) -> None:
        super().__init__()
        self._config: dict[str, Any] = dict(
            dim=dim, steps=steps, variance=variance, width=width, depth=depth, gradient=gradient,
            spread=spread,
        )  # fmt: skip
        self.dim, self.steps, self.gradient, self.spread = dim, steps, gradient, spread
        self.unit = math.sqrt(variance)
        tau = torch.arange(steps) / steps
        ladder = torch.linspace(0.2, 60.0, 32)
        angle = tau[:, None] * ladder
        self.register_buffer("waves", torch.cat([angle.sin(), angle.cos()], 1), persistent=False)
        self.register_buffer("ramp", ((tau + 1 / steps) ** 2)[:, None], persistent=False)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.gate = nn.Sequential(nn.Linear(64, 48), nn.SiLU(), nn.Linear(48, dim))
        self.first = nn.Linear(2 * dim if gradient else dim, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, 2 * dim if spread else dim)
        for layer in (self.last, self.gate[-1]):
            nn.init.zeros_(layer.weight)  # pyright: ignore
            nn.init.zeros_(layer.bias)  # pyright: ignore

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this network."""
        return dict(self._config)

    def at(self, k: Tensor | int | None = None) -> tuple[Tensor, Tensor]:
        """Return the time features of step(s) k, all if None: embedding and gate, (..., width or dim)."""
        waves = self.waves if k is None else self.waves[k]  # pyright: ignore
        ramp = self.ramp if k is None else self.ramp[k]  # pyright: ignore
        return self.time(waves), ramp + self.gate(waves)

    def forward(
        self,
        features: tuple[Tensor, Tensor],
        x: Tensor,
        g: Tensor | None,
        std_left: Tensor | float,
    ) -> tuple[Tensor, Tensor | None]:
        """Return b and log S / q (None if spread = 0), both shaped like x.

        Args:
            features: of `at`, broadcastable against x.
            x: states (..., dim).
            g: clipped gradient of log(mu / mu_0) (..., dim), None without gradient.
            std_left: sqrt(c_k) of the step, broadcastable.
        """
        time, gate = features
        inputs = x / self.unit if g is None else torch.cat([x / self.unit, g * (std_left / 3)], -1)
        h = F.silu(self.first(inputs) + time)
        for layer in self.hidden:
            h = F.silu(layer(h))
        out = self.last(h)
        b = out[..., : self.dim] / self.unit
        if g is not None:
            b = torch.addcmul(b, gate, g)
        if not self.spread:
            return b, None
        return b, self.spread * torch.tanh(out[..., self.dim :] / self.spread)
