r"""Blurring diffusion: every frequency of the cosine transform fades at its own rate.

In the orthonormal DCT basis $y_t = a(t)\,y_0 + \sigma(t)\,\varepsilon$ with $a = \alpha D$,
$\alpha = \cos\omega$, $\sigma = \sin\omega$, $\omega = \tfrac{\pi}{2}(t + 0.004)/1.008$, and the blur

$$D_k = (1 - d)\,e^{-\Lambda_k \sigma_B^2/2} + d, \qquad \sigma_B = \sigma_{max} \sin^2(\pi t/2), \qquad
  \Lambda_k = \sum_{axes} (\pi k/n)^2.$$

The noise is white in both bases. There is no single noise level: sigma / a differs by frequency, and
a scalar one in its place diverges. Ratios a'/a are formed, never 1/a: at t = .9 it is 6e3.

Papers: blurring diffusion, arXiv:2209.05557; gDDIM, arXiv:2206.05564.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redrift._core.dct import dct, idct
from redrift.process.base import Process

_OFFSET, _SPAN = 0.004, 1.008


@dataclass(frozen=True)
class Blur(Process):
    r"""Blurring diffusion on data whose last axes are `size`; k = 1, modes = size.

    Args:
        size: (H, W), or any number of axes.
        blur: largest standard deviation of the blur, in pixels, > 0.
        floor: d, the share of every frequency that the blur leaves, in (0, 1).

    Raises:
        ValueError: if a size is below 1 or a constant out of range.
    """

    size: tuple[int, ...]
    blur: float = 10.0
    floor: float = 1e-3

    def __post_init__(self) -> None:
        size = (self.size,) if isinstance(self.size, int) else tuple(self.size)
        object.__setattr__(self, "size", size)
        if not size or min(size) < 1 or not 0 < self.blur < math.inf or not 0 < self.floor < 1:
            raise ValueError(f"Blur needs sizes >= 1, blur > 0 and 0 < floor < 1, got {self}.")

    @property
    def modes(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Return the size: every frequency has tables of its own."""
        return self.size

    @property
    def interval(self) -> tuple[float, float]:
        """Return .996 and 1e-5."""
        return (0.996, 1e-5)

    @property
    def clean(self) -> float:
        """Return the time at which the noise vanishes."""
        return -_OFFSET

    def _decay(self) -> Tensor:
        """Return Lambda, of shape `size`."""
        total: Any = 0.0
        for axis, n in enumerate(self.size):
            f = math.pi * torch.arange(n, dtype=torch.float64) / n
            total = total + (f**2).reshape(-1, *[1] * (len(self.size) - axis - 1))
        return total

    def _spread(self, t: Tensor) -> Tensor:
        """Give t one axis per mode."""
        return t.reshape(*t.shape, *[1] * len(self.size))

    def _phase(self, t: Tensor) -> Tensor:
        return (t + _OFFSET) / _SPAN * (math.pi / 2)

    def _blurred(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return D and its derivative in t."""
        half = math.pi / 2 * t
        width = self.blur * torch.sin(half) ** 2
        slope = self.blur * math.pi * torch.sin(half) * torch.cos(half)
        decay = self._decay()
        passed = (1 - self.floor) * torch.exp(-decay * width**2 / 2)
        return passed + self.floor, -decay * width * slope * passed

    def signal(self, t: Tensor) -> Tensor:
        """Return a = alpha D."""
        t = self._spread(t)
        return (torch.cos(self._phase(t)) * self._blurred(t)[0])[..., None, None]

    def cov(self, t: Tensor) -> Tensor:
        """Return sigma^2, the same for every mode."""
        return self.root(t) ** 2

    def root(self, t: Tensor, kind: str = "R") -> Tensor:
        """Return sigma, the same for every mode."""
        sigma = torch.sin(self._phase(self._spread(t)))
        return sigma[..., None, None].expand(*t.shape, *self.size, 1, 1)

    def drift(self, t: Tensor) -> Tensor:
        """Return d log(a) / dt."""
        t = self._spread(t)
        passed, slope = self._blurred(t)
        rate = math.pi / 2 / _SPAN
        return (slope / passed - rate * torch.tan(self._phase(t)))[..., None, None]

    def diffusion(self, t: Tensor) -> Tensor:
        """Return G with G^2 = (sigma^2)' - 2 (a'/a) sigma^2."""
        phase, rate = self._phase(self._spread(t)), math.pi / 2 / _SPAN
        growth = (2 * rate * torch.sin(phase) * torch.cos(phase))[..., None, None]
        return (growth - 2 * self.drift(t) * self.cov(t)).sqrt()

    def to(self, x: Tensor) -> Tensor:
        """Return the cosine transform over the last axes."""
        return dct(x, len(self.size))

    def back(self, z: Tensor) -> Tensor:
        """Invert `to`."""
        return idct(z, len(self.size))
