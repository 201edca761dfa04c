r"""The twisting function psi: a backward pass that says how to steer noise so that paths meet the data.

psi_k(x) ~ E[prod_{j >= k} exp l_j | x_k = x] is kept as exp(c + eta' xi - xi' Lam xi / 2) in the
coordinates xi of x around a nominal path. Backward, with xi' = F xi + a + G eps:

    measurement    Lam += -l'',  eta += l',  c += l                    (at the nominal point)
    step           S = (I + G' Lam G)^-1,  A = Lam - Lam G S G' Lam,  v = eta - Lam G S G' eta
                   c += log det S / 2 + eta' G S G' eta / 2 - a' A a / 2 + a' v
                   eta = F' (v - A a),  Lam = F' A F

Forward, the noise of a step is N(mu, S) with mu = S G' (eta - Lam xi), xi the coordinates of f(x): a
linear feedback, the optimal control of the linearised window. For linear-Gaussian models this is exact:
all paths then weigh the same. Nothing inverts the covariance of a step, so noise on the velocity alone
is no obstacle. For other models `ilqr` improves the nominal path.

Paper: path-integral particle filtering, arXiv:2110.03199; derived here from the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from redrift.pathintegral.window import Window
from redrift.statespace.columns import matvec
from redrift.statespace.jacobian import jacobian
from redrift.statespace.model import StateSpace
from redrift.statespace.prior import GaussianPrior
from redrift.statespace.space import Space


@dataclass(frozen=True, eq=False)
class TwistingFunction:
    """Hold psi at a window's start, and the control: eps = gain - feedback xi + root z at each step.

    Attributes:
        base: nominal path (W + 1, B, n, *point); n is 1 (shared) or one per particle.
        gain: (W, B, n, m).
        feedback: (W, b, n, m, d), b is B or 1.
        root: (W, b, n, m, m), or None for the identity.
        log_det: log|det root| (W, b, n).
        curvature: Lam of psi at the window's start (b, n, d, d).
        slope: eta there (B, n, d).
        value: c there (B, n).
    """

    base: Tensor
    gain: Tensor
    feedback: Tensor
    root: Tensor | None
    log_det: Tensor
    curvature: Tensor
    slope: Tensor
    value: Tensor

    def log_psi(self, model: StateSpace, x: Tensor) -> Tensor:
        """Return log psi at the start, (B, N), of states (B, N, *point)."""
        xi = model.space.local(self.base[0], x)
        return (matvec(self.curvature, xi).mul(-0.5).add(self.slope) * xi).sum(-1) + self.value

    def control(self, k: int, space: Space, ahead: Tensor) -> Tensor:
        """Return the mean of the noise of step k, for its noise-free ends (B, N, *point)."""
        return self.gain[k] - matvec(self.feedback[k], space.local(self.base[k + 1], ahead))

    def reindex(self, index: Tensor) -> TwistingFunction:
        """Return the twisting functions of selected particles, index (B, N)."""

        def pick(v: Tensor | None, lead: int) -> Tensor | None:
            if v is None or v.shape[lead + 1] == 1:
                return v
            wide = v.expand(*v.shape[:lead], len(index), *v.shape[lead + 1 :])
            at = index.reshape(*[1] * lead, *index.shape, *[1] * (v.ndim - lead - 2))
            shape = (*v.shape[:lead], *index.shape, *v.shape[lead + 2 :])
            return wide.gather(lead + 1, at.expand(shape))

        steps = (self.base, self.gain, self.feedback, self.root, self.log_det)
        start = (self.curvature, self.slope, self.value)
        picked = (*(pick(v, 1) for v in steps), *(pick(v, 0) for v in start))
        return TwistingFunction(*picked)  # pyright: ignore[reportArgumentType]


def twisted_noise(curvature: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return S = (I + G' Lam G)^-1, a root of it, and the log of that root's determinant."""
    inner = G.mT @ curvature @ G
    if inner.shape[-1] == 1:
        S = 1 / (1 + inner)
        root = S.sqrt()
        return S, root, root[..., 0, 0].log()
    inner = inner + torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    lower = torch.linalg.cholesky_ex(inner)[0]
    eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    root = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False).mT
    return root @ root.mT, root, -lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@dataclass(frozen=True, eq=False)
class LinearSteps:
    """Hold the linearised steps xi' = F xi + a + G eps around a nominal path, each of W."""

    F: Tensor
    a: Tensor
    G: Tensor


def linearise(window: Window, base: Tensor) -> LinearSteps:
    """Return the steps around a nominal path (W + 1, B, n, *point)."""
    model, space = window.model, window.model.space
    start, h = window.clock(base)
    if model.affine:
        made = [model.matrices(b - a, base) for a, b in zip(window.times, window.times[1:])]  # noqa: B905
        F, offset, G = (torch.stack(m) for m in zip(*made, strict=True))
        F, G = (m.reshape(len(m), -1, 1, *m.shape[-2:]) for m in (F, G))
        moved = (F @ base[:-1].unsqueeze(-1)).squeeze(-1) + offset.reshape(
            len(F), -1, 1, model.dim
        )
        return LinearSteps(F, moved - base[1:], G)
    origin = base.new_zeros(*base[:-1].shape[: base.ndim - space.axes], model.dim)

    def step(xi: Tensor) -> Tensor:
        return space.local(base[1:], model.advance(space.retract(base[:-1], xi), start, h))

    a, F = jacobian(step, origin)
    G = model.root(base[:-1], start, h)
    if G.ndim == 2:
        G = G.expand(window.steps, 1, 1, *G.shape)
    return LinearSteps(F, a, G)


def backward(
    window: Window, base: Tensor, steps: LinearSteps, twist: bool = True
) -> TwistingFunction:
    """Return psi and its control by the recursion above, around a nominal path (W + 1, B, n, *point)."""
    form, at = window.quadratic(base), {p: j for j, p in enumerate(window.places)}
    d = steps.F.shape[-1]
    Lam = base.new_zeros(1, 1, d, d)
    eta = base.new_zeros(1, 1, d)
    c = base.new_zeros(1, 1)
    gains, feedbacks, roots, dets = [], [], [], []
    for k in range(window.steps, 0, -1):
        if form is not None and k in at:
            j = at[k]
            curvature = form.curvature if form.curvature.ndim < 5 else form.curvature[j]
            Lam, eta, c = Lam + curvature, eta + form.slope[j], c + form.value[j]
        F, a, G = steps.F[k - 1], steps.a[k - 1], steps.G[k - 1]
        S, root, log_det = twisted_noise(Lam, G)
        GL = G.mT @ Lam
        feedback = S @ GL
        Ge = matvec(G.mT, eta)
        gain = matvec(S, Ge)
        gains.append(gain)
        feedbacks.append(feedback)
        roots.append(root)
        dets.append(log_det)
        A = Lam - GL.mT @ feedback
        v = eta - matvec(GL.mT, gain)
        Aa = matvec(A, a)
        c = c + log_det + 0.5 * (Ge * gain).sum(-1) + (a * (v - 0.5 * Aa)).sum(-1)
        eta = matvec(F.mT, v - Aa)
        Lam = F.mT @ A @ F
        Lam = 0.5 * (Lam + Lam.mT)
    back = [
        torch.stack(torch.broadcast_tensors(*v[::-1])) for v in (gains, feedbacks, roots, dets)
    ]
    if not twist:
        back[2], back[3] = None, torch.zeros_like(back[3])  # pyright: ignore
    return TwistingFunction(base, *back, Lam, eta, c)  # pyright: ignore


class GaussianStart:
    """The first state of a window as noise step 0: x = retract(mean, G0 eps), eps ~ N(0, I).

    Args:
        mean: (B, n, *point) or broadcastable.
        root: G0 (..., d, d).
    """

    def __init__(self, mean: Tensor, root: Tensor) -> None:
        self.mean = mean
        self.root = root if root.ndim > 2 else root[None, None]
        if self.root.ndim == 3:
            self.root = self.root.unsqueeze(1)

    @classmethod
    def of(cls, model: StateSpace, batch: int, like: Tensor) -> GaussianStart:
        """Return the start of a model whose first state is Gaussian."""
        first: GaussianPrior = model.initial  # pyright: ignore[reportAssignmentType]
        return cls(first.means(batch, model.space.axes, like), first.root.to(like))

    def steer(self, model: StateSpace, psi: TwistingFunction) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean (B, n, d), root and log-determinant of the noise that psi twists."""
        S, root, log_det = twisted_noise(psi.curvature, self.root)
        xi = model.space.local(psi.base[0], self.mean)
        pull = psi.slope - matvec(psi.curvature, xi)
        return matvec(S, matvec(self.root.mT, pull)), root, log_det
