r"""Exact denoisers of known laws: the oracles that solvers are tested on.

A linear process observes each clean coordinate through Gaussian noise, so all that z says of it is
the least-squares estimate $\hat x$ and its precision g: with S_0 the first column of the signal,

$$g = S_0^\top \Sigma^{-1} S_0, \qquad \hat x = S_0^\top \Sigma^{-1} z / g.$$

For a coordinate with prior N(m, s^2) the posterior mean is $m + \frac{s^2 g}{1 + s^2 g}(\hat x - m)$ and
the evidence is $N(\hat x; m, s^2 + 1/g)$. This serves scalars, (position, velocity) and frequencies
alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redrift._core.linalg import inverse, product, transpose
from redrift.denoise.denoiser import Denoiser
from redrift.process import Level, Process


class Oracle(Denoiser):
    """A denoiser with a closed form; subclasses give `posterior` in the modal basis."""

    def __init__(self, process: Process) -> None:
        super().__init__(_no_network, process, "x0")

    def posterior(self, x: Tensor, precision: Tensor) -> Tensor:
        """Return E[x0] given the estimate x, (B, *shape), of the given precision."""
        raise NotImplementedError

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the exact posterior mean of the clean state."""
        x, precision = observe(self.process, z, level)
        clean = self.posterior(x, precision)
        if self.process.k == 1:
            return clean
        return torch.stack([clean] + [torch.zeros_like(clean)] * (self.process.k - 1), 1)


def _no_network(x: Tensor, t: Tensor) -> Tensor:
    raise NotImplementedError("an oracle has no network")


def observe(process: Process, z: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Return the least-squares estimate of the clean coordinates and its precision.

    Args:
        process: the law.
        z: modal state, (B, *shape) or (B, k, *shape).
        level: its noise level.

    Returns:
        x (B, *shape) and a precision that broadcasts to it; x is 0 where the precision is.
    """
    undo = inverse(level.root)
    white = product(undo, level.signal)[..., :1]  # R^-1 S_0, (*, k, 1)
    look = product(transpose(undo), white) if process.k > 1 else undo * white
    precision = (white**2).sum((-2, -1))
    batched = level.t.ndim > 0
    lead = z.ndim - (process.k > 1) - 1 - len(process.modes)

    def spread(table: Tensor) -> Tensor:
        rows = table.shape[:1] if batched else (1,)
        return table.to(z).reshape(*rows, *[1] * lead, *process.modes)

    parts = [z] if process.k == 1 else list(z.unbind(1))
    total = sum(spread(look[..., i, 0]) * part for i, part in enumerate(parts))
    scale = spread(precision)
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return total / safe, scale  # pyright: ignore[reportReturnType, reportOperatorIssue]


class GaussianMixture(Oracle):
    """The exact denoiser of a mixture of Gaussians with diagonal covariances.

    Args:
        weights: (K,) positive; normalised.
        means: (K, *shape) of the clean law, in the data's basis.
        std: (K,) isotropic, or (K, *shape); the latter only where the process's basis is the
            data's.
        process: the law of the noise.
        classes: (K,) long, the class of each component, >= 0. The condition `label`, (B,) long, then
            leaves each sample the components of its class, or all where it is -1: an exact conditional
            model, for `Guided(mixture, scale, {"label": -1})`.

    Raises:
        ValueError: if the shapes do not agree, a weight or deviation is negative, or `std` is not
            isotropic although the process works in another basis.

    Cost: one (B, K, *shape) array per evaluation.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        std: Tensor,
        process: Process,
        *,
        classes: Tensor | None = None,
    ) -> None:
        super().__init__(process)
        if weights.ndim != 1 or means.ndim < 2 or means.shape[0] != len(weights):
            raise ValueError(
                f"weights must be (K,) and means (K, *shape), got {tuple(weights.shape)} and "
                f"{tuple(means.shape)}."
            )
        if std.shape not in (weights.shape, means.shape):
            raise ValueError(f"std must be (K,) or the shape of means, got {tuple(std.shape)}.")
        if bool((weights <= 0).any()) or bool((std < 0).any()):
            raise ValueError("weights must be positive and std not negative.")
        if process.modes and std.shape != weights.shape:
            raise ValueError("a process with modes needs isotropic components: give std as (K,).")
        self.weights = weights / weights.sum()
        if classes is not None and classes.shape != weights.shape:
            raise ValueError(
                f"classes must be (K,) = {tuple(weights.shape)}, got {tuple(classes.shape)}."
            )
        self.means, self.std, self.classes = means, std, classes
        self._modal = process.to(means)
        self._var = std.reshape(len(std), *[1] * (means.ndim - std.ndim), *std.shape[1:]) ** 2

    def _evidence(self, x: Tensor, precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log(weight * evidence) up to a constant, (B, K), the residuals and 1 + s^2 g."""
        x, g = x.unsqueeze(1), precision.unsqueeze(1)
        means, var, weights = (part.to(x) for part in (self._modal, self._var, self.weights))
        residual, spread = x - means, 1 + var * g
        energy = (residual**2 * (g / spread) + spread.log()).flatten(2).sum(-1)
        log_weight = weights.log() - energy / 2
        label = self.conditions().get("label")
        if label is not None and self.classes is not None:
            other = (label[:, None] != self.classes) & (label[:, None] >= 0)
            log_weight = log_weight.masked_fill(other, -math.inf)
        return log_weight, residual, spread

    def posterior(self, x: Tensor, precision: Tensor) -> Tensor:
        """Return E[x0] given the estimate x, (B, *shape)."""
        log_weight, residual, spread = self._evidence(x, precision)
        share = torch.softmax(log_weight, 1)
        share = share.reshape(*share.shape, *[1] * (x.ndim - 1))
        shrink = 1 / spread  # the mean is x pulled to m by 1 / (1 + s^2 g)
        return x - (share * shrink * residual).sum(1)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n clean samples, (n, *shape)."""
        pick = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, *self.means.shape[1:], generator=generator, dtype=self.means.dtype)
        std = self.std.reshape(len(self.std), *[1] * (self.means.ndim - self.std.ndim),
                               *self.std.shape[1:])  # fmt: skip
        return self.means[pick] + std[pick] * noise

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return the log density of the noisy state, (B,), for k = 1.

        Args:
            x: state, (B, *shape), in the data's basis.
            t: process time, a number, () or (B,).

        Raises:
            ValueError: for k > 1.
        """
        if self.process.k > 1:
            raise ValueError("log_prob of the joint state is not defined here for k > 1.")
        level = self.process.level(torch.as_tensor(t, dtype=torch.float64))
        z = self.process.to(x)
        estimate, g = observe(self.process, z, level)
        log_weight, _, _ = self._evidence(estimate, g)
        noise = (level.root[..., 0, 0].to(z) ** 2).log() + math.log(2 * math.pi)
        noise = noise.reshape(
            -1, *[1] * (z.ndim - 1 - len(self.process.modes)), *self.process.modes
        )
        return torch.logsumexp(log_weight, 1) - noise.expand_as(z).flatten(1).sum(1) / 2


class Gaussian(GaussianMixture):
    """The exact denoiser of one Gaussian with a diagonal covariance.

    Args:
        mean: (*shape) of the clean law.
        std: a number, () or (*shape).
        process: the law of the noise.
    """

    def __init__(self, mean: Tensor, std: Tensor | float, process: Process) -> None:
        std = torch.as_tensor(std, dtype=mean.dtype)
        one = torch.ones(1, dtype=mean.dtype)
        super().__init__(one, mean[None], std[None], process)


class Empirical(Oracle):
    """The exact denoiser of a data set: each sample of it equally likely.

    Args:
        data: (N, *shape).
        process: the law of the noise.

    Cost: one (B, N) array and two products with the data per evaluation.
    """

    def __init__(self, data: Tensor, process: Process) -> None:
        super().__init__(process)
        if data.ndim < 2:
            raise ValueError(f"data must be (N, *shape), got {tuple(data.shape)}.")
        self.examples, self._modal = data, process.to(data)

    def posterior(self, x: Tensor, precision: Tensor) -> Tensor:
        """Return E[x0] given the estimate x, (B, *shape)."""
        data = self._modal.to(x).flatten(1)
        g = precision.expand_as(x).flatten(1)
        logits = (g * x.flatten(1)) @ data.T - g @ (data**2).T / 2
        return (torch.softmax(logits, 1) @ data).reshape(x.shape)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n clean samples, (n, *shape)."""
        return self.examples[torch.randint(len(self.examples), (n,), generator=generator)]
