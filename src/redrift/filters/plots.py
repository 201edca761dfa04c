"""Pictures of a posterior, and draws of it for other tools."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from redrift._core.files import write_atomically
from redrift._core.optional import need
from redrift.filters.posterior import Posterior
from redrift.measure import resample
from redrift.statespace.cloud import select


def plot_posterior(
    post: Posterior, path: str | None = None, *, coordinate: int | None = None
) -> Any:  # noqa: ANN401
    """Draw means, 90 % bands and measurements of the first data set, and effective sample sizes.

    Args:
        post: from `particle_filter`.
        path: file to write; the figure is returned if None.
        coordinate: one coordinate; all (six at most) if None.

    Raises:
        ValueError: if the space is curved.
        ImportError: without matplotlib.
    """
    if not post.model.space.flat:
        raise ValueError(
            "a curved space has no coordinates that hold everywhere: plot functions of "
            "post.particles, weighted by post.log_weights.exp()."
        )
    figure_type = need("matplotlib.figure", "plots").Figure
    first = (slice(None),) if post.data.single else (0,)
    d = post.mean.shape[-1]
    chosen = list(range(min(d, 6))) if coordinate is None else [coordinate]
    times = post.times.tolist()
    mean, low, high = (
        v[first].tolist() for v in (post.mean, post.quantile(0.05), post.quantile(0.95))
    )
    figure = figure_type(figsize=(8, 1.9 * (len(chosen) + 1)))
    axes = figure.subplots(len(chosen) + 1, 1, sharex=True, squeeze=False)[:, 0]
    clock, y = post.data.times, post.data.y
    sizes = [s.size or 1 for s in post.model.parts]
    for axis, i in zip(axes, chosen, strict=False):
        axis.fill_between(times, [r[i] for r in low], [r[i] for r in high], alpha=0.3, lw=0)
        axis.plot(times, [r[i] for r in mean], lw=1.2)
        for k, s in enumerate(post.model.parts):
            if isinstance(s.h, Tensor) and s.kind == "discrete":
                for row in range(s.h.shape[0]):
                    if bool((s.h[row] != 0).sum() == 1) and float(s.h[row, i]) == 1.0:
                        axis.plot(clock, y[0, :, sum(sizes[:k]) + row].tolist(), "k.", ms=2)
        axis.set_ylabel(f"x{i}")
    axes[-1].plot(times, post.ess[first].tolist(), label="ESS / N")
    axes[-1].plot(times, post.look_ahead_ess[first].tolist(), lw=0.8, label="look-ahead")
    axes[-1].set(ylim=(0, 1.05), xlabel="time")
    axes[-1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    if path is None:
        return figure
    write_atomically(path, lambda target: figure.savefig(target, dpi=110))
    return None


def to_arviz(post: Posterior) -> Any:  # noqa: ANN401
    """Return equally weighted draws as an arviz object, x (1 chain, N draws, T, *point).

    Raises:
        ValueError: if there are several data sets.
        ImportError: without arviz (extra "arviz").
    """
    arviz: Any = need("arviz", "arviz")
    if not post.data.single:
        raise ValueError("to_arviz takes one data set: filter y of shape (K, p).")
    x, log_w = post.particles, post.log_weights
    at = resample(log_w, x.shape[1], generator=torch.Generator().manual_seed(0))
    drawn = select(x, at).transpose(0, 1)
    return arviz.from_dict(posterior={"x": drawn.unsqueeze(0).numpy()})
