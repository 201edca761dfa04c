r"""A network that corrects the best linear denoiser: the mixed score, on any linear process.

All that z says of a clean coordinate is its least-squares estimate $\hat x$ of precision g (see
`redrift.denoise.exact`). For data of standard deviation s the best linear denoiser and its error are

$$x_{lin} = \frac{s^2 g}{1 + s^2 g}\,\hat x, \qquad c = \frac{s}{\sqrt{1 + s^2 g}},$$

and the network F gives the rest in units of that error: $x_0 = x_{lin} + c\,F(z, t)$. At high noise, where
a predicted noise would be divided by a tiny signal, the network's share vanishes. On VP with s = 1, F is
-v; on EDM it is the raw network of `Preconditioned`. On CLD it is the mixed score, with one output
block for two of input.

Papers: CLD, arXiv:2112.07068 (mixed score); EDM, arXiv:2206.00364 (preconditioning).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from redrift.denoise.denoiser import Denoiser
from redrift.denoise.exact import observe
from redrift.process import Level, Process


class Mixed(Denoiser):
    """A denoiser whose network predicts the error of the best linear one, in units of its size.

    Args:
        net: callable of x, t and conditions as for `Denoiser`; returns the data's shape.
        process: the law.
        data_std: s, standard deviation of the data about 0, > 0.
        dtype: dtype the network is called in; None takes its parameters'.

    Raises:
        ValueError: if data_std is not positive.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        process: Process,
        *,
        data_std: float,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 < data_std < float("inf"):
            raise ValueError(f"data_std must be positive and finite, got {data_std}.")
        super().__init__(net, process, "x0", dtype=dtype)
        self.data_std = float(data_std)

    def linear(self, z: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Return x_lin and c at a modal state: (B, *shape), and a tensor that broadcasts to it."""
        x, precision = observe(self.process, z, level)
        spread = 1 + self.data_std**2 * precision
        return (1 - 1 / spread) * x, self.data_std / spread.sqrt()

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the clean modal state."""
        x = self.network_input(z)
        out: Any = self.net(x, self.network_time(level.t, x), **self.conditions())
        shape = torch.Size((x.shape[0], x.shape[1] // self.process.k, *x.shape[2:]))
        self.check_output(out, x, (shape,))
        x_lin, scale = self.linear(z, level)
        clean = x_lin + scale * self.process.to(out.to(z.dtype))
        if self.process.k == 1:
            return clean
        return torch.stack([clean] + [torch.zeros_like(clean)] * (self.process.k - 1), 1)
