"""How long a window of the path-integral filter must be, found on a piece of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from redrift._core.rng import Generators
from redrift.filters.particle import particle_filter
from redrift.pathintegral import PathIntegral
from redrift.statespace.model import StateSpace


@dataclass(frozen=True)
class WindowChoice:
    """Hold the window that was chosen, and the look-ahead's mean ESS at each length tried.

    Attributes:
        window: in model time.
        tried: (window, mean look-ahead ESS / N).
        enough: whether the aim was reached.
    """

    window: float
    tried: tuple[tuple[float, float], ...]
    enough: bool


def choose_window(
    model: StateSpace,
    y: Tensor,
    *,
    times: Tensor | Sequence[float],
    first: float,
    proposal: PathIntegral | None = None,
    particles: int = 64,
    aim: float = 0.9,
    longest: float | None = None,
    generator: Generators = None,
) -> WindowChoice:
    """Double the window until the look-ahead keeps a share `aim` of the particles.

    The start of a window is steered by resampling; where the window is longer than the filter's
    memory, that costs nothing. Windows too short to see the state are passed over.

    Args:
        model: the state space.
        y: (K, p) or (B, K, p): a piece of the data is enough.
        times: (K,).
        first: shortest window tried.
        proposal: its other options; its window is ignored.
        particles: N.
        aim: of the mean look-ahead ESS / N.
        longest: where to stop; the data's length if None.
        generator: one, one per data set, or None.

    Returns:
        The choice and what was tried.
    """
    limit = float(times[-1]) - model.start if longest is None else longest
    base, window, tried = proposal or PathIntegral(first), first, []
    while True:
        option = replace(base, window=window)
        try:
            post = particle_filter(
                model, y, times=times, particles=particles, proposal=option, generator=generator
            )  # fmt: skip
            moving = post.times > model.start + window + 1e-9
            share = post.look_ahead_ess[..., moving]
            value = float(share.mean()) if share.numel() else 1.0
        except ValueError as error:
            if "window=" not in str(error):
                raise
            value = 0.0
        tried.append((window, value))
        if value >= aim or window >= limit:
            return WindowChoice(window, tuple(tried), value >= aim)
        window = min(2 * window, limit)
