r"""A continuous process through a discrete table of $\bar\alpha_0 > \bar\alpha_1 > \dots$.

Discrete-time models know the noise only at integers. Here the half log-SNR is a monotone cubic
(PCHIP, Fritsch-Carlson slopes) of the index, so the process is continuously differentiable, meets the
table at the integers, and has exactly one time for every noise level. (Piecewise-linear
$\bar\alpha$, the usual choice, makes the integrand of a multistep method jump at every integer.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from redrift.process.base import Process
from redrift.process.scalar import ScalarProcess

_NEWTON = 60  # steps at most; each halves the bracket at worst and squares the error at best
_SAME = 1e-3  # of log-SNR: tables that differ by less are one law
_CLOSE = 1e-14  # of an index: no further steps


def _slopes(y: Tensor) -> Tensor:
    """Return Fritsch-Carlson slopes on unit spacing: monotone data give a monotone cubic."""
    d = y[1:] - y[:-1]
    inner = 2 * d[1:] * d[:-1] / (d[1:] + d[:-1])
    return torch.cat((d[:1], inner, d[-1:]))


@dataclass(frozen=True)
class TableProcess(ScalarProcess):
    r"""A variance-preserving process given by a table of $\bar\alpha = \alpha^2$.

    Time is the index into the table, 0 to len - 1, and may be fractional.

    Args:
        alpha_bar: strictly decreasing values inside (0, 1), at least two. A last entry of 0
            (zero terminal SNR) has no finite log-SNR: drop it, or give it a small value.

    Raises:
        ValueError: if the table is not strictly decreasing inside (0, 1).
    """

    alpha_bar: tuple[float, ...]
    _clock: Tensor = field(init=False, repr=False, compare=False)
    _slope: Tensor = field(init=False, repr=False, compare=False)

    def agrees(self, other: Process) -> bool:
        """Say whether another table is the same to the rounding of float32."""
        if not isinstance(other, TableProcess) or len(other.alpha_bar) != len(self.alpha_bar):
            return False
        gap = (self._clock - other._clock).abs().max()
        return float(gap) < _SAME

    def __post_init__(self) -> None:
        values = tuple(float(a) for a in self.alpha_bar)
        object.__setattr__(self, "alpha_bar", values)
        a = torch.tensor(values, dtype=torch.float64)
        if len(a) < 2 or not bool(((a > 0) & (a < 1)).all()) or not bool((a[1:] < a[:-1]).all()):
            raise ValueError(
                "alpha_bar must hold at least two strictly decreasing values inside (0, 1), got "
                f"{len(a)} values from {values[0] if values else None} to "
                f"{values[-1] if values else None}; drop repeated or zero entries."
            )
        clock = (torch.log(a) - torch.log1p(-a)) / 2
        object.__setattr__(self, "_clock", clock)
        object.__setattr__(self, "_slope", _slopes(clock))

    @property
    def horizon(self) -> float:
        """Return the last index."""
        return float(len(self.alpha_bar) - 1)

    @property
    def clean(self) -> float:
        """Return -1: index 0 has noise."""
        return -1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Return the last and the first index."""
        return (self.horizon, 0.0)

    def _cell(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        i = t.detach().floor().long().clamp(0, len(self._clock) - 2)
        return (
            t - i,
            self._clock[i],
            self._clock[i + 1],
            self._slope[i],
            self._slope[i + 1],
        )

    def clock(self, t: Tensor) -> Tensor:
        """Return the half log-SNR."""
        u, a, b, ma, mb = self._cell(t)
        return a + u * (ma + u * (3 * (b - a) - 2 * ma - mb + u * (ma + mb - 2 * (b - a))))

    def clock_rate(self, t: Tensor) -> Tensor:
        """Return its derivative."""
        u, a, b, ma, mb = self._cell(t)
        return ma + u * (2 * (3 * (b - a) - 2 * ma - mb) + 3 * u * (ma + mb - 2 * (b - a)))

    def unclock(self, w: Tensor) -> Tensor:
        """Invert the monotone cubic: safeguarded Newton inside the cell that holds w.

        The last Newton step also carries the derivative for calibration.
        """
        if not w.numel():
            return w
        with torch.no_grad():
            target = w.detach().contiguous()
            i = torch.searchsorted(-self._clock, -target).clamp(1, len(self._clock) - 1) - 1
            low, high = i.to(w), i.to(w) + 1
            t = (low + high) / 2
            for _ in range(_NEWTON):
                value = self.clock(t)
                low = torch.where(value > target, t, low)
                high = torch.where(value > target, high, t)
                step = t - (value - target) / self.clock_rate(t)
                inside = (step >= low) & (step <= high)
                previous, t = t, torch.where(inside, step, (low + high) / 2)
                if bool((t - previous).abs().max() <= _CLOSE * self.horizon):
                    break
            value, rate = self.clock(t), self.clock_rate(t)
        return t - (value - w) / rate

    def alpha(self, t: Tensor) -> Tensor:
        """Return sqrt(alpha_bar)."""
        return torch.sigmoid(2 * self.clock(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Return sqrt(1 - alpha_bar)."""
        return torch.sigmoid(-2 * self.clock(t)).sqrt()

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """Return d log(alpha) / dt = sigma^2 dlambda / dt."""
        return self.sigma(t) ** 2 * self.clock_rate(t)
