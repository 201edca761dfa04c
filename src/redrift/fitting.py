r"""Time grids fitted by gradient: a plan's tables are differentiable in its times.

The grid is a warp of a coordinate between fixed ends: the steps' shares of it are a softmax of free
parameters, so the grid stays strictly decreasing. The loss mixes the mean log error with that of the
worst tenth, because a fit to the mean alone buys the bulk with the tail.

`training/best_plan.py` makes the default grids with it; `redrift.calibration` fits a plan to one model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.denoise import Denoiser
from redrift.process import Process
from redrift.solvers import Plan, walk
from redrift.solvers.fractions import grid_of_fractions
from redrift.solvers.loop import answered

Build = Callable[[Process, Tensor], Plan]
_TAIL = 0.1


@dataclass(frozen=True)
class Trajectories:
    """States at the start of a grid and where the exact flow takes them.

    Attributes:
        model: whose flow it is.
        first: (n, *shape) modal states at the first time.
        last: (n, *shape) exact states at the last time.
    """

    model: Denoiser
    first: Tensor
    last: Tensor


def follow(model: Denoiser, plan: Plan, z: Tensor) -> Tensor:
    """Walk a deterministic plan from the modal state z, keeping gradients."""
    process = plan.process
    steps = walk(plan.rows, z, modes=process.modes, history=plan.history)
    return answered(steps, lambda z, level: model.ask(z, level, plan.wants))


def distances(found: Tensor, exact: Tensor) -> Tensor:
    """Return each sample's root mean square distance."""
    return (found - exact).flatten(1).pow(2).mean(1).sqrt()


def loss_of(error: Tensor, tail: float) -> Tensor:
    """Return the mean log error mixed with the log of the worst tenth's mean."""
    worst = error.topk(max(1, round(_TAIL * len(error)))).values.mean()
    return (1 - tail) * error.clamp_min(1e-12).log().mean() + tail * worst.log()


def hats(steps: int, knots: int) -> Tensor:
    """Return (steps, knots) float64: the piecewise linear functions of `knots` even points."""
    at = torch.linspace(0, knots - 1, steps, dtype=torch.float64).unsqueeze(1)
    return (1 - (at - torch.arange(knots)).abs()).clamp_min(0)


def fit_grid(
    build: Build,
    tasks: Sequence[Trajectories],
    shares: Tensor,
    ends: tuple[float, float],
    *,
    weights: Sequence[float] | None = None,
    knots: int | None = None,
    iterations: int = 100,
    rate: float = 0.05,
    tail: float = 0.5,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """Fit the steps' shares of a grid to trajectories.

    Args:
        build: from process and times to a plan.
        tasks: trajectories of one process, all between the same ends.
        shares: (steps,) positive, the initial shares of the warp coordinate.
        ends: first and last time.
        weights: of the tasks' losses; None weighs them alike.
        knots: parameters of a smooth grid, whose log-shares are linear between so many points; None
            frees every share. Long grids need it: neighbouring steps of very unequal length make
            high orders amplify whatever is rough in a network.
        iterations: of Adam.
        rate: its first learning rate, decayed to a tenth.
        tail: weight of the worst tenth, 0 to 1.
        progress: called as progress(iteration, loss).

    Returns:
        (steps,) the best shares seen, summing to one.

    Cost: iterations * tasks runs of the plan with gradients, and as many builds of its tables.
    """
    process = tasks[0].model.process
    weight = torch.ones(len(tasks)) if weights is None else torch.tensor(weights)
    weight = weight / weight.sum()
    basis = hats(len(shares), min(knots or len(shares), len(shares)))
    start = shares.clamp_min(1e-6).log().to(basis).unsqueeze(1)
    free = torch.linalg.lstsq(basis, start).solution.squeeze(1).detach().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=rate, betas=(0.9, 0.95))
    decay = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / iterations))
    best, lowest = shares / shares.sum(), float("inf")
    for i in range(iterations):
        current = torch.softmax(basis @ free, 0)
        plan = build(process, grid_of_fractions(process, current, ends))
        losses = [
            loss_of(distances(follow(task.model, plan, task.first), task.last), tail)
            for task in tasks
        ]
        loss = torch.stack([value.cpu() for value in losses]) @ weight.to(losses[0].dtype)
        if float(loss.detach()) < lowest:
            best, lowest = current.detach().clone(), float(loss.detach())
        (free.grad,) = torch.autograd.grad(
            loss, [free]
        )  # the network's own gradients stay as they are
        torch.nn.utils.clip_grad_norm_([free], 1.0)
        optimiser.step()
        decay.step()
        if progress is not None:
            progress(i, float(loss.detach()))
    return best
