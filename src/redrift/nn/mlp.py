"""Time and label embedding, and the net on vectors that uses it.

Times enter as sinusoids of ``1000 t`` on a geometric ladder of frequencies, so that t = 1e-3 and
t = 1 are both resolved; labels enter as one learned vector each, the last being the null label.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Embedding(nn.Module):
    """Embed a time and an optional label in one vector.

    ``e = W2 silu(W1 [cos(1000 t f), sin(1000 t f)]) + label vector`` with frequencies f falling
    geometrically from 1 to 1e-4.

    Args:
        width: length of the embedding, even and at least 4.
        classes: number of labels; the label ``classes`` is the null label. None: no labels.

    Cost: two products with width x width matrices.
    """

    def __init__(self, width: int, classes: int | None = None) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f"width of an embedding must be even and at least 4, got {width}")
        self.width, self.classes = width, classes
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        if classes is not None:
            self.label = nn.Embedding(classes + 1, width)
            nn.init.normal_(self.label.weight, std=0.5)

    def forward(self, t: Tensor, label: Tensor | None, batch: int) -> Tensor:
        """Return the embedding (batch, width) in the parameters' dtype.

        Args:
            t: times (batch,), or one time () or (1,) for all; about (0, 1].
            label: integers (batch,) in 0..classes, or None for the null label.
            batch: number of rows.

        Raises:
            ValueError: a label was given to a net without labels, or t has a wrong shape.
        """
        dtype = self.first.weight.dtype
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        if t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, batch)):
            raise ValueError(f"t must have shape ({batch},) or (), got {tuple(t.shape)}")
        half = self.width // 2
        ladder = torch.arange(half, device=t.device, dtype=exact) / max(half - 1, 1)
        angle = 1000.0 * t.to(exact).expand(batch)[:, None] * torch.exp(-math.log(1e4) * ladder)
        out = self.second(F.silu(self.first(torch.cat([angle.cos(), angle.sin()], 1).to(dtype))))
        if self.classes is None:
            if label is not None:
                raise ValueError("label was given, but the net was built with classes=None")
            return out
        if label is None:
            label = torch.full((batch,), self.classes, device=out.device)
        return out + self.label(label)


class MLP(nn.Module):
    """Predict from vectors: residual layers, each told the time.

    ``h <- h + W silu(norm(h) * (1 + scale(e)) + shift(e))``; the last layer starts at zero, so a
    new net is the zero function.

    Args:
        dim: length D of the input.
        width: length of the hidden state, even and at least 4.
        depth: number of residual layers.
        out: length of the output; None: D.
        classes: number of labels, see `Embedding`; None: no labels.

    Cost: about ``3 * depth * width**2`` multiplications a sample, as many parameters.

    Example:
        >>> net = MLP(2)
        >>> net(torch.randn(5, 2), torch.rand(5)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 3,
        out: int | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self._config: dict[str, Any] = dict(
            dim=dim, width=width, depth=depth, out=out, classes=classes
        )
        self.dim = dim
        self.embedding = Embedding(width, classes)
        self.first = nn.Linear(dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.films = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, dim if out is None else out)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this net: ``MLP(**net.config)``."""
        return dict(self._config)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prediction (B, out) in the dtype of x.

        Args:
            x: input (B, dim); the sums run in the parameters' dtype.
            t: process time (B,) or (), about (0, 1].
            label: integers (B,) in 0..classes, or None for the null label.

        Raises:
            ValueError: the shape of x or t is wrong, or a label came without classes.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (B, {self.dim}), got {tuple(x.shape)}")
        e = F.silu(self.embedding(t, label, len(x)))
        h = self.first(x.to(e.dtype))
        for norm, film, layer in zip(self.norms, self.films, self.layers, strict=True):
            scale, shift = film(e).chunk(2, 1)
            h = h + layer(F.silu(torch.addcmul(shift, norm(h), 1 + scale)))
        return self.last(F.silu(h)).to(x.dtype)
