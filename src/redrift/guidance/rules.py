"""Rules for pictures: losses of samples (rows, C, H, W) in [-1, 1], most of them without a gradient."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from redrift._core.errors import whole
from redrift.guidance.loss import _Combined, as_loss


def symmetry(threshold: float | None = None) -> _Combined:
    """Return the share of pixels whose brightness, thresholded, differs from its mirror image's.

    Args:
        threshold: between dark and bright; None is the picture's own mean, of which no picture is on
            one side. With a number a picture that is dark all over keeps the rule.
    """

    def mirrored(x: Tensor) -> Tensor:
        bright = _bright(x, threshold)
        return (bright != bright.flip(-1)).double().flatten(1).mean(1)

    return as_loss(mirrored)


def components(target: int = 1, threshold: float | None = None) -> _Combined:
    """Return how far the number of bright connected regions (4 neighbours) is from `target`.

    Args:
        target: number of regions wanted.
        threshold: as for `symmetry`.
    """
    whole("target", target, least=0)

    def counted(x: Tensor) -> Tensor:
        bright = _bright(x, threshold).cpu().numpy()
        return torch.tensor([abs(regions(b) - target) for b in bright], dtype=torch.float64)

    return as_loss(counted)


def _bright(x: Tensor, threshold: float | None) -> Tensor:
    brightness = x.mean(1)
    return brightness > (brightness.mean((1, 2), keepdim=True) if threshold is None else threshold)


def regions(bright: np.ndarray) -> int:
    """Return the number of 4-connected regions of a bool picture (H, W)."""
    left, count = bright.copy(), 0
    while left.any():
        count += 1
        i, j = np.argwhere(left)[0]
        stack = [(int(i), int(j))]
        left[i, j] = False
        while stack:
            i, j = stack.pop()
            for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if 0 <= a < left.shape[0] and 0 <= b < left.shape[1] and left[a, b]:
                    left[a, b] = False
                    stack.append((a, b))
    return count


def jpeg_size(target: int | None = None, quality: int = 75) -> _Combined:
    """Return the kilobytes of the picture as a JPEG file, or how far they are from `target` bytes.

    Args:
        target: bytes, or None to make files small.
        quality: of the file, 1 to 95.
    """
    whole("quality", quality, most=95)

    def sizes(x: Tensor) -> Tensor:
        found = torch.tensor([_bytes(picture, quality) for picture in x], dtype=torch.float64)
        return (found if target is None else (found - target).abs()) / 1000

    return as_loss(sizes)


def _bytes(x: Tensor, quality: int) -> int:
    pixels = ((x.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(
        file, "JPEG", quality=quality
    )
    return file.tell()


def brightness(target: float, levels: int = 16) -> _Combined:
    """Return how many of `levels` steps the mean brightness, rounded to them, is from `target` in [-1, 1]."""
    whole("levels", levels, least=2)
    wanted = round((target + 1) / 2 * (levels - 1))

    def steps(x: Tensor) -> Tensor:
        mean = (x.double().flatten(1).mean(1) + 1) / 2 * (levels - 1)
        return (mean.round() - wanted).abs()

    return as_loss(steps)


def decision(classifier: Any, label: Any) -> _Combined:  # noqa: ANN401
    """Return 1 where a classifier decides against `label`, else 0.

    Args:
        classifier: anything with `predict` on flat float64 arrays (rows, features), such as a
            scikit-learn classifier fitted to pictures in [-1, 1].
        label: wanted decision.
    """

    def wrong(x: Tensor) -> Tensor:
        found = classifier.predict(x.double().flatten(1).cpu().numpy())
        return torch.as_tensor(np.asarray(found) != label, dtype=torch.float64)

    return as_loss(wrong)


def inpainting(known: Tensor, mask: Tensor) -> _Combined:
    """Return the mean squared distance to known pixels.

    Args:
        known: broadcasts to the samples.
        mask: bool, True where they are known.

    Raises:
        ValueError: if the mask is empty.
    """
    if not bool(mask.any()):
        raise ValueError("mask is nowhere True: no pixel is known.")
    share = float(mask.double().mean())

    def distance(x: Tensor) -> Tensor:
        gap = torch.where(mask, x - known, torch.zeros_like(x))
        return gap.square().flatten(1).mean(1) / share

    return as_loss(distance)


def downsampled(target: Tensor, factor: int) -> _Combined:
    """Return the mean squared distance of the samples, averaged over factor x factor blocks, to `target`.

    Args:
        target: (C, H / factor, W / factor), or with leading rows.
        factor: of the down-sampling.
    """
    whole("factor", factor)

    def distance(x: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(x, factor)
        return (small - target).square().flatten(1).mean(1)

    return as_loss(distance)
