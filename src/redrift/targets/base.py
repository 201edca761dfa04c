r"""What a target is: an unnormalised log-density with whatever is known about it.

`log_prob(x)` maps (B, dim) to (B,). What is known exactly or measured rides along: log Z with its
error, the gradient in closed form, exact samples, modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


class Target:
    """Describe an unnormalised density; subclasses give `log_prob` and say what they know.

    Attributes:
        dim: length of x.
        log_z: log of the integral of exp(log_prob), or None where it is not known.
        log_z_error: standard error of log_z: 0 where it is a closed form.
        name: for tables.
    """

    dim: int
    log_z: float | None = None
    log_z_error: float = 0.0
    name: str = "target"

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the unnormalised log-density (B,) at x (B, dim)."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """Return log_prob(x)."""
        return self.log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        """Return the gradient of log_prob (B, dim); by autograd unless a subclass knows better."""
        return gradient(self.log_prob, x)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return n exact samples (n, dim), float64.

        Raises:
            NotImplementedError: where none are known.
        """
        raise NotImplementedError(f"no exact samples of {self.name} are known.")

    @property
    def modes(self) -> Tensor | None:
        """Return equally likely mode centres (K, dim), or None."""
        return None

    def __repr__(self) -> str:
        """Show name, dimension and log Z."""
        known = "unknown" if self.log_z is None else f"{self.log_z:.6g}"
        error = f" +- {self.log_z_error:g}" if self.log_z_error else ""
        return f"{self.name}(dim={self.dim}, log_z={known}{error})"


def gradient(log_prob: Function, x: Tensor) -> Tensor:
    """Return the gradient of log_prob at x (B, dim); differentiable where x is differentiated."""
    again = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        point = x if again else x.detach().requires_grad_()
        value = log_prob(point)
        if not value.requires_grad:
            raise ValueError(
                "log_prob gave no gradient: it detaches or leaves torch. Give score=, or a network "
                "that does not ask for gradients."
            )
        (found,) = torch.autograd.grad(value.sum(), point, create_graph=again)
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Target):
    r"""Move a target to z with x = loc + scale z; log Z stays, log|det scale| enters.

    Args:
        inner: the target in x.
        loc: (dim,).
        scale: (dim,) one factor per coordinate, or (dim, dim), invertible.

    Example:
        >>> from redrift.targets import Funnel
        >>> Affine(Funnel(), torch.zeros(10), torch.full((10,), 3.0)).log_z
        0.0
    """

    inner: Target
    loc: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        """Check the shapes and keep what is known."""
        dim = self.inner.dim
        if self.loc.shape != (dim,) or self.scale.shape not in ((dim,), (dim, dim)):
            raise ValueError(
                f"loc and scale have shapes {tuple(self.loc.shape)}, {tuple(self.scale.shape)}: "
                f"expected ({dim},) and ({dim},) or ({dim}, {dim})."
            )
        volume = log_volume(self.scale)
        object.__setattr__(self, "_volume", volume)
        for name in ("dim", "log_z", "log_z_error", "name"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def out(self, z: Tensor) -> Tensor:
        """Return x = loc + scale z."""
        return affine(self.loc, self.scale, z)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of z."""
        return self.inner.log_prob(self.out(x)) + self._volume  # pyright: ignore

    def score(self, x: Tensor) -> Tensor:
        """Return the gradient in z, by the chain rule."""
        return pullback(self.scale, self.inner.score(self.out(x)))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return exact samples of z."""
        x = self.inner.sample(n, generator=generator)
        return affine_inverse(self.loc, self.scale, x)

    @property
    def modes(self) -> Tensor | None:
        """Return the modes in z."""
        found = self.inner.modes
        return None if found is None else affine_inverse(self.loc, self.scale, found)


def log_volume(scale: Tensor) -> float:
    """Return log|det scale| for a diagonal (dim,) or a matrix (dim, dim).

    Raises:
        ValueError: if it is singular.
    """
    scale = scale.double()
    found = scale.abs().log().sum() if scale.ndim == 1 else torch.linalg.slogdet(scale).logabsdet
    if not bool(torch.isfinite(found)):
        raise ValueError("scale is singular or not finite: each direction needs a width.")
    return float(found)


def spread_of(x: Tensor, *, full: bool = False) -> Tensor:
    """Return a scale measured on samples (M, dim): standard deviations, or a root of the covariance.

    Raises:
        ValueError: if a whole covariance is asked of fewer than 4 dim samples.
    """
    if not full:
        return x.std(0).clamp(min=1e-6)
    if len(x) < 4 * x.shape[1]:
        raise ValueError(
            f"full=True needs at least {4 * x.shape[1]} samples for dim = {x.shape[1]}, got "
            f"{len(x)}: raise particles."
        )
    cov = torch.cov(x.T) if x.shape[1] > 1 else x.var(0).reshape(1, 1)
    return torch.linalg.cholesky(cov + 1e-9 * cov.diagonal().mean() * torch.eye(len(cov)).to(cov))


def affine(loc: Tensor, scale: Tensor, z: Tensor) -> Tensor:
    """Return loc + scale z, in z's dtype."""
    loc, scale = loc.to(z), scale.to(z)
    return torch.addcmul(loc, z, scale) if scale.ndim == 1 else z @ scale.T + loc


def affine_inverse(loc: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """Return z with loc + scale z = x."""
    rest, scale = x - loc.to(x), scale.to(x)
    return rest / scale if scale.ndim == 1 else torch.linalg.solve(scale, rest.T).T


def pullback(scale: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient in z from the gradient in x."""
    scale = scale.to(grad)
    return grad * scale if scale.ndim == 1 else grad @ scale
