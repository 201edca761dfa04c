"""A compact U-Net for images of any size that its levels divide.

Level l works at H / 2**l with ``width * multipliers[l]`` channels. On the way down each level runs
``blocks`` residual blocks and remembers their outputs; on the way up as many blocks each read one
of those back. Time and label reach every block as a scale and a shift (FiLM). Levels change by a
strided convolution (down) and by a 1x1 convolution before repeating pixels (up), which keeps the
work at full resolution small.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mlp import Embedding


def _zero(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def norm(channels: int) -> nn.GroupNorm:
    """Return a group norm of up to eight groups, as many as divide the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Block(nn.Module):
    """Residual block: norm, SiLU, conv, norm, FiLM, SiLU, conv (zero at first), plus its input."""

    def __init__(self, into: int, out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(into), nn.Conv2d(into, out, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * out)
        self.norm2, self.conv2 = norm(out), _zero(nn.Conv2d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(into, out, 1) if into != out else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return (B, out, H, W) from x (B, into, H, W), told e (B, embedding)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(e)[:, :, None, None].chunk(2, 1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Self-attention over all pixels, heads of 32 channels or more, plus its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(n for n in range(1, max(1, channels // 32) + 1) if channels % n == 0)
        self.norm, self.qkv = norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) and what its pixels tell each other; (H W)**2 C products."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(2, 3).reshape(b, c, h, w))


class UNet(nn.Module):
    """Predict from images: residual blocks at falling, then rising resolution.

    A new net is the zero function: its last layer, and the last layer of every block, start at 0.

    Args:
        channels: channels of the input.
        width: channels at full resolution times multipliers[0].
        multipliers: channels of each level over width; their number is the number of levels.
        blocks: residual blocks of each level, each way.
        attention: levels with self-attention; the last level's also works at the bottom.
        classes: number of labels; the label ``classes`` is the null label. None: no labels.
        embedding: length of the embedding of time and label; None: 4 * width.
        out_channels: channels of the output; None: as the input.
        dropout: probability of dropping an activation in training.

    Cost: per sample and level about ``9 * (5 * blocks) * c**2 * H * W / 4**l`` multiplications;
    an attention adds (H W / 4**l)**2 c of them.

    Example:
        >>> net = UNet(1, width=16)
        >>> net(torch.randn(2, 1, 8, 12), torch.rand(2)).shape
        torch.Size([2, 1, 8, 12])
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (1,),
        classes: int | None = None,
        embedding: int | None = None,
        out_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        if levels == 0 or blocks < 1:
            raise ValueError(f"need a level and a block, got {multipliers=}, {blocks=}")
        if not set(attention) <= set(range(levels)):
            raise ValueError(f"attention names levels 0..{levels - 1}, got {tuple(attention)}")
        self._config: dict[str, Any] = dict(
            channels=channels,
            width=width,
            multipliers=list(multipliers),
            blocks=blocks,
            attention=list(attention),
            classes=classes,
            embedding=embedding,
            out_channels=out_channels,
            dropout=dropout,
        )
        self.channels, self.levels, self.blocks = channels, levels, blocks
        size = [width * m for m in multipliers]
        e = 4 * width if embedding is None else embedding
        last = levels - 1

        def mixer(level: int) -> nn.Module:
            return Attention(size[level]) if level in attention else nn.Identity()

        self.embedding = Embedding(e, classes)
        self.stem = nn.Conv2d(channels, size[0], 3, padding=1)
        self.down, self.down_mix = nn.ModuleList(), nn.ModuleList()
        self.up, self.up_mix = nn.ModuleList(), nn.ModuleList()
        for level, c in enumerate(size):
            for _ in range(blocks):
                self.down.append(Block(c, c, e, dropout))
                self.down_mix.append(mixer(level))
                self.up.append(Block(2 * c, c, e, dropout))
                self.up_mix.append(mixer(level))
        pairs = list(pairwise(size))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.middle = Block(size[last], size[last], e, dropout)
        self.middle_mix = mixer(last)
        self.norm = norm(size[0])
        out = channels if out_channels is None else out_channels
        self.last = _zero(nn.Conv2d(size[0], out, 3, padding=1))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this net, ready for JSON: ``UNet(**net.config)``."""
        c = self._config
        return {**c, "multipliers": list(c["multipliers"]), "attention": list(c["attention"])}

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prediction (B, out_channels, H, W) in the dtype of x.

        Args:
            x: images (B, channels, H, W), H and W divisible by 2**(levels - 1); the sums run in
                the parameters' dtype.
            t: process time (B,) or (), about (0, 1].
            label: integers (B,) in 0..classes, or None for the null label.

        Raises:
            ValueError: the shape of x or t is wrong, or a label came without classes.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x must have shape (B, {self.channels}, H, W), got {tuple(x.shape)}")
        factor = 2 ** (self.levels - 1)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"x is {x.shape[2]} x {x.shape[3]}, but {self.levels} levels need a height and a "
                f"width divisible by {factor}: pad or crop the images"
            )
        e = F.silu(self.embedding(t, label, len(x)))
        h, seen, n = self.stem(x.to(self.stem.weight.dtype)), [], self.blocks
        for level in range(self.levels):
            if level:
                h = self.shrink[level - 1](h)
            for i in range(level * n, level * n + n):
                h = self.down_mix[i](self.down[i](h, e))
                seen.append(h)
        h = self.middle_mix(self.middle(h, e))
        for level in reversed(range(self.levels)):
            for i in reversed(range(level * n, level * n + n)):
                h = self.up_mix[i](self.up[i](torch.cat([h, seen.pop()], 1), e))
            if level:
                h = F.interpolate(self.grow[level - 1](h), scale_factor=2.0, mode="nearest")
        return self.last(F.silu(self.norm(h))).to(x.dtype)
