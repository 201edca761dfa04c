r"""A network as a prediction of a process, in any reading a plan wants.

`Denoiser` is the one thing the loops ask. A network, an exact oracle, a collage of networks or a
group of devices are all denoisers; wrappers (guidance, clipping) too. Per-run state (bound
conditions, stale activations) lives in the object that `begin` returns, so two runs of one denoiser
may interleave.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from redrift._core.errors import choose
from redrift._core.linalg import apply, combine, transpose
from redrift.denoise.memory import owned, version, written
from redrift.process import PREDICTIONS, Level, Process, convert
from redrift.process.convert import available, complete_score, mix


class Shared(NamedTuple):
    """A tensor in `cond` that belongs to the whole batch: never split, repeated or gathered."""

    value: Tensor


class Denoiser:
    """A network `net(x, t, **cond)` together with the law it was trained on.

    Args:
        net: callable of x (B, C, *rest), in the process's data basis (for k > 1 the channels of the
            blocks one after the other, position first), t (B,) and keyword conditions; returns a
            tensor of the same shape. For k > 1 it may return the data's shape instead: the clean
            data (predicts="x0"), or the last block's score (predicts="score"), from which the rest
            follows exactly.
        process: the law.
        predicts: what the network returns: "eps", "x0", "v", "score" or "flow".
        time: from process time to the network's time; None is the identity.
        dtype: dtype the network is called in; None takes its parameters', or the state's.

    Raises:
        ValueError: if the prediction is unknown, or has no meaning for k > 1.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        process: Process,
        predicts: str = "eps",
        *,
        time: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        choose("predicts", predicts, PREDICTIONS)
        choose(f"predicts for k = {process.k}", predicts, available(process))
        self.net, self.process, self.predicts, self.time = net, process, predicts, time
        first = next(net.parameters(), None) if isinstance(net, nn.Module) else None
        self.dtype = dtype if dtype is not None or first is None else first.dtype
        self.device = torch.device("cpu") if first is None else first.device
        self.card: dict[str, Any] = {}
        self._cond: dict[str, Any] = {}
        self._writes: bool | None = None  # whether the network writes on its input, once known

    def to(self, device: torch.device | str) -> Self:
        """Move the network, if it is a module, and return self."""
        if isinstance(self.net, nn.Module):
            self.net.to(device)
        self.device = torch.device(device)
        return self

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the native prediction, modal basis in and out: the one method a subclass gives.

        Raises:
            ValueError: if the network returns another shape.
            TypeError: if it returns another dtype or no tensor.
        """
        process = self.process
        out, x = self._call(z, level)
        shapes = [x.shape]
        if process.k > 1 and self.predicts in ("x0", "score"):
            shapes.append(torch.Size((x.shape[0], x.shape[1] // process.k, *x.shape[2:])))
        self.check_output(out, x, shapes)
        if process.k == 1:
            return process.to(out if out.dtype == z.dtype else out.to(z.dtype))
        if out.shape == x.shape:
            return process.to(out.to(z.dtype).unflatten(1, (process.k, -1)))
        if self.predicts == "x0":
            return process.lift(out.to(z.dtype))
        return complete_score(process, level, z, process.to(out.to(z.dtype)))

    def _call(self, z: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Call the network; return its output, in memory of its own, and what it was given.

        Raises:
            ValueError: if it writes on its input, though it did not at the first call of this run.
        """
        x, first = self.network_input(z), self._writes is None
        if (
            self._writes is not False
            and x.untyped_storage().data_ptr() == z.untyped_storage().data_ptr()
        ):
            x = x.clone()
        before = version(x) if first or not x.is_inference() else None
        out = self.net(x, self.network_time(level.t, x), **self.conditions())
        wrote = before is not None and written(x, before)
        if first:
            self._writes = wrote
        elif wrote and not self._writes:
            raise ValueError(
                f"the network wrote on its input at t = {float(level.t.detach().flatten()[0]):g}, though not "
                "at the first call: let it write on a copy."
            )
        return (owned(out) if isinstance(out, Tensor) else out), x

    def network_input(self, z: Tensor) -> Tensor:
        """Return the modal state as the network sees it: its basis, blocks as channels, its dtype."""
        x = self.process.back(z)
        if self.process.k > 1:
            x = x.flatten(1, 2)
        return x if self.dtype in (None, x.dtype) else x.to(self.dtype)

    def network_time(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the process's time t, () or (B,), as the network is told it: (B,) in x's dtype."""
        if self.time is not None:
            t = self.time(t)
        if t.ndim or t.requires_grad or t.device.type != "cpu":
            return t.to(x).expand(x.shape[0])
        return x.new_full((x.shape[0],), float(t))  # written where x is: nothing is copied over

    def conditions(self) -> dict[str, Any]:
        """Return the bound conditions as the network's keyword arguments."""
        return {k: v.value if isinstance(v, Shared) else v for k, v in self._cond.items()}

    def check_output(self, out: Any, x: Tensor, shapes: Sequence[torch.Size]) -> None:  # noqa: ANN401
        """Refuse what is no prediction of the network for x: another type, shape or dtype."""
        if not isinstance(out, Tensor):
            raise TypeError(f"the network returned {type(out).__name__}, expected a tensor.")
        if out.shape not in shapes:
            expected = " or ".join(str(tuple(shape)) for shape in shapes)
            raise ValueError(
                f"the network returned shape {tuple(out.shape)} for an input of {tuple(x.shape)}, "
                f"expected {expected} (channels: {type(self.process).__name__} "
                f"has k = {self.process.k})."
            )
        if out.dtype != x.dtype:
            raise TypeError(
                f"the network returned {out.dtype} for {x.dtype}; convert inside the network, or "
                "give Denoiser the dtype it computes in."
            )

    def ask(self, z: Tensor, level: Level, wants: str) -> Tensor:
        """Return the prediction `wants` at (z, level), modal basis in and out.

        Nothing is converted when the network predicts what is wanted.

        Raises:
            ValueError: if the conversion is undefined at this level; it names what works.
        """
        if level.kind != "R" and wants == "eps":
            # networks predict in R; the score does not depend on the root
            score = self.ask(z, self.process.level(level.t), "score")
            return -apply(transpose(level.root), score, self.process.modes)
        prediction = self.predict(z, level)
        if wants == self.predicts:
            return prediction
        fitted = level.signal.requires_grad or level.root.requires_grad  # EDM's signal never is
        if level.signal.numel() == 1 and not fitted:
            p, q = mix(self.process, level, self.predicts, wants)
            return (z * p).add_(prediction, alpha=q)
        P, Q = convert(self.process, level, self.predicts, wants)
        return combine(((P, z), (Q, prediction)), self.process.modes)

    @contextmanager
    def begin(self, **cond: Any) -> Generator[Self, None, None]:  # noqa: ANN401
        """Give a denoiser with fresh per-run state and `cond` bound.

        Args:
            cond: keyword arguments of the network. Tensors with axes are per sample, leading B, and
                follow `take`; wrap one in `Shared` to keep it whole.
        """
        run = copy.copy(self)
        run._cond, run._writes = {**self._cond, **cond}, None
        begin = getattr(self.net, "begin", None)
        with nullcontext(self.net) if begin is None else begin() as run.net:
            yield run

    def take(self, index: Tensor) -> None:
        """Re-index all per-sample state of this run: repeat, select and resample are one operation.

        Args:
            index: (rows,) long; row i continues what row index[i] was.
        """
        self._cond = {
            name: value[index.to(value.device)] if _per_sample(value) else value
            for name, value in self._cond.items()
        }
        if hasattr(self.net, "take"):
            self.net.take(index)  # pyright: ignore

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return the native prediction at x, in the network's basis.

        Args:
            x: state, (B, *shape), or (B, k, *shape) for k > 1, in the network's basis.
            t: process time, a number, () or (B,).
            cond: keyword arguments of the network.
        """
        return self._at(x, t, self.predicts, cond)

    def eps(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return the predicted noise; arguments as for a call."""
        return self._at(x, t, "eps", cond)

    def x0(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return the predicted clean data, (B, *shape); arguments as for a call."""
        x0 = self._at(x, t, "x0", cond)
        return x0 if self.process.k == 1 else x0[:, 0]

    def v(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return the predicted v; arguments as for a call. Defined for k = 1."""
        return self._at(x, t, "v", cond)

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return the predicted score, the gradient of the log density; arguments as for a call."""
        return self._at(x, t, "score", cond)

    def flow(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return the predicted eps - x0; arguments as for a call. Defined for k = 1."""
        return self._at(x, t, "flow", cond)

    def _at(self, x: Tensor, t: Tensor | float, wants: str, cond: dict[str, Any]) -> Tensor:
        level = self.process.level(torch.as_tensor(t, dtype=torch.float64, device="cpu"))
        with self.begin(**cond) as run:
            return self.process.back(run.ask(self.process.to(x), level, wants))


def _per_sample(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, Tensor) and value.ndim > 0
