r"""The log-Gaussian Cox process: 1600 correlated log-intensities of a point pattern.

$f \sim N(\mu, K)$ on a 40 x 40 grid, $K_{ij} = 1.91 \exp(-33\,|i - j| / 40)$ in units of one cell,
$\mu = \log 126 - 1.91 / 2$, counts $y_i \sim Poisson(a e^{f_i})$, a = 1/1600, without the y! term.

The reference log Z is 501.78 +- 0.09, by annealed importance sampling from the Laplace
approximation. The 512.6 that is sometimes quoted as truth is 11 nats too high: it is close to the
Laplace approximation itself (511.2).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from redrift.targets.base import Affine, Target

_VARIANCE, _DECAY = 1.91, 33.0


class Cox(Target):
    """Weigh log-intensities f (B, side^2) by a point pattern.

    Args:
        points: (N, 2) in the unit square.
        side: cells along an edge; the reference log Z is for 126 Finnish pines at 40.
        log_z: reference value.
        log_z_error: its standard error.

    Cost: one triangular product of side^2 by side^2 a point, less in `whitened`.
    """

    name = "cox"

    def __init__(
        self,
        points: Tensor,
        side: int = 40,
        *,
        log_z: float | None = None,
        log_z_error: float = 0.0,
    ) -> None:
        if (
            points.ndim != 2
            or points.shape[1] != 2
            or not bool(((points >= 0) & (points <= 1)).all())
        ):
            raise ValueError(
                f"points must be (N, 2) in the unit square, got {tuple(points.shape)}."
            )
        self.side, self.dim = side, side * side
        cells = (points.double() * side).long().clamp(max=side - 1)
        self.counts = torch.bincount(cells[:, 0] * side + cells[:, 1], minlength=self.dim).double()
        i = torch.arange(side, dtype=torch.float64)
        grid = torch.cartesian_prod(i, i)
        gap = (grid[:, None] - grid).norm(dim=-1)
        self.cov = _VARIANCE * torch.exp(-_DECAY * gap / side)
        self.chol = torch.linalg.cholesky(self.cov)
        self.mean = math.log(len(points)) - _VARIANCE / 2
        self.area = 1 / self.dim
        self.log_z, self.log_z_error = log_z, log_z_error
        self._normaliser = -self.dim * math.log(2 * math.pi) / 2 - float(
            self.chol.diagonal().log().sum()
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density (B,)."""
        white = self._white(x)
        return self.log_likelihood(x) - white.square().sum(-1) / 2 + self._normaliser

    def score(self, x: Tensor) -> Tensor:
        """Return its gradient (B, dim)."""
        root = self.chol.to(x)
        pull = torch.linalg.solve_triangular(root.T, self._white(x).T, upper=True).T
        return self.counts.to(x) - self.area * x.exp() - pull

    def log_likelihood(self, f: Tensor) -> Tensor:
        """Return log p(y | f) without the y! term."""
        return (f * self.counts.to(f) - self.area * f.exp()).sum(-1)

    def _white(self, x: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.chol.to(x), (x - self.mean).T, upper=False).T

    def gaussian(self, kind: str = "variational") -> tuple[Tensor, Tensor]:
        r"""Return loc (dim,) and scale (dim, dim) of a Gaussian approximation N(loc, scale scale').

        "prior" is the prior; "laplace" the mode and the curvature there; "variational" the Gaussian
        nearest in KL(q || p), whose precision is the mean curvature, $K^{-1} + diag(a E_q e^f)$,
        by fixed-point iteration in closed form.

        Raises:
            ValueError: for another kind.

        Cost: about 20 Cholesky factors of dim by dim.
        """
        if kind not in ("prior", "laplace", "variational"):
            raise ValueError(f"kind={kind!r} is not known: prior, laplace or variational.")
        eye = torch.eye(self.dim, dtype=torch.float64)
        loc, spread = torch.full((self.dim,), self.mean, dtype=torch.float64), 0.0
        if kind == "prior":
            return loc, self.chol
        white = torch.zeros(self.dim, dtype=torch.float64)
        inner = eye
        for _ in range(30):
            loc = self.mean + self.chol @ white
            rate = self.area * torch.exp(loc + spread / 2)
            precision = eye + self.chol.T @ (rate[:, None] * self.chol)
            inner = torch.linalg.cholesky(precision)
            grad = self.chol.T @ (self.counts - rate) - white
            step = torch.cholesky_solve(grad[:, None], inner)[:, 0]
            white = white + step
            if kind == "variational":
                root = torch.linalg.solve_triangular(inner, self.chol.T, upper=False)
                spread = root.square().sum(0)
            if float(step.norm()) < 1e-7:
                break
        # precision = inner inner', so inner'^-1 is a root of its inverse
        turn = torch.linalg.solve_triangular(inner.T, eye, upper=True)
        return self.mean + self.chol @ white, self.chol @ turn

    def whitened(self, kind: str = "variational") -> Affine:
        """Return the target in the coordinates z of `gaussian`, x = loc + scale z."""
        return WhitenedCox(self, *self.gaussian(kind))


class WhitenedCox(Affine):
    """The Cox process in white coordinates; the prior's quadratic form is one product."""

    inner: Cox

    def __post_init__(self) -> None:
        """Fold the prior's whitening into the scale."""
        super().__post_init__()
        solve = torch.linalg.solve_triangular
        root = self.inner.chol
        object.__setattr__(self, "_bend", solve(root, self.scale, upper=False))
        shift = solve(root, (self.loc - self.inner.mean)[:, None], upper=False)[:, 0]
        object.__setattr__(self, "_shift", shift)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of z (B,)."""
        white = x @ self._bend.to(x).T + self._shift.to(x)  # pyright: ignore
        inner = self.inner
        volume = self._volume + inner._normaliser  # pyright: ignore
        return inner.log_likelihood(self.out(x)) - white.square().sum(-1) / 2 + volume

    def score(self, x: Tensor) -> Tensor:
        """Return its gradient (B, dim)."""
        bend = self._bend.to(x)  # pyright: ignore
        white = x @ bend.T + self._shift.to(x)  # pyright: ignore
        f = self.out(x)
        pull = self.inner.counts.to(x) - self.inner.area * f.exp()
        return pull @ self.scale.to(x) - white @ bend


def pines(path: str | os.PathLike[str]) -> Cox:
    """Return the Cox process of 126 Finnish pine saplings, d = 1600, log Z = 501.78 +- 0.09.

    Args:
        path: of a CSV file with a header and three columns: row, x, y in the unit square (the
            point pattern `finpines` of R's spatstat, rescaled, as samplers' benchmarks ship it).

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it does not hold 126 points of the unit square.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: give the pines' coordinates as CSV.")
    rows = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()[1:] if line]
    try:
        points = torch.tensor([[float(v) for v in row[1:3]] for row in rows], dtype=torch.float64)
    except ValueError as error:
        raise ValueError(f"{file} is not a table of numbers: {error}.") from error
    if points.shape != (126, 2):
        raise ValueError(
            f"{file} holds a table {tuple(points.shape)}, expected 126 points (x, y)."
        )
    return Cox(points, log_z=501.78, log_z_error=0.09)
