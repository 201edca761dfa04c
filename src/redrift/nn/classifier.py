"""A small classifier whose last hidden layer serves as the feature map of a Frechet distance."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .unet import norm


class Classifier(nn.Module):
    """Classify small pictures; the 64 numbers before the last layer are its features.

    Stages of two convolutions, each after a norm and a SiLU. From one stage to the next the size
    halves, until it is at most 4, and the channels grow by `width`. A mean over the pixels that
    are left feeds the features.

    Args:
        channels: channels of the input.
        size: its height and width.
        classes: number of labels.
        width: channels of the first stage.

    Cost: about ``18 * width**2 * size**2`` multiplications a sample and stage, at most.

    Example:
        >>> import torch
        >>> net = Classifier(1, 8, 10, width=16)
        >>> net.features(torch.randn(5, 1, 8, 8)).shape
        torch.Size([5, 64])
    """

    def __init__(self, channels: int, size: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self._config: dict[str, Any] = dict(
            channels=channels, size=size, classes=classes, width=width
        )
        self.shape = (channels, size, size)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        now, into = size, width
        while True:
            out = width * (len(self.convs) // 2 + 1)
            self.norms.extend((norm(into), norm(out)))
            self.convs.append(nn.Conv2d(into, out, 3, padding=1))
            self.convs.append(nn.Conv2d(out, out, 3, padding=1))
            into = out
            if now <= 4:
                break
            now = (now + 1) // 2
        self.norm, self.hidden = norm(into), nn.Linear(into, 64)
        self.last = nn.Linear(64, classes)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this net: ``Classifier(**net.config)``."""
        return dict(self._config)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (B, 64) of pictures x (B, channels, size, size) in [-1, 1].

        Raises:
            ValueError: the shape of x is wrong.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x must have shape (B, {self.shape}), got {tuple(x.shape)}")
        h = self.stem(x.to(self.stem.weight.dtype))
        for i, (before, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            if i and i % 2 == 0:
                h = F.avg_pool2d(h, 2, ceil_mode=True)
            change = conv(F.silu(before(h)))
            h = h + change if change.shape == h.shape else change
        pooled = F.silu(self.norm(h)).mean((2, 3))
        return F.silu(self.hidden(pooled)).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of pictures x (B, channels, size, size)."""
        return self.last(self.features(x).to(self.last.weight.dtype)).to(x.dtype)
