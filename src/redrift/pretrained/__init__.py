"""The small models that ship with the library, each with a card that says how it was trained."""

from __future__ import annotations

from pathlib import Path

import torch

from redrift._core.errors import choose
from redrift.denoise import Denoiser, load

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the shipped models."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def pretrained(name: str, *, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Load a shipped model.

    Args:
        name: see `redrift models`.
        dtype: the network computes in.

    Raises:
        ValueError: if there is no such model; it lists the near ones.

    Example:
        >>> pretrained("digits").card["shape"]
        [1, 8, 8]
    """
    return load(_FOLDER / f"{choose('model', name, names())}.safetensors", dtype=dtype)
