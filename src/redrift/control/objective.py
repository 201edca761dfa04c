r"""Objectives for a control, on simulated paths or on bridges to given samples.

| loss | on | minimum |
|---|---|---|
| kl | differentiated paths | $KL(Q_u \| Q^*) - \log Z$, the paper's |
| kl-stl | the same, density held fixed | the same, with a gradient that vanishes at the optimum |
| lv | any detached paths | Var log w = 0 |
| tb | any detached paths | E (log w - c)^2 = 0, c learned, an estimate of log Z |
| am | own samples, bridges | $b = E[\nabla \log(\mu/\mu_0)(y)]$, adjoint matching |
| bm | samples of the target, bridges | $b = E[(y - \psi x)/c]$, bridge matching |
| mixed | samples of the target, bridges | the mix of both of least variance, and the step's variance |

`mixed` uses that both targets have the same mean under the optimal measure (Stein) and opposite errors:
for one Gaussian of variance s^2 the mix with share s^2 / (s^2 + c) of the gradient has none at all. The
share is learned per step and coordinate. The step's variance is fitted by the likelihood of the next
state, with that state integrated out.

Paper: Path Integral Sampler, arXiv:2111.15141 (kl); Richter and Berner, arXiv:2307.01198 (lv); Havens et
al., arXiv:2504.11713 (am); De Bortoli et al., arXiv:2402.08667 (mixing the two targets).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from redrift._core.rng import normal
from redrift.control.nets import Control
from redrift.control.problem import ControlProblem

SIMULATED = ("kl", "kl-stl", "lv", "tb")
BRIDGED = ("am", "bm", "mixed")


class NetDrift:
    """Turn a network into the drift of a problem.

    Args:
        problem: whose gradient the network sees, evaluated once a step.
        net: the network.
        detach: keep no graph through the target's gradient (no second derivatives of it).
        record: keep the gradients g of each step in `seen`.
    """

    def __init__(
        self, problem: ControlProblem, net: Control, *, detach: bool = True, record: bool = False
    ) -> None:
        self.problem, self.net, self.detach, self.record = problem, net, detach, record
        self.time, self.gate = net.at()
        self.std_left = problem.reference.c.sqrt().tolist()
        self.seen: list[Tensor] = []
        self.cost: Tensor | float = 0.0

    def __call__(self, k: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return b and log S / q at step k."""
        g = None
        if self.net.gradient:
            g = self.problem.ratio_score(x.detach() if self.detach else x)
            if self.record:
                self.seen.append(g)
        return self.net((self.time[k], self.gate[k]), x, g, self.std_left[k])


class CostDrift(NetDrift):
    """Also add up KL(step of Q || step of P), in closed form: the control's cost without Ito term."""

    def __call__(self, k: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return b and log S / q, adding the step's cost."""
        b, log_s = super().__call__(k, x)
        cost = (float(self.problem.reference.gain[k]) * b).square()
        if log_s is not None:
            cost = cost + torch.expm1(log_s) - log_s
        self.cost = self.cost + cost.sum(-1) / 2
        return b, log_s


def path_log_weight(
    problem: ControlProblem, net: nn.Module, path: Tensor, seen: list[Tensor] | None = None
) -> Tensor:
    """Return log w (B,) of given paths (N + 1, B, dim) under the net: one batched evaluation.

    Args:
        problem: of the paths.
        net: a `Control`.
        path: states, attached or not.
        seen: gradients g at the states, if they are known already.
    """
    assert isinstance(net, Control)
    chain = problem.reference
    x, y = path[:-1], path[1:]
    flat = x.reshape(-1, problem.dim)
    g = None
    if net.gradient:
        g = torch.stack(seen) if seen else problem.ratio_score(flat).reshape(x.shape)
    shape = (-1, 1, 1)
    a, q, gain, std_left = (
        v.to(x).reshape(shape) for v in (chain.a, chain.q.sqrt(), chain.gain, chain.c[:-1].sqrt())
    )
    time, gate = net.at()
    b, log_s = net((time[:, None], gate[:, None]), x, g, std_left)
    xi, u = (y - a * x) / q, gain * b
    if log_s is None:
        gained = -(u * (xi - u / 2)).sum((0, 2))
    else:
        eta = (xi - u) * torch.exp(-log_s / 2)
        gained = ((eta - xi) * (eta + xi) + log_s).sum((0, 2)) / 2
    return gained + problem.log_density_ratio(path[-1])


def simulated_loss(
    kind: str,
    problem: ControlProblem,
    net: Control,
    batch: int,
    *,
    constant: Tensor,
    explore: float = 0.0,
    detach: bool = True,
    checkpoint: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, and the final states and log-weights of the paths it was made on.

    Args:
        kind: of `SIMULATED`.
        problem: to solve.
        net: to train.
        batch: paths.
        constant: learned estimate of log Z, (), of "tb".
        explore: standard deviation that the paths add to the noise, a share of its own ("lv", "tb").
        detach: see `NetDrift` ("kl", "kl-stl").
        checkpoint: recompute steps on the way back ("kl", "kl-stl").
        generator: one, or None.
    """
    dtype = net.last.weight.dtype
    if kind in ("kl", "kl-stl"):
        drift = (CostDrift if kind == "kl" else NetDrift)(problem, net, detach=detach)
        x, log_w, path = problem.simulate(
            drift, batch, dtype=dtype, path=kind != "kl", checkpoint=checkpoint and kind != "kl",
            generator=generator,
        )  # fmt: skip
        if kind == "kl":
            return (drift.cost - problem.log_density_ratio(x)).mean(), x, log_w
        assert path is not None
        fixed = {name: value.detach() for name, value in net.state_dict(keep_vars=True).items()}
        held = functional_call(
            _Held(problem, net, path), {f"net.{k}": v for k, v in fixed.items()}
        )
        return -held.mean(), x, log_w
    with torch.no_grad():
        drift = NetDrift(problem, net, record=net.gradient)
        walked = drift if not explore else _wider(drift, explore)
        x, log_w, path = problem.simulate(
            walked, batch, dtype=dtype, path=True, generator=generator
        )
        assert path is not None
    log_w = path_log_weight(problem, net, path, drift.seen)
    usable = log_w[torch.isfinite(log_w)]
    if len(usable) < 2:
        raise ValueError(
            "fewer than two paths ended where log_prob is finite: start from a wider reference or "
            "a log_prob that falls off instead of dropping to -inf."
        )
    middle = usable.detach().mean() if kind == "lv" else constant
    return _robust(usable - middle), x, log_w.detach()


class _Held(nn.Module):
    def __init__(self, problem: ControlProblem, net: Control, path: Tensor) -> None:
        super().__init__()
        self.problem, self.net, self.path = problem, net, path

    def forward(self) -> Tensor:
        return path_log_weight(self.problem, self.net, self.path)


def _wider(drift: NetDrift, explore: float):  # noqa: ANN202
    def wide(k: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        b, log_s = drift(k, x)
        more = 2 * torch.log1p(torch.tensor(explore, dtype=x.dtype))
        return b, (torch.zeros_like(b) if log_s is None else log_s) + more

    return wide


def _robust(gap: Tensor) -> Tensor:
    """Return the mean square of the gaps, linear beyond three standard deviations."""
    limit = 3 * gap.detach().std() + 1e-12
    size = gap.abs()
    return torch.where(size < limit, size * size, limit * (2 * size - limit)).mean()


def bridged_loss(
    kind: str,
    problem: ControlProblem,
    net: Control,
    terminal: Tensor,
    g: Tensor,
    mixing: Tensor,
    tables: dict[str, Tensor],
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss of one batch of bridge points.

    Args:
        kind: of `BRIDGED`.
        problem: to solve.
        net: to train.
        terminal: y (B, dim).
        g: gradient of log(mu / mu_0) at y, clipped (B, dim).
        mixing: learned logits of the gradient's weight in the mix, (N, dim) ("mixed").
        tables: of `bridge_tables`.
        generator: one, or None.
    """
    n = problem.reference.steps
    each = len(terminal) // n
    # every step equally often, so that time enters by broadcasting; or a few steps, drawn
    k = slice(None) if each else torch.randperm(n, generator=generator)[: len(terminal)]
    each = max(1, each)
    steps = n if isinstance(k, slice) else len(k)
    terminal, g = (v[: steps * each].reshape(steps, each, -1) for v in (terminal, g))
    names = ("mean", "std", "psi", "c", "gain", "weight")
    mean, std, psi, c, gain, weight = (tables[name][k, None] for name in names)
    x = mean * terminal + std * normal(terminal.shape, generator, dtype=terminal.dtype)
    seen = None
    if net.gradient:
        seen = problem.ratio_score(x.reshape(-1, problem.dim)).reshape(x.shape)
    time, gate = net.at()
    b, log_s = net((time[k, None], gate[k, None]), x, seen, c.sqrt())
    bridge_drift = (terminal - psi * x) / c
    if kind == "am":
        target = g
    elif kind == "bm":
        target = bridge_drift
    else:
        part = torch.sigmoid(mixing[k, None])
        target = part * g + (1 - part) * bridge_drift
    error = gain * (b - target)
    if log_s is None:
        return _capped(error.square().sum(-1) * weight[..., 0])
    scale = torch.exp(-log_s)
    # the next state's squared noise, averaged given x and y
    second = 1 - gain**2 / c + (gain * (b.detach() - bridge_drift)).square()
    fit = (second * scale + log_s).sum(-1) / 2
    lead = (error.square() * scale.detach()).sum(-1) * weight[..., 0]
    return _capped(lead) + fit.clamp(max=50.0 * problem.dim).mean()


def bridge_tables(problem: ControlProblem, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the columns (N, 1) that `bridged_loss` looks up."""
    chain = problem.reference
    mean, std = chain.bridge()
    gain2 = chain.gain**2
    columns = {
        "mean": mean[:-1],
        "std": std[:-1],
        "psi": chain.psi[:-1],
        "c": chain.c[:-1],
        "gain": chain.gain,
        # between equal weight of all steps in KL (1) and equal relative error (c / gain^2)
        "weight": (chain.c[:-1] / gain2) ** 0.5,
    }
    return {name: value.to(dtype)[:, None] for name, value in columns.items()}


def _capped(losses: Tensor) -> Tensor:
    """Return the mean, with the largest losses of a batch held to 20 times the typical one."""
    limit = 20 * losses.detach().mean()
    return torch.where(losses < limit, losses, limit + (losses - limit) * 0.1).mean()
