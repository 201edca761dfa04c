r"""One denoiser of a canvas from denoisers of its regions.

$$out(u) = \sum_r c_r\, G_r^\top net_r(G_r u, t, cond_r)$$

with $G_r$ reading region r. Since the weights sum to one at each site, the sum commutes with every
affine reading of the prediction that acts site by site: aggregates of eps, x0, v and score are the
same. So the piece's own reading is summed and converted once, by the canvas's process. Where a
process acts on frequencies (`Blur`) readings differ, and eps is summed; the collage is then
approximate in one more way, since a blurred window is not the window of a blurred canvas.

Anything that is not affine (clipping, guidance by a norm) belongs after the sum.

Paper: DiffCollage, arXiv:2303.17076.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from redrift._core.errors import choose, whole
from redrift.collage.groups import OVERLAP_CONDS, Cover, OverlapCond, grouped
from redrift.denoise import Denoiser
from redrift.process import Level, Process


class Collage(Denoiser):
    """A denoiser of a graph's canvas; made by `Graph.denoiser`, which documents the arguments."""

    def __init__(
        self,
        graph: Cover,
        piece: Denoiser,
        overlap: Denoiser | None = None,
        *,
        process: Process | None = None,
        cond: Mapping[str, Tensor] | None = None,
        overlap_cond: OverlapCond = "mean",
        null: Mapping[str, Any] | None = None,
        max_batch: int | None = None,
    ) -> None:
        overlap = piece if overlap is None else overlap
        choose("overlap_cond", overlap_cond, OVERLAP_CONDS)
        self.graph = graph
        self.net, self.time, self.dtype = _no_network, None, None
        self.process = _canvas_process(graph, piece, overlap, process)
        # site by site, or one window that is the canvas: readings agree
        local = not piece.process.modes or piece.process == self.process
        self.predicts = piece.predicts if local and piece.predicts == overlap.predicts else "eps"
        self.device, self.card = piece.device, piece.card
        self.groups = tuple(
            grouped(graph, piece, overlap, dict(cond or {}), overlap_cond, dict(null or {}))
        )
        self._names = set(cond or {})
        self._limit = [math.inf if max_batch is None else whole("max_batch", max_batch)]
        self._cond: dict[str, Any] = {}
        self._runs: dict[tuple[int, int, int], Denoiser] = {}
        self._stack: ExitStack | None = None

    @property
    def max_batch(self) -> float:
        """Return the most regions of one network call; it falls when memory runs out."""
        return self._limit[0]

    def to(self, device: torch.device | str) -> Self:
        """Move the pieces' networks and the graph's tables, and return self."""
        for group in self.groups:
            group.model.to(device)
            group.index, group.weight = group.index.to(device), group.weight.to(device)
            group.cond = {name: table.to(device) for name, table in group.cond.items()}
        self.device = torch.device(device)
        return self

    @contextmanager
    def begin(self, **cond: Any) -> Generator[Self, None, None]:  # noqa: ANN401
        """Give a run with conditions for the canvas bound; each sample's go to all its regions.

        Raises:
            ValueError: if a condition is one that the regions have a table of.
        """
        twice = sorted(self._names & set(cond))
        if twice:
            raise ValueError(
                f"the condition {twice[0]!r} is given by region in `cond` of the collage and again "
                "for the run; give it once."
            )
        run = copy.copy(self)
        run._cond, run._runs = {**self._cond, **cond}, {}
        with ExitStack() as run._stack:
            yield run

    def take(self, index: Tensor) -> None:
        """Re-index the samples; regions follow their sample.

        Raises:
            ValueError: if a stateful piece (stale activations) was split by max_batch.
        """
        rows = {g: len(group.index) for g, group in enumerate(self.groups)}
        for (g, start, stop), run in self._runs.items():
            if start or stop % rows[g] or any(k[0] == g and k[1] for k in self._runs):
                raise ValueError(
                    "a piece with state of its own cannot be split by max_batch and re-indexed by "
                    "a policy too; leave max_batch out."
                )
            every = index[:, None] * rows[g] + torch.arange(rows[g], device=index.device)
            run.take(every.reshape(-1))
        self._runs = {(g, 0, len(index) * rows[g]): run for (g, _, _), run in self._runs.items()}
        self._cond = {
            name: value[index.to(value.device)] if _by_sample(value) else value
            for name, value in self._cond.items()
        }

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the weighted sum of the regions' predictions, modal basis in and out.

        Raises:
            ValueError: if z is no state of this canvas.
        """
        process, rank = self.process, len(self.graph.canvas)
        lead = (process.k, self.graph.channels) if process.k > 1 else (self.graph.channels,)
        if tuple(z.shape[1:]) != (*lead, *self.graph.canvas):
            raise ValueError(
                f"the state has shape {tuple(z.shape)}, expected (B, "
                f"{', '.join(map(str, (*lead, *self.graph.canvas)))}); sample with "
                "shape=(B, *graph.shape)."
            )
        x = process.back(z)
        flat = x.flatten(1, -rank - 1).flatten(2)  # (B, lead, sites)
        out = torch.zeros_like(flat)
        for g in range(len(self.groups)):
            self._add(g, flat, level, out)
        return process.to(out.reshape(x.shape))

    def _add(self, g: int, flat: Tensor, level: Level, out: Tensor) -> None:
        """Add a group's share to `out`, in batches of at most `max_batch` rows, sample-major."""
        count, start = len(flat) * len(self.groups[g].index), 0
        while start < count:
            stop = min(start + int(min(self._limit[0], count)), count)
            try:
                share = self._share(g, flat, level, start, stop)
            except torch.OutOfMemoryError:
                if stop - start == 1:
                    raise
                self._limit[0] = (stop - start) // 2
                continue
            out.index_put_(share[0], share[1], accumulate=True)
            start = stop

    def _share(
        self, g: int, flat: Tensor, level: Level, start: int, stop: int
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Return where rows start..stop of a group go, and their weighted predictions."""
        group, device = self.groups[g], flat.device
        rows = torch.arange(start, stop, device=device)
        b, k = rows // len(group.index), rows % len(group.index)
        lead = torch.arange(flat.shape[1], device=device)
        site = group.index.to(device)[k]
        where = (b[:, None, None], lead[None, :, None], site[:, None, :])
        process = group.model.process
        shape = (process.k, -1) if process.k > 1 else (flat.shape[1],)
        x = flat[where].reshape(len(rows), *shape, *group.shape)
        cond: dict[str, Any] = {name: table.to(device)[k] for name, table in group.cond.items()}
        for name, value in self._cond.items():
            cond[name] = value[b.to(value.device)] if _by_sample(value) else value
        here = _rows_of(level, b) if level.t.ndim else level
        if process.modes:
            here = process.level(here.t)
        y = self._ask(g, (start, stop), process.to(x), here, cond)
        weight = group.weight.to(flat)[k][:, None, :]
        return where, weight * process.back(y).reshape(len(rows), flat.shape[1], -1)

    def _ask(
        self, g: int, span: tuple[int, int], z: Tensor, level: Level, cond: dict[str, Any]
    ) -> Tensor:
        """Ask a group's model, in its run of these rows if it keeps state."""
        model = self.groups[g].model
        if self._stack is None or not _stateful(model):
            with model.begin(**cond) as run:
                return run.ask(z, level, self.predicts)
        key = (g, *span)
        if key not in self._runs:
            self._runs[key] = self._stack.enter_context(model.begin(**cond))
        return self._runs[key].ask(z, level, self.predicts)


def _no_network(x: Tensor, t: Tensor) -> Tensor:
    raise NotImplementedError("a collage is asked through its regions.")


def _by_sample(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, Tensor) and value.ndim > 0


def _stateful(model: Denoiser) -> bool:
    """Return whether the network keeps state during a run."""
    return hasattr(model.net, "begin") or hasattr(model.net, "take")


def _rows_of(level: Level, b: Tensor) -> Level:
    """Return the levels of rows that belong to the samples b."""
    b = b.to(level.t.device)
    return Level(level.t[b], level.signal[b], level.root[b], level.kind)


def _canvas_process(
    graph: Cover, piece: Denoiser, overlap: Denoiser, process: Process | None
) -> Process:
    """Return the canvas's process, or refuse processes that do not fit each other.

    Raises:
        ValueError: naming both.
    """
    if not _same_law(piece.process, overlap.process):
        raise ValueError(
            f"the overlap's process is {overlap.process} and the piece's is {piece.process}; pieces "
            "and overlaps must share one law."
        )
    if process is None:
        if piece.process.modes:
            raise ValueError(
                f"{piece.process} depends on the size of the data, so give the canvas's own as "
                f"process=, with modes {graph.canvas}."
            )
        return piece.process
    if not _same_law(piece.process, process):
        raise ValueError(
            f"the canvas's process is {process} and the piece's is {piece.process}; they must "
            "share one law."
        )
    if process.modes and process.modes != graph.canvas[-len(process.modes) :]:
        raise ValueError(
            f"the canvas's process has modes {process.modes}, expected the canvas's "
            f"{graph.canvas[-len(process.modes) :]}."
        )
    return process


def _same_law(a: Process, b: Process) -> bool:
    """Return whether two processes agree, but for the size of their data."""
    if not (a.modes and b.modes and type(a) is type(b) and dataclasses.is_dataclass(a)):
        return a == b
    names = [field.name for field in dataclasses.fields(a) if field.name != "size"]
    return all(getattr(a, name) == getattr(b, name) for name in names)
