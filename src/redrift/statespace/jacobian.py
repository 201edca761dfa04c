"""Jacobians of functions that act on each point of a stack alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return function(x) (..., p) and its Jacobian (..., p, d) at points (..., d).

    One evaluation and p passes backwards serve the whole stack. The result carries no graph.
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        value = function(point)
        if not value.requires_grad:
            return value, x.new_zeros(*value.shape, x.shape[-1])
        rows = [
            torch.autograd.grad(
                value[..., i].sum(), point, retain_graph=True, materialize_grads=True
            )[0]
            for i in range(value.shape[-1])
        ]
    return value.detach(), torch.stack(rows, -2)


def hessian(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return function(x) (...), its gradient (..., d) and Hessian (..., d, d) at points (..., d)."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        value = function(point)
        if not value.requires_grad:
            zero = torch.zeros_like(x)
            return value, zero, x.new_zeros(*x.shape, x.shape[-1])
        (slope,) = torch.autograd.grad(
            value.sum(), point, create_graph=True, materialize_grads=True
        )
        rows = [
            torch.autograd.grad(
                slope[..., i].sum(), point, retain_graph=True, materialize_grads=True
            )[0]
            if slope.requires_grad
            else torch.zeros_like(x)
            for i in range(x.shape[-1])
        ]
    return value.detach(), slope.detach(), torch.stack(rows, -2)
