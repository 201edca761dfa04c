"""The left-to-right baseline: windows sampled one after the other, each given what is there.

It is the autoregressive way that a collage, whose pieces are asked at once, is to be compared with.

Paper: DiffCollage, arXiv:2303.17076, section on conditional generation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from redrift._core.rng import Generators
from redrift.collage.graph import Graph
from redrift.denoise import Denoiser, Inpaint
from redrift.sampling import sample
from redrift.solvers import Plan


def outpaint(
    graph: Graph,
    piece: Denoiser,
    plan: Plan,
    *,
    batch: int = 1,
    fill: Literal["replacement", "reconstruction"] = "replacement",
    low: float = 1.0,
    cond: Mapping[str, Any] | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
    dtype: torch.dtype | None = None,
    generator: Generators = None,
) -> Tensor:
    """Sample the windows of a graph in order, each given what the earlier ones made of it.

    Args:
        graph: only its windows are used.
        piece: denoiser of a piece.
        plan: the solver.
        batch: number of samples B.
        fill: rule by which a window honours what is there.
        low: of the reconstruction; see `Inpaint`.
        cond: conditions of every window, as for `sample`; (B, ...) is by sample.
        callback: called after each window with its number and the canvas.
        dtype: of the state; None is float32.
        generator: one, one per sample, or None.

    Returns:
        (B, *graph.shape).

    Raises:
        ValueError: as `sample` and `Inpaint`.

    Cost: graph.pieces * plan.evaluations network calls, one after the other.
    """
    sites = torch.zeros(0)
    done = torch.zeros(0, dtype=torch.bool)
    for i, window in enumerate(graph.windows):
        shape: Sequence[int] = (batch, graph.channels, *window.shape)
        options: dict[str, Any] = {"shape": shape, "dtype": dtype, "generator": generator}
        given = dict(cond or {})
        if i and bool(done[window.index].any()):
            here = window.index.to(sites.device)
            given["known"] = sites[:, :, here].reshape(shape)
            given["mask"] = done[window.index].reshape(1, 1, *window.shape).expand(shape)
            model: Denoiser = Inpaint(piece, fill=fill, low=low)
        else:
            model = piece
        x = sample(model, plan, cond=given, **options)
        if not i:
            done = torch.zeros(graph.weights().shape, dtype=torch.bool)
            sites = x.new_zeros(batch, graph.channels, len(done))
        fresh = ~done[window.index]
        put = window.index[fresh].to(sites.device)
        sites[:, :, put] = x.flatten(2)[:, :, fresh.to(x.device)]
        done[window.index] = True
        if callback is not None:
            callback(i, sites.reshape(batch, *graph.shape))
    return sites.reshape(batch, *graph.shape)
