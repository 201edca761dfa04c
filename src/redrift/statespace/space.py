"""Where the state lives: how noise moves a point, and coordinates around a point.

A filter needs four things of a space. Points have `axes` trailing axes; tangent vectors are numbers
(..., d). On a group `retract` is X exp(xi) and `local` its logarithm; here both are sums.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Space(Protocol):
    """Describe a space of states. Another space changes nothing else in a filter."""

    @property
    def axes(self) -> int:
        """Return the number of trailing axes of a point."""
        ...

    @property
    def flat(self) -> bool:
        """Say whether local coordinates add, so that one chart serves everywhere."""
        ...

    def retract(self, x: Tensor, xi: Tensor, /) -> Tensor:
        """Move the point x by the tangent vector xi (..., d)."""
        ...

    def local(self, base: Tensor, x: Tensor, /) -> Tensor:
        """Return xi (..., d) with retract(base, xi) = x."""
        ...

    def mean(self, x: Tensor, w: Tensor, /) -> Tensor:
        """Return the mean of points (..., N, *point) with weights (..., N) that sum to 1."""
        ...


class Euclidean:
    """The space R^d: retract(x, xi) = x + xi.

    Example:
        >>> import torch
        >>> Euclidean().local(torch.ones(2), torch.zeros(2))
        tensor([-1., -1.])
    """

    axes = 1
    flat = True

    def retract(self, x: Tensor, xi: Tensor, /) -> Tensor:
        """Return x + xi."""
        return x + xi

    def local(self, base: Tensor, x: Tensor, /) -> Tensor:
        """Return x - base."""
        return x - base

    def mean(self, x: Tensor, w: Tensor, /) -> Tensor:
        """Return the weighted mean (..., d)."""
        return (w.unsqueeze(-2) @ x).squeeze(-2)


def mean_and_variance(space: Space, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of points (..., N, *point) and the variances of coordinates around it."""
    mean = space.mean(x, w)
    xi = space.local(mean.unsqueeze(-1 - space.axes), x)
    return mean, (w.unsqueeze(-1) * xi * xi).sum(-2)


def covariance(space: Space, mean: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Return the weighted covariance (..., d, d) of points around a mean, in its coordinates."""
    xi = space.local(mean.unsqueeze(-1 - space.axes), x)
    return (w.unsqueeze(-1) * xi).mT @ xi
