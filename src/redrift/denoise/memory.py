"""Who owns a network's memory: outputs that it will write again, and inputs that it writes on.

Engines with static bindings fill one buffer at every call, and some networks work on their input in
place. A prediction that is kept must outlive the next call, so an output is copied where anybody else
holds it; an input is copied for the first call of a run, and for the others if that call wrote on it.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

_storage_uses: Any = getattr(torch._C, "_storage_Use_Count", None)


def owned(out: Tensor) -> Tensor:
    """Return a fresh tensor as it is, and a copy of one that somebody else holds, too.

    Exact for memory that Python or PyTorch knows to be held: a buffer, a view of one, the input.
    """
    return out if _holders(out) == _FRESH else out.clone()


def _holders(out: Tensor) -> tuple[int, int, int]:
    """Count who holds a tensor's object and its storage, the callers of `owned` included."""
    try:
        uses = _storage_uses(out.untyped_storage()._cdata) if _storage_uses else 0
        return sys.getrefcount(out), out._use_count(), uses  # pyright: ignore
    except (NotImplementedError, RuntimeError):  # tensors of functorch have no storage
        return _FRESH


def _fresh() -> tuple[int, int, int]:
    def count(out: Tensor) -> tuple[int, int, int]:  # as deep as `owned`
        return _holders(out)

    out = torch.ones(1)
    return count(out)


_FRESH: tuple[int, int, int] = (0, 0, 0)
_FRESH = _fresh()


def version(x: Tensor) -> int | Tensor:
    """Return what tells whether x was written on: its counter, a copy where there is none."""
    return x.clone() if x.is_inference() else x._version


def written(x: Tensor, before: int | Tensor) -> bool:
    """Say whether x was written on since `version` returned `before`."""
    if isinstance(before, Tensor):
        return not torch.equal(x, before)
    return x._version != before
