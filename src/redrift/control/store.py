"""Reading of safetensors files of one format: samplers and checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


def read(path: str | os.PathLike[str], form: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read metadata and tensors of a safetensors file of one format.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is truncated or of another format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read, it may be truncated: {error}.") from error
    if metadata.get("format") != form:
        raise ValueError(f"{path} has format {metadata.get('format')!r}, expected {form!r}.")
    return metadata, tensors


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
