"""Pictures from samples: a grid of tiles, with labels where they help."""

from __future__ import annotations

import math
import os

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from redrift._core.files import write_atomically

_GAP = 2
_PAPER = 250


def to_image(x: Tensor, low: float = -1.0, high: float = 1.0) -> Image.Image:
    """Turn one sample (C, H, W), C = 1 or 3, into a picture; values beyond the range saturate.

    Raises:
        ValueError: for another number of channels.
    """
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise ValueError(f"a picture needs (1 or 3, H, W), got {tuple(x.shape)}.")
    scaled = ((x.float().cpu() - low) / (high - low) * 255).round().clamp(0, 255)
    array = scaled.to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if x.shape[0] == 1 else array)


def grid(x: Tensor, *, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Lay samples (B, C, H, W) out as tiles.

    Args:
        x: samples in [-1, 1].
        columns: tiles per row; None makes the grid about square.
        scale: whole factor each tile is enlarged by; None makes tiles at least 64 pixels.
    """
    if x.ndim != 4:
        raise ValueError(f"a grid needs (B, C, H, W), got {tuple(x.shape)}.")
    columns = columns or math.ceil(math.sqrt(len(x)))
    scale = scale or max(1, 64 // max(x.shape[2:]))
    high, wide = x.shape[2] * scale + _GAP, x.shape[3] * scale + _GAP
    rows = math.ceil(len(x) / columns)
    mode = "L" if x.shape[1] == 1 else "RGB"
    fill = _PAPER if mode == "L" else (_PAPER,) * 3
    sheet = Image.new(mode, (columns * wide + _GAP, rows * high + _GAP), fill)
    for i, sample in enumerate(x):
        tile = to_image(sample)
        tile = tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)
        sheet.paste(tile, (_GAP + i % columns * wide, _GAP + i // columns * high))
    return sheet


def stack(strips: list[tuple[str, Image.Image]], *, margin: int = 210) -> Image.Image:
    """Stack pictures with a label to the left of each."""
    width = margin + max(image.width for _, image in strips)
    sheet = Image.new("RGB", (width, sum(image.height + 6 for _, image in strips) + 6), "white")
    draw, font, y = ImageDraw.Draw(sheet), ImageFont.load_default(size=15), 6
    for label, image in strips:
        lines = label.count("\n") + 1
        draw.multiline_text((8, y + image.height // 2 - 9 * lines), label, fill="black", font=font)
        sheet.paste(image.convert("RGB"), (margin, y))
        y += image.height + 6
    return sheet


def save_picture(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture, whole or not at all; the ending chooses the format.

    Raises:
        ValueError: if the ending is not a picture's.
    """
    ending = os.path.splitext(str(path))[1].lower()
    if ending not in Image.registered_extensions():
        raise ValueError(f"{path} does not end in a picture format; use .png.")
    write_atomically(path, lambda target: image.save(target))
