r"""Denoisers made of a denoiser, and a network with EDM's preconditioning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from redrift.denoise.denoiser import Denoiser, Shared
from redrift.process import Level


class Wrapper(Denoiser):
    """A denoiser that changes another one's predictions; subclasses override `predict`.

    Args:
        model: the denoiser inside, which holds the conditions and the per-run state.
    """

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self.net, self.process, self.predicts = model.net, model.process, model.predicts
        self.time, self.dtype, self.device = model.time, model.dtype, model.device
        self.card = model.card

    @contextmanager
    def begin(self, **cond: Any) -> Generator[Self, None, None]:  # noqa: ANN401
        """Give a wrapper of a begun model."""
        run = copy.copy(self)
        with self.model.begin(**cond) as run.model:
            yield run

    def take(self, index: Tensor) -> None:
        """Re-index the model's per-sample state."""
        self.model.take(index)


class Guided(Wrapper):
    r"""Classifier-free guidance: $e_{null} + scale\,(e_{given} - e_{null})$.

    Since the weights sum to one, the combination is the same in every reading.

    Args:
        model: a conditional denoiser, trained with its condition dropped at times.
        scale: 1 is no guidance, 0 unconditional, above 1 sharpens.
        null: conditions of the unconditional call, by name: a number, or a tensor that broadcasts to
            the condition's shape.

    Cost: 2 evaluations per ask.

    Example:
        >>> # model = Guided(pretrained("digits"), scale=2.0, null={"label": 10})
    """

    def __init__(self, model: Denoiser, scale: float, null: dict[str, Any]) -> None:
        super().__init__(model)
        self.scale, self.null = float(scale), dict(null)
        self._dropped = model

    @contextmanager
    def begin(self, **cond: Any) -> Generator[Self, None, None]:  # noqa: ANN401
        """Give a run that holds one begun model with the conditions and one without.

        Raises:
            ValueError: if a condition that guidance drops is not given.
        """
        dropped = dict(cond)
        for name, value in self.null.items():
            shared = isinstance(cond.get(name), Shared)
            given = cond[name].value if shared else cond.get(name)
            if not isinstance(given, Tensor):
                raise ValueError(f"guidance needs the condition {name!r} as a tensor in cond.")
            null = torch.as_tensor(value, dtype=given.dtype, device=given.device).expand_as(given)
            dropped[name] = Shared(null) if shared else null
        run = copy.copy(self)
        with self.model.begin(**cond) as run.model, self.model.begin(**dropped) as run._dropped:
            yield run

    def take(self, index: Tensor) -> None:
        """Re-index both models' per-sample state."""
        self.model.take(index)
        self._dropped.take(index)

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the guided prediction."""
        given, dropped = self.model.predict(z, level), self._dropped.predict(z, level)
        return dropped + self.scale * (given - dropped)


class Preconditioned(nn.Module):
    r"""A raw network F as a denoiser of EDM: $D = c_{skip} x + c_{out} F(c_{in} x, c_{noise})$.

    With $s^2 = \sigma^2 + \sigma_d^2$: $c_{skip} = \sigma_d^2/s^2$, $c_{out} = \sigma \sigma_d / s$,
    $c_{in} = 1/s$, $c_{noise} = \tfrac14 \log \sigma$. Use it as
    `Denoiser(Preconditioned(net), EDM(), predicts="x0")`.

    Paper: EDM, arXiv:2206.00364, Table 1.

    Args:
        net: the raw network, net(x, c_noise, **cond).
        sigma_data: standard deviation of the data.
    """

    def __init__(self, net: Callable[..., Tensor], *, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.net, self.sigma_data = net, sigma_data

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return D(x, t), x (B, ...), t (B,) the noise level."""
        sigma = t.reshape(-1, *[1] * (x.ndim - 1))
        total = sigma**2 + self.sigma_data**2
        raw = self.net(x / total.sqrt(), t.log() / 4, **cond)
        return self.sigma_data**2 / total * x + sigma * self.sigma_data / total.sqrt() * raw
