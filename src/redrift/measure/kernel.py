r"""Kernels: one step's law, as Gaussian noise pushed by a map, with its density in noise space.

A step takes x to y = push(x, xi). Under one law of the chain xi ~ N(0, I), under another
xi ~ N(u(x), L(x) L(x)'): the map is shared and only the law of the noise changes, so

    dP/dQ (x_0, ..., x_N) = prod_i p_i(xi_i | x_i) / q_i(xi_i | x_i)

is a ratio of two nondegenerate Gaussian densities, whatever the covariance of y: it may be
singular (noise on the velocity only), and y may live on a group where a density in coordinates
misleads. With L = I the log-ratio is -u'(xi - u) - |u|^2 / 2, Girsanov's formula for the discrete
chain. `pull` returns to state space where the map is invertible in xi; only reversed kernels
and given paths need it.

Notation: B samples, a state x of shape (B, *shape), noise of shape (B, *noise).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from redrift.measure.noise import Diagonal, NoiseLaw, apply_root, log_det_root, solve_root

Map = Callable[[Tensor], Tensor]


class Kernel(Protocol):
    """Describe one step of a chain. Anything with these four methods serves `rollout`."""

    def noise(self, x: Tensor, /) -> tuple[int, ...]:
        """Return the shape of one sample's noise at the states x (B, *shape)."""
        ...

    def push(self, x: Tensor, xi: Tensor, /) -> Tensor:
        """Return the next states y for states x (B, *shape) and noise xi (B, *noise)."""
        ...

    def law(self, x: Tensor, /) -> NoiseLaw | None:
        """Return the law of the noise at x; None means N(0, I)."""
        ...

    def pull(self, x: Tensor, y: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return the noise xi with push(x, xi) = y, and log|det dy/dxi| of shape (B,)."""
        ...


class GaussianKernel:
    """Push noise by y = mean(x) + scale xi.

    Args:
        mean: maps states (B, *shape) to means of the next states, (B, *shape).
        scale: a number, a tensor, or a function of x that returns a tensor. Shape () is a multiple
            of the identity; (B,), from a function only, one multiple per sample; (D, E) or
            (B, D, E) acts on the last axis: E numbers of noise make D of state, E < D included.
        law: maps x to the mean and Cholesky factor of the noise (see `NoiseLaw`); None is N(0, I).

    Cost:
        One evaluation of mean for each push and pull; a scale that is a function is evaluated
        once more by `noise`.

    Example:
        >>> base = GaussianKernel(lambda x: 0.9 * x, 0.1)
        >>> base.controlled(lambda x: -x).push(torch.ones(4, 2), torch.zeros(4, 2)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        mean: Map,
        scale: float | Tensor | Map,
        law: Callable[[Tensor], tuple[Tensor, Tensor | Diagonal | None] | None] | None = None,
    ) -> None:
        if not callable(mean):
            raise TypeError(
                f"mean must be a function of the states, got {type(mean).__name__}: for a "
                "constant m write mean=lambda x: m.expand(len(x), *m.shape)."
            )
        if isinstance(scale, Tensor) and scale.ndim not in (0, 2, 3):
            raise ValueError(
                f"scale has shape {tuple(scale.shape)}, expected (), (D, E) or (B, D, E): use "
                "torch.diag(scale) for one number per coordinate."
            )
        self.mean = mean
        self.scale = scale
        self._law = law

    def controlled(self, control: Map) -> GaussianKernel:
        """Return the kernel with the same push whose noise has its mean shifted by control(x).

        For dx = f dt + g (u dt + dw) in steps of length h: GaussianKernel(x + h f, sqrt(h) g),
        controlled by sqrt(h) u.

        Args:
            control: maps states (B, *shape) to shifts (B, *noise).
        """

        def law(x: Tensor) -> NoiseLaw:
            base = self.law(x)
            shift = control(x)
            return NoiseLaw(shift) if base is None else NoiseLaw(base.mean + shift, base.chol)

        return GaussianKernel(self.mean, self.scale, law)

    def twisted(
        self, law: Callable[[Tensor], tuple[Tensor, Tensor | Diagonal | None] | None]
    ) -> GaussianKernel:
        """Return the kernel with the same push whose noise has the given mean and covariance.

        Args:
            law: maps states (B, *shape) to (mean, chol) of the noise, as `NoiseLaw` states them.
        """
        return GaussianKernel(self.mean, self.scale, law)

    def noise(self, x: Tensor, /) -> tuple[int, ...]:
        """Return the shape of one sample's noise: the state's, its last axis E where D by E."""
        root = self._root(x)
        return tuple(x.shape[1:]) if root.ndim < 2 else (*x.shape[1:-1], root.shape[-1])

    def law(self, x: Tensor, /) -> NoiseLaw | None:
        """Return the law of the noise at x; None means N(0, I)."""
        law = None if self._law is None else self._law(x)
        return None if law is None else NoiseLaw(*law)

    def push(self, x: Tensor, xi: Tensor, /) -> Tensor:
        """Return mean(x) + scale xi.

        Raises:
            ValueError: if mean(x) has another shape than scale xi.
        """
        spread = apply_root(self._root(x), xi)
        return self._mean(x, spread) + spread

    def pull(self, x: Tensor, y: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return xi = scale^-1 (y - mean(x)) and log|det scale| of shape (B,).

        Raises:
            ValueError: if scale is not square and invertible; densities of y do not exist then.
        """
        root = self._root(x)
        if root.ndim >= 2 and root.shape[-1] != root.shape[-2]:
            raise ValueError(
                f"scale has shape {tuple(root.shape)}, so y has no density: pull needs a square "
                "scale. Weigh paths in noise space, by rollout with reverse=False."
            )
        rest = y - self._mean(x, y)
        determinant = log_det_root(root, rest)
        if torch.isinf(determinant).any():
            raise ValueError(
                "scale is singular, so y has no density: pull needs an invertible scale. Weigh "
                "paths in noise space, by rollout with reverse=False."
            )
        return solve_root(root, rest), determinant

    def _mean(self, x: Tensor, like: Tensor) -> Tensor:
        mean = self.mean(x)
        if mean.shape != like.shape:
            raise ValueError(
                f"mean(x) has shape {tuple(mean.shape)}, expected {tuple(like.shape)} as the next "
                "state: return one full state per sample (expand a constant)."
            )
        return mean

    def _root(self, x: Tensor) -> Tensor:
        scale = self.scale(x) if callable(self.scale) else self.scale
        root = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
        if root.ndim > 3 or (root.ndim in (1, 3) and len(root) != len(x)):
            raise ValueError(
                f"scale has shape {tuple(root.shape)} for {len(x)} samples, expected (), (B,), "
                "(D, E) or (B, D, E): use torch.diag_embed for one number per coordinate."
            )
        return root
