r"""Guidance that changes the predictions: gradients of a rule or a classifier, and values that must hold.

These are wrappers of a denoiser, so they serve deterministic plans, and combine with the policies of
this package, which then choose among draws of the bent law.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from redrift._core.linalg import apply, combine, transpose
from redrift.denoise import Denoiser, Inpaint
from redrift.denoise.wrappers import Wrapper
from redrift.process import Level, convert


class DPS(Wrapper):
    r"""Diffusion posterior sampling: bend the score by the gradient of J at the predicted clean sample.

    $s' = s - \zeta\,\nabla_z J(\hat x_0(z))$, with J replaced by $\sqrt J$ when `root` is set, as in the
    paper.

    Args:
        model: the denoiser inside; its network is differentiated.
        loss: (rows, *shape) -> (rows,), differentiable.
        scale: zeta, >= 0.
        root: take the gradient of the root of the loss, whose size depends less on the noise.

    Paper: DPS, arXiv:2209.14687.

    Cost: one evaluation and one backward pass per ask.
    """

    def __init__(
        self,
        model: Denoiser,
        loss: Callable[[Tensor], Tensor],
        scale: float = 1.0,
        *,
        root: bool = True,
    ) -> None:
        super().__init__(model)
        if not scale >= 0:
            raise ValueError(f"scale must be at least 0, got {scale}.")
        self.loss, self.scale, self.root = loss, float(scale), root

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the bent prediction."""
        process = self.process
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            prediction = self.model.predict(leaf, level)
            P, Q = convert(process, level, self.predicts, "x0")
            clean = process.data(combine(((P, leaf), (Q, prediction)), process.modes))
            J = self.loss(clean)
            if J.shape != (len(z),):
                raise ValueError(
                    f"the loss returned shape {tuple(J.shape)} for {len(z)} samples, expected ({len(z)},)."
                )
            if not J.requires_grad:
                raise ValueError(
                    "the loss has no gradient; use SCG or FKSteering, which need none."
                )
            total = (J + 1e-12).sqrt().sum() if self.root else J.sum()
            (slope,) = torch.autograd.grad(total, leaf)
        return prediction.detach() + _shift(self, level, -self.scale * slope)


class ClassifierGuidance(Wrapper):
    r"""Classifier guidance: $s' = s + scale\,\nabla_z \log p(y \mid z_t)$ with a classifier of noisy states.

    Args:
        model: the denoiser inside.
        log_prob: (x, t) -> (rows,), x (rows, *shape) in the network's basis, t (rows,).
        scale: >= 0; 1 is Bayes' rule.

    Paper: arXiv:2105.05233.

    Cost: one evaluation, and one of the classifier with its backward pass, per ask.
    """

    def __init__(
        self, model: Denoiser, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0
    ) -> None:
        super().__init__(model)
        if not scale >= 0:
            raise ValueError(f"scale must be at least 0, got {scale}.")
        self.log_prob, self.scale = log_prob, float(scale)

    def predict(self, z: Tensor, level: Level) -> Tensor:
        """Return the bent prediction."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            x = self.process.back(leaf)
            value = self.log_prob(x, level.t.to(x).expand(len(x)))
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return self.model.predict(z, level) + _shift(self, level, self.scale * slope)


def _shift(model: Denoiser, level: Level, score: Tensor) -> Tensor:
    """Return what an addition to the score adds to the native prediction."""
    process = model.process
    noise = -apply(transpose(level.root), score, process.modes)
    _, Q = convert(process, level, "eps", model.predicts)
    return apply(Q, noise, process.modes)


class MaskRule:
    """Sites that must hold a value, as a loss, or with `hard` as a constraint.

    Args:
        mask: bool, broadcasts to the data's shape: True where the value is prescribed.
        value: a number or tensor.

    Example:
        >>> rule = MaskRule(torch.tensor([True, False]), -1.0)
        >>> rule(torch.zeros(1, 2))
        tensor([0.5000])
    """

    def __init__(self, mask: Tensor, value: Tensor | float) -> None:
        self.mask, self.value = mask, value

    def __call__(self, x: Tensor) -> Tensor:
        """Return the mean squared distance of the masked sites from the value, over all sites."""
        gap = torch.where(self.mask, x - self.value, torch.zeros_like(x))
        return gap.square().flatten(1).mean(1)

    def hard(self, model: Denoiser) -> Inpaint:
        """Return a model whose predicted clean samples keep the rule."""
        return Inpaint(model, torch.as_tensor(self.value), self.mask)
