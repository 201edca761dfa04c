"""A user's function by its name, as the commands take them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def find_function(name: str) -> Callable[..., Any]:
    """Import MODULE:FUNCTION, also from the present folder.

    Raises:
        ValueError: if the module cannot be imported or lacks the function.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"cannot import {module!r} ({error}): give MODULE:FUNCTION, run where MODULE.py lies."
        ) from error
    if not hasattr(found, attribute):
        raise ValueError(f"module {module!r} has no {attribute!r}.")
    return getattr(found, attribute)
