"""Timesteps that know where a run would enter: strength is a noise level, whatever the grid."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


class Timesteps(Tensor):
    """The times of a run's evaluations; before it begins, [i] and [i:] are those of a later beginning.

    Image-to-image pipelines cut a run of n steps at a strength, `timesteps[i:]`, and trust that step i is at
    the noise level it has in an even grid. A plan's grid is not even, so a run that begins at i gets a grid
    of its own: it enters at diffusers' level and spends all the evaluations that are left. Once a run has
    begun, these are its times and nothing else.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore
    host: Any

    @staticmethod
    def of(values: Tensor, host: Any) -> Timesteps:  # noqa: ANN401
        """Return times that ask the scheduler `host` for later beginnings."""
        found = values.as_subclass(Timesteps)
        found.host = host
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Timesteps:
        """Return a copy that asks the scheduler's copy."""
        values = self.as_subclass(Tensor).clone()
        return Timesteps.of(values, copy.deepcopy(self.host, memo))

    def __getitem__(self, index: Any) -> Tensor:  # noqa: ANN401
        """Return the times at an index, or of a run that begins there."""
        first = index.start if isinstance(index, slice) else index
        whole = not isinstance(index, slice) or (index.stop is None and index.step is None)
        if isinstance(first, int) and whole and 0 < first < len(self):
            entered = self.host.entered(first)
            if entered is not None:
                return entered if isinstance(index, slice) else entered[0]
        return self.as_subclass(Tensor)[index]
