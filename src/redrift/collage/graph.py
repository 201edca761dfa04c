r"""A canvas, the regions that cover it, and their counting numbers.

A graph is data: it says which sites each network call sees and how much the answer counts. Layouts
make graphs, `Graph.denoiser` makes a `Denoiser` of one, and every plan, policy and rank group of the
library works on that.

How exact a collage is: with S an overlap that separates A from C in clean data, the model errs at
noise level $\sigma$ by what S, seen through noise, leaves open about its clean self,

$$KL(p_\sigma \| p_B) = I(A_\sigma; C_\sigma \mid S_\sigma),$$

summed over the overlaps of a tree. It vanishes as $\sigma \to 0$ and, relative to the score, for large
$\sigma$; between, it falls geometrically with the width of the overlap.

Paper: DiffCollage, arXiv:2303.17076.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redrift.collage.counting import Region, count, junction_tree
from redrift.collage.denoiser import Collage
from redrift.collage.groups import OverlapCond
from redrift.denoise import Denoiser, Edited, Inpaint
from redrift.denoise import clip as clip_at
from redrift.process import Process

_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Graph:
    """Regions of a canvas whose weights sum to one at every site.

    Make one with a layout: `chain`, `ring`, `grid`, `torus`, `tree`, `cubemap` or `windows`.

    Attributes:
        channels: channels of the data, which every region holds whole.
        canvas: shape of the sites.
        windows: the pieces, at weight one each.
        regions: pieces and overlaps with their weights.
        counting: scheme of the weights.
        name: of the layout.
        closed: which axes of the canvas go around; () is none.

    Raises:
        ValueError: if a site is not covered, an index is beyond the canvas, or the weights do not
            sum to one at every site.
    """

    channels: int
    canvas: tuple[int, ...]
    windows: tuple[Region, ...]
    regions: tuple[Region, ...]
    counting: str
    name: str = "windows"
    closed: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        check_cover(self.windows, self.canvas)
        total = self.weights()
        wrong = torch.nonzero((total - 1).abs() > _TOLERANCE).flatten()
        if len(wrong):
            site = int(wrong[0])
            raise ValueError(
                f"the weights sum to {float(total[site]):g} at site {self._place(site)} and to "
                f"something else than 1 at {len(wrong)} of {len(total)} sites, expected 1 at every "
                f"site; use one of the schemes of `counting` or mend the regions."
            )

    @classmethod
    def build(
        cls,
        channels: int,
        canvas: Sequence[int],
        windows: Sequence[Region],
        *,
        counting: str = "kikuchi",
        name: str = "windows",
        closed: tuple[bool, ...] = (),
    ) -> Graph:
        """Count the windows and build the graph; the arguments are the attributes."""
        canvas = tuple(canvas)
        check_cover(windows, canvas)
        regions = count(windows, math.prod(canvas), counting)
        return cls(channels, canvas, tuple(windows), regions, counting, name, closed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the data's shape: channels, then the canvas."""
        return (self.channels, *self.canvas)

    @property
    def pieces(self) -> int:
        """Return the number of pieces."""
        return len(self.windows)

    @property
    def overlaps(self) -> tuple[Region, ...]:
        """Return the regions that are not pieces."""
        return tuple(region for region in self.regions if region.window is None)

    def weights(self) -> Tensor:
        """Return the sum of the weights at each site, (sites,), float64: one everywhere."""
        total = torch.zeros(math.prod(self.canvas), dtype=torch.float64)
        for region in self.regions:
            weight = torch.as_tensor(region.weight, dtype=torch.float64).expand(len(region.index))
            total.index_add_(0, region.index, weight)
        return total

    @functools.cached_property
    def is_tree(self) -> bool:
        """Return whether the pieces are the cliques of a junction tree."""
        return junction_tree(self.windows, math.prod(self.canvas))

    @functools.cached_property
    def is_exact_at_zero(self) -> bool:
        """Return whether the score is exact as the noise vanishes, if overlaps separate their sides."""
        if not self.is_tree or self.counting not in ("kikuchi", "bethe"):
            return self.pieces == 1
        if self.counting == "kikuchi":
            return True
        exact = count(self.windows, math.prod(self.canvas), "kikuchi")
        return _signature(exact) == _signature(self.regions)

    @property
    def work(self) -> float:
        """Return the sites asked per step over the sites of the canvas."""
        return sum(len(region.index) for region in self.regions) / math.prod(self.canvas)

    def recount(self, counting: str) -> Graph:
        """Return the same pieces under another scheme."""
        return Graph.build(
            self.channels, self.canvas, self.windows, counting=counting, name=self.name,
            closed=self.closed,
        )  # fmt: skip

    def denoiser(
        self,
        piece: Denoiser,
        overlap: Denoiser | None = None,
        *,
        process: Process | None = None,
        cond: Mapping[str, Tensor] | None = None,
        overlap_cond: OverlapCond = "mean",
        null: Mapping[str, Any] | None = None,
        max_batch: int | None = None,
        clip: float | None = None,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        fill: str = "replacement",
    ) -> Denoiser:
        """Make one denoiser of the canvas from denoisers of its pieces.

        Args:
            piece: denoiser of the pieces.
            overlap: denoiser of the overlaps; None is the piece itself, which must then have been
                trained at their sizes.
            process: law of the canvas; may be left out where the piece's does not depend on a size.
            cond: conditions by name, one row per piece, or one per region (`graph.regions`).
            overlap_cond: what an overlap is told when `cond` has a row per piece. "mean": the mean
                of the predictions under its pieces' conditions, so that guidance is not doubled on
                a seam; "first" or "last" piece's; "null".
            null: conditions by name that stand for none, for overlap_cond="null".
            max_batch: most regions in one network call; None is all. It is halved, for good, when
                memory runs out.
            clip: bound on the predicted clean data, applied after the sum (a piece may leave it).
            known: given data, (*shape); see `Inpaint`, also for data that differ by sample.
            mask: true where data are given, broadcasting to the data.
            fill: "replacement" or "reconstruction".

        Returns:
            a denoiser of `graph.shape`; conditions given to `sample` go to every region.

        Raises:
            ValueError: if the overlap's or canvas's process does not fit the piece's, a table of
                conditions has another length, or a process that depends on a size needs `process`.

        Cost: one network call per shape of region and step (per `max_batch` of them), on
        `graph.work` canvases of sites; beyond the canvas, memory for `max_batch` regions.

        Example:
            >>> from redrift.denoise import Gaussian
            >>> from redrift.process import VP
            >>> from redrift.collage import chain
            >>> model = chain((1, 8), 3, 4).denoiser(Gaussian(torch.zeros(1, 8), 1.0, VP()),
            ...                                      Gaussian(torch.zeros(1, 4), 1.0, VP()))
            >>> model.eps(torch.ones(1, 1, 16), 0.5).shape
            torch.Size([1, 1, 16])
        """
        model: Denoiser = Collage(
            self, piece, overlap, process=process, cond=cond, overlap_cond=overlap_cond,
            null=null, max_batch=max_batch,
        )  # fmt: skip
        if clip is not None:
            model = Edited(model, clip_at(clip))
        if known is not None or mask is not None:
            model = Inpaint(model, known, mask, fill=fill)
        return model

    def _place(self, site: int) -> tuple[int, ...]:
        return place(site, self.canvas)

    def __str__(self) -> str:
        kinds = Counter(
            (r.window is None, r.shape, r.weight if isinstance(r.weight, float) else None)
            for r in self.regions
        )
        parts = [
            f"{n} {'overlap' if overlap else 'piece'}{'s' * (n > 1)} {_times(shape)}"
            f" ({'by site' if weight is None else f'{weight:+g}'})"
            for (overlap, shape, weight), n in kinds.items()
        ]
        if self.is_exact_at_zero:
            law = "tree: exact as the noise vanishes, where each overlap separates its sides"
        elif self.counting in ("kikuchi", "bethe"):
            law = f"{'tree' if self.is_tree else 'loops'}: an approximation at every noise level"
        else:
            law = "not the score of a density"
        return (
            f"{self.name} | canvas {_times(self.shape)} | {self.counting} | {law}\n"
            f"  {', '.join(parts)} | {self.work:.2f} canvases of sites per step"
        )


def check_cover(windows: Sequence[Region], canvas: tuple[int, ...]) -> None:
    """Refuse windows that leave the canvas, repeat a site, or do not cover it.

    Raises:
        ValueError: naming the window or the first site.
    """
    sites = math.prod(canvas)
    if not windows:
        raise ValueError("a collage needs at least one window, got none.")
    covered = torch.zeros(sites, dtype=torch.bool)
    for i, window in enumerate(windows):
        low, high = int(window.index.min()), int(window.index.max())
        if low < 0 or high >= sites:
            raise ValueError(
                f"window {i} holds site {low if low < 0 else high}, beyond the canvas of {sites} "
                f"sites, {_times(canvas)}; enlarge the canvas or move the window."
            )
        if len(torch.unique(window.index)) < len(window.index):
            raise ValueError(f"window {i} holds a site twice; a window may not meet itself.")
        covered[window.index] = True
    bare = torch.nonzero(~covered).flatten()
    if len(bare):
        raise ValueError(
            f"{len(bare)} of {sites} sites, the first at {place(int(bare[0]), canvas)}, are covered by "
            "no window; add windows there, or shrink the canvas."
        )


def place(site: int, canvas: tuple[int, ...]) -> tuple[int, ...]:
    """Return a flat site's coordinates."""
    where: list[int] = []
    for n in reversed(canvas):
        site, i = divmod(site, n)
        where.insert(0, i)
    return tuple(where)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _signature(regions: Sequence[Region]) -> Counter[tuple[float, tuple[int, ...]]]:
    """Return the overlaps' weights and sites, for comparison."""
    return Counter(
        (float(r.weight), tuple(sorted(r.index.tolist()))) for r in regions if r.window is None
    )
