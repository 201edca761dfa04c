"""Import of optional parts, with the exact command that installs a missing one."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, which the extra `extra` installs.

    Raises:
        ImportError: naming the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f'{name} is not installed. Install it with: pip install "redrift[{extra}]"'
        ) from error
