"""Random numbers that do not depend on how a batch is split.

`generator` is a `torch.Generator`, a list with one per sample, or None (the global generator).
With a list, sample b's rows are drawn from generator b alone, so a sample is the same whatever
its neighbours, the batch split or the number of devices. Numbers are drawn on the generator's
own device and moved, so a CPU generator gives one stream on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def normal(
    shape: Sequence[int],
    generator: Generators = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw standard normal numbers.

    Args:
        shape: (rows, ...); with a list of n generators rows is a multiple of n, and each draws
            its own block of rows / n consecutive rows.
        generator: one generator, one per sample, or None.
        dtype: of the result.
        device: of the result.

    Raises:
        ValueError: if the rows cannot be shared out evenly among the generators.
    """
    shape = tuple(shape)
    if generator is None or isinstance(generator, torch.Generator):
        source = torch.device(device) if generator is None else generator.device
        return torch.randn(shape, generator=generator, dtype=dtype, device=source).to(device)
    count = len(generator)
    if count == 0 or shape[0] % count:
        raise ValueError(
            f"generator is a list of {count}, but there are {shape[0]} rows: give one generator, "
            "or exactly one per sample."
        )
    block = (shape[0] // count, *shape[1:])
    draws = [torch.randn(block, generator=g, dtype=dtype, device=g.device) for g in generator]
    return torch.cat([draw.to(device) for draw in draws])


def uniform(
    shape: Sequence[int],
    generator: Generators = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw numbers uniform on (0, 1), from as many normal ones; arguments as for `normal`."""
    return torch.special.ndtr(normal(shape, generator, dtype=dtype, device=device))


def split(generator: Generators, start: int, stop: int) -> Generators:
    """Return the generators of samples start to stop - 1; a single one serves every sample."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    return list(generator)[start:stop]


def fresh() -> torch.Generator:
    """Return a generator seeded from the global one, whose state can be stored."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))
