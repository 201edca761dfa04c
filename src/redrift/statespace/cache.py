"""Results that are computed once and kept: matrices of a step, roots of covariances, whole windows."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class Cache(dict[Hashable, Any]):
    """Keep results by key; it is emptied when it holds `most` of them.

    A result that carries a gradient is never kept: its graph belongs to one call.
    """

    def __init__(self, most: int = 4096) -> None:
        super().__init__()
        self.most = most

    def keep(self, key: Hashable, make: Callable[..., T], *args: Any) -> T:  # noqa: ANN401
        """Return the result kept under a key, or else make(*args), a tensor, tuple or object."""
        found = self.get(key)
        if found is not None:
            return found
        made = make(*args)
        parts: tuple[Any, ...] = made if isinstance(made, tuple) else (made,)
        if not any(isinstance(part, Tensor) and part.requires_grad for part in parts):
            if len(self) >= self.most:
                self.clear()
            self[key] = made
        return made
