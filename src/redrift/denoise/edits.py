r"""Edits of the predicted clean sample: clipping, projection, and given data.

    projection      x0 <- edit(x0), any function of the data, such as `clip(1.0)`
    replacement     x0 <- where(mask, known, x0)
    reconstruction  x0 <- x0 - w g,  g = d/dz |m (x0(z) - known)|^2,
                    w = <m (x0 - known), m g> / <m g, m g>  per sample, while sigma / alpha >= low

Each is a denoiser around a denoiser, and so serves every plan, deterministic ones too. The clean state is
that of the edited data; for CLD its velocity is 0.

Paper: DiffCollage, arXiv:2303.17076, section on conditional generation (given data).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from redrift._core.errors import choose
from redrift.denoise.denoiser import Denoiser, Shared
from redrift.denoise.wrappers import Wrapper
from redrift.process import Level, Process
from redrift.process.convert import mix

Edit = Callable[[Tensor], Tensor]
FILLS = ("replacement", "reconstruction")


class Edited(Wrapper):
    """A denoiser whose predicted clean data are edited; it predicts x0.

    Args:
        model: denoiser inside; for a collage the edit acts after the sum, where it must.
        edit: (rows, *shape) -> (rows, *shape), such as `clip(1.0)`, or one that sets forbidden sites to
            the background.

    Raises:
        ValueError: in a run, if the edit returns another shape, or a plan wants the noise where it is
            zero, at which the sample itself would have to be edited.
    """

    def __init__(self, model: Denoiser, edit: Edit) -> None:
        super().__init__(model)
        self.predicts = "x0"
        self.edit = edit

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the edited clean state."""
        return edited(self.process, self.model.ask(z, level, "x0"), self.edit)


def edited(process: Process, state: Tensor, edit: Edit) -> Tensor:
    """Return a predicted clean state, modal, with its data edited.

    Raises:
        ValueError: if the edit returns another shape.
    """
    clean = process.data(state)
    found = edit(clean)
    if found.shape != clean.shape:
        raise ValueError(
            f"the edit returned shape {tuple(found.shape)}, expected {tuple(clean.shape)}."
        )
    return process.lift(found)


def edited_prediction(
    process: Process, level: Level, z: Tensor, prediction: Tensor, predicts: str, edit: Edit
) -> Tensor:
    """Return a prediction, in its own reading, whose clean data are edited; for k = 1 without modes.

    Args:
        process: of the states.
        level: of z.
        z: states (B, *shape).
        prediction: of the network there.
        predicts: its reading, "eps", "x0", "v", "score" or "flow".
        edit: of the clean data.
    """
    P, Q = mix(process, level, predicts, "x0")
    return (edit(z * P + prediction * Q) - z * P) / Q


def clip(bound: float) -> Edit:
    """Return the edit that holds data within [-bound, bound], bound > 0."""
    if not 0 < bound < float("inf"):
        raise ValueError(f"clip must be positive and finite, got {bound}.")
    return lambda x0: x0.clamp(-bound, bound)


def clip_quantile(share: float, most: float = 1.0) -> Edit:
    """Return dynamic thresholding: each sample is clipped at a quantile of its size and divided by it.

    Args:
        share: of the values that lie within the quantile.
        most: largest quantile; the least is 1.

    Paper: Imagen, arXiv:2205.11487.
    """

    def edit(x0: Tensor) -> Tensor:
        size = torch.quantile(x0.flatten(1).abs(), share, dim=1).clamp(1, max(1.0, most))
        size = size.reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-size, size) / size

    return edit


class Inpaint(Wrapper):
    """A denoiser of data that are known in part.

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
        self.predicts = "x0"
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
            return edited(process, self.model.ask(z, level, "x0"), self._replace)
        if not _loud(level, self.low):
            return self.model.ask(z, level, "x0")
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            state = self.model.ask(at, level, "x0")
            x0 = process.data(state)
            known, mask = self._given(x0)
            miss = mask * (x0 - known)
            (slope,) = torch.autograd.grad(miss.square().sum(), at)
        g, miss = process.data(slope.detach()), miss.detach()
        seen = mask * g
        axes = tuple(range(1, x0.ndim))
        size = seen.square().sum(axes, keepdim=True)
        step = (miss * seen).sum(axes, keepdim=True) / torch.where(size > 0, size, 1)
        return edited(process, state.detach(), lambda x0: x0 - step * g)

    def _replace(self, x0: Tensor) -> Tensor:
        known, mask = self._given(x0)
        return torch.where(mask, known, x0)

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
