"""What a posterior says about itself: innovations, a plot, draws for arviz, a window's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redrift._core.files import write_atomically
from redrift._core.optional import need
from redrift._core.rng import Generators, normal
from redrift.filters.pathintegral import PathIntegral
from redrift.filters.statespace import StateSpace

if TYPE_CHECKING:
    from redrift.filters.posterior import Posterior


def innovations(post: Posterior, generator: Generators = None) -> tuple[Tensor, Tensor]:
    """Return y minus its prediction, and the prediction's standard deviation, (..., T - 1, p)."""
    model, (clock, y) = post.model, post.data
    rest, spread = [], []
    for law, then in zip(post.laws, post.laws[1:], strict=False):
        x, now = law.particles, law.time
        for until in model.grid(now, then.time):
            G = model.root(x, now, until - now)
            z = normal((*x.shape[:2], G.shape[-1]), generator, dtype=x.dtype, device=x.device)
            move = z @ G.mT if G.ndim < 4 else (G @ z.unsqueeze(-1)).squeeze(-1)
            x = model.space.retract(model.advance(x, now, until - now), move)
            now = until
        k = int((clock - then.time).abs().argmin())
        gap = float(clock[k] - (clock[k - 1] if k else model.start))
        t, values, noise = x.new_tensor(then.time), [], []
        for s in model.parts:
            unit = gap if s.kind == "increment" else 1.0
            values.append(s.predict(x, t) * unit)
            noise.append(s.R().to(x).diagonal(dim1=-2, dim2=-1) * unit)
        w, seen = law.log_weights.exp().unsqueeze(-1), torch.cat(values, -1)
        mean = (w * seen).sum(-2)
        inner = (w * (seen - mean.unsqueeze(-2)) ** 2).sum(-2)
        rest.append(y[:, k] - mean)
        spread.append((inner + torch.cat(noise, -1)).sqrt())
    both = torch.stack(rest, 1), torch.stack(spread, 1)
    return (both[0][0], both[1][0]) if post.single else both


def draw(post: Posterior, path: str | None, coordinate: int | None) -> Any:  # noqa: ANN401
    """Draw the first data set's means with 90 % bands, and the effective sample sizes."""
    figure_type = need("matplotlib.figure", "plots").Figure
    first = (slice(None),) if post.single else (0,)
    d = post.mean.shape[-1]
    chosen = list(range(min(d, 6))) if coordinate is None else [coordinate]
    times = post.times.tolist()
    mean, low, high = (
        v[first].tolist() for v in (post.mean, post.quantile(0.05), post.quantile(0.95))
    )
    figure = figure_type(figsize=(8, 1.9 * (len(chosen) + 1)))
    axes = figure.subplots(len(chosen) + 1, 1, sharex=True, squeeze=False)[:, 0]
    clock, y = post.data
    for axis, i in zip(axes, chosen, strict=False):
        axis.fill_between(times, [r[i] for r in low], [r[i] for r in high], alpha=0.3, lw=0)
        axis.plot(times, [r[i] for r in mean], lw=1.2)
        for s, at in zip(post.model.parts, _firsts(post.model), strict=True):
            if isinstance(s.h, Tensor) and s.kind == "discrete":
                for row in range(s.h.shape[0]):
                    if bool((s.h[row] != 0).sum() == 1) and float(s.h[row, i]) == 1.0:
                        axis.plot(clock.tolist(), y[0, :, at + row].tolist(), "k.", ms=2)
        axis.set_ylabel(f"x{i}")
    axes[-1].plot(times, post.ess[first].tolist(), label="ESS / N")
    axes[-1].plot(times, post.start_ess[first].tolist(), lw=0.8, label="look-ahead")
    axes[-1].set(ylim=(0, 1.05), xlabel="time")
    axes[-1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    if path is None:
        return figure
    write_atomically(path, lambda target: figure.savefig(target, dpi=110))
    return None


def _firsts(model: StateSpace) -> list[int]:
    sizes = [s.size or 1 for s in model.parts]
    return [sum(sizes[:i]) for i in range(len(sizes))]


def to_arviz(post: Posterior) -> Any:  # noqa: ANN401
    """Return an arviz object of equally weighted draws, x (1 chain, N draws, T, d)."""
    arviz: Any = need("arviz", "arviz")
    from redrift.measure import resample

    if not post.single:
        raise ValueError("to_arviz takes one data set: filter y of shape (K, p).")
    x, log_w = post.particles, post.log_weights
    at = resample(log_w, x.shape[1], generator=torch.Generator().manual_seed(0))
    drawn = x.gather(1, at.unsqueeze(-1).expand_as(x)).transpose(0, 1)
    return arviz.from_dict(posterior={"x": drawn.unsqueeze(0).numpy()})


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
        y: (K, p) or (B, K, p): a piece of the record is enough.
        times: (K,).
        first: shortest window tried.
        proposal: its other options; its window is ignored.
        particles: N.
        aim: of the mean look-ahead ESS / N.
        longest: where to stop; the record's length if None.
        generator: one, one per data set, or None.

    Returns:
        The choice and what was tried.
    """
    from redrift.filters.run import particle_filter

    limit = float(times[-1]) - model.start if longest is None else longest
    base, window, tried = proposal or PathIntegral(first), first, []
    while True:
        option = replace(base, window=window)
        try:
            post = particle_filter(
                model, y, times=times, particles=particles, proposal=option, generator=generator
            )  # fmt: skip
            moving = post.times > model.start + window + 1e-9
            share = post.start_ess[..., moving]
            value = float(share.mean()) if share.numel() else 1.0
        except ValueError as error:
            if "window=" not in str(error):
                raise
            value = 0.0
        tried.append((window, value))
        if value >= aim or window >= limit:
            return WindowChoice(window, tuple(tried), value >= aim)
        window = min(2 * window, limit)
