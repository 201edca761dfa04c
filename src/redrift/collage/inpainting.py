r"""Given data on part of a canvas, by two rules, and the left-to-right baseline they make.

    replacement     x0 <- where(mask, known, x0)
    reconstruction  x0 <- x0 - w g,  g = d/dz |m (x0(z) - known)|^2,
                    w = <m (x0 - known), m g> / <m g, m g>  per sample, while sigma / alpha >= low

Both edit the predicted clean data, so both are denoisers around a denoiser, and serve every plan.
`outpaint` runs the windows of a graph one after the other, each given what the earlier ones left in
it: the autoregressive baseline that a collage is to be compared with.

Paper: DiffCollage, arXiv:2303.17076, section on conditional generation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from redrift._core.errors import choose
from redrift._core.rng import Generators
from redrift.collage.graph import Graph
from redrift.denoise import Denoiser, Shared, Wrapper
from redrift.process import Level
from redrift.sampling import sample
from redrift.solvers import Plan

FILLS = ("replacement", "reconstruction")


class Edited(Wrapper):
    """A denoiser whose predicted clean data are edited; subclasses give `edit`."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__(model)
        self.predicts = "x0"

    def edit(self, x0: Tensor) -> Tensor:
        """Return the edited clean data, (B, *shape)."""
        raise NotImplementedError

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the edited clean state."""
        process = self.process
        return process.lift(self.edit(process.data(self.model.ask(z, level, "x0"))))


class Clipped(Edited):
    """A denoiser whose predicted clean data stay within [-bound, bound].

    Args:
        model: denoiser inside; for a collage the bound acts after the sum, where it must.
        bound: > 0.
    """

    def __init__(self, model: Denoiser, bound: float) -> None:
        super().__init__(model)
        if not 0 < bound < float("inf"):
            raise ValueError(f"clip must be positive and finite, got {bound}.")
        self.bound = float(bound)

    def edit(self, x0: Tensor) -> Tensor:
        """Return the clipped data."""
        return x0.clamp(-self.bound, self.bound)


class Inpaint(Edited):
    """A denoiser told part of its data.

    `known` and `mask` may also be conditions of a run, `sample(..., cond={"known": ..., "mask":
    ...})`, which then follow the samples when a batch is split or a policy selects.

    Args:
        model: denoiser inside.
        known: data, (*shape), one for all samples; where samples differ give it as a condition of
            the run. Only values under the mask matter.
        mask: true where known; broadcasts to the data.
        fill: "replacement" or "reconstruction".
        low: reconstruction acts while sigma / alpha >= low, in units of the data.

    Raises:
        ValueError: if a run has no known data or mask, or they do not fit the state.

    Cost: replacement nothing; reconstruction one backward pass per evaluation above `low`.
    """

    def __init__(
        self,
        model: Denoiser,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        fill: str = "replacement",
        low: float = 1.0,
    ) -> None:
        super().__init__(model)
        self.known, self.mask = known, mask
        self.fill, self.low = choose("fill", fill, FILLS), float(low)
        self._batched: dict[str, bool] = {"known": False, "mask": False}

    @contextmanager
    def begin(self, **cond: Any) -> Generator[Self, None, None]:  # noqa: ANN401
        """Give a run; `known` and `mask` among the conditions replace those of the object."""
        run = copy.copy(self)
        run._batched = dict(self._batched)
        for name in ("known", "mask"):
            value = cond.pop(name, None)
            if value is not None:
                run._batched[name] = not isinstance(value, Shared)
                setattr(run, name, value.value if isinstance(value, Shared) else value)
        for name in ("known", "mask"):
            if not isinstance(getattr(run, name), Tensor):
                raise ValueError(
                    f"inpainting needs {name!r} as a tensor, got {getattr(run, name)}."
                )
        with self.model.begin(**cond) as run.model:
            yield run

    def take(self, index: Tensor) -> None:
        """Re-index the model's state and the data given by sample."""
        for name, batched in self._batched.items():
            if batched:
                value = getattr(self, name)
                setattr(self, name, value[index.to(value.device)])
        self.model.take(index)

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the clean state that honours what is known."""
        process = self.process
        if self.fill == "replacement":
            x0 = process.data(self.model.ask(z, level, "x0"))
            known, mask = self._given(x0)
            return process.lift(torch.where(mask, known, x0))
        if not _loud(level, self.low):
            return self.model.ask(z, level, "x0")
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            x0 = process.data(self.model.ask(at, level, "x0"))
            known, mask = self._given(x0)
            miss = mask * (x0 - known)
            (slope,) = torch.autograd.grad(miss.square().sum(), at)
        g = process.data(slope.detach())
        x0, miss, seen = x0.detach(), miss.detach(), mask * g
        axes = tuple(range(1, x0.ndim))
        size = seen.square().sum(axes, keepdim=True)
        step = (miss * seen).sum(axes, keepdim=True) / torch.where(size > 0, size, 1)
        return process.lift(x0 - step * g)

    def _given(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return known data and mask for clean data like these."""
        assert isinstance(self.known, Tensor)
        assert isinstance(self.mask, Tensor)
        try:
            known = self.known.to(like).expand_as(like)
            mask = self.mask.to(like.device).bool().expand_as(like)
        except RuntimeError as error:
            raise ValueError(
                f"known is {tuple(self.known.shape)} and mask {tuple(self.mask.shape)}, which do not "
                f"broadcast to the data, {tuple(like.shape)}."
            ) from error
        return torch.where(mask, known, torch.zeros_like(known)), mask


def _loud(level: Level, low: float) -> bool:
    """Return whether the noise of some mode is at least `low` times its signal."""
    signal, root = level.signal[..., 0, 0].abs().min(), level.root[..., 0, 0].abs().max()
    return bool(root >= low * signal)


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
        told = dict(cond or {})
        if i and bool(done[window.index].any()):
            here = window.index.to(sites.device)
            told["known"] = sites[:, :, here].reshape(shape)
            told["mask"] = done[window.index].reshape(1, 1, *window.shape).expand(shape)
            model: Denoiser = Inpaint(piece, fill=fill, low=low)
        else:
            model = piece
        x = sample(model, plan, cond=told, **options)
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
