"""Files that are written whole or not at all, and safetensors files of one format."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


def write_atomically(path: str | os.PathLike[str], write: Callable[[str], object]) -> None:
    """Call `write` with a temporary file beside `path`, then rename it to `path`.

    Raises:
        OSError: if the folder does not exist or cannot be written; nothing is left behind.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist; create it first.")
    # the ending is kept: some writers choose the format by it
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=target.suffix)
    os.close(handle)
    try:
        write(name)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def read_safetensors(
    path: str | os.PathLike[str], form: str, kind: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and tensors of a safetensors file of one format.

    Args:
        path: of the file.
        form: its format, as its metadata name it.
        kind: what it holds, such as "model", for the errors.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is truncated or of another format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {kind} file {path}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read, it may be truncated: {error}.") from error
    if metadata.get("format") != form:
        raise ValueError(
            f"{path} is not a {kind} saved by redrift: its format is {metadata.get('format')!r}, expected "
            f"{form!r}."
        )
    return metadata, tensors
