r"""The Frechet distance between Gaussians fitted to two sets of features.

$$d^2 = |m_x - m_y|^2 + \mathrm{tr}(S_x + S_y) - 2\,\| S_x^{1/2} S_y^{1/2} \|_*,$$

the squared 2-Wasserstein distance of N(m_x, S_x) and N(m_y, S_y). The last term, the sum of the
singular values, equals $\mathrm{tr}\,(S_x^{1/2} S_y S_x^{1/2})^{1/2}$, but takes no square root of a
number that rounding may have made negative: singular covariances (fewer samples than features) are
as good as any other. With the features of one particular network this is what others call FID; here
the features are yours, so figures compare only where features and numbers of samples agree.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from redrift._core.errors import whole

Features = Callable[[Tensor], Tensor]


def frechet(
    x: Tensor, y: Tensor, features: Features | None = None, *, batch_size: int = 500
) -> float:
    r"""Return the squared Frechet distance between Gaussian fits to x and y.

    Both fits are of finite samples, so the distance of two sets of one law is not 0 but about
    proportional to 1/n: read it beside `frechet_floor` of real samples of the same number.

    Args:
        x: (N, ...) samples, N >= 2.
        y: (M, ...) samples, M >= 2.
        features: map (B, ...) -> (B, F); None flattens.
        batch_size: samples given to the features at once.

    Returns:
        $d^2 \ge 0$, computed in float64.

    Raises:
        ValueError: if a set has fewer than two samples, the features disagree in shape, or are not
            finite.

    Cost: N + M features, three decompositions of F-by-F matrices.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> frechet(x, x + 3)
        9.0
    """
    mean_x, root_x = _fit("x", x, features, batch_size)
    mean_y, root_y = _fit("y", y, features, batch_size)
    if mean_x.shape != mean_y.shape:
        raise ValueError(
            f"x has {len(mean_x)} features and y {len(mean_y)}; use one map for both."
        )
    shared = torch.linalg.svdvals(root_x @ root_y).sum()
    total = (root_x**2).sum() + (root_y**2).sum()  # tr S is the sum of the squares of its root
    distance = (mean_x - mean_y).square().sum() + total - 2 * shared
    return max(0.0, float(distance))


def frechet_floor(
    x: Tensor,
    features: Features | None = None,
    *,
    size: int | None = None,
    strata: Tensor | None = None,
    splits: int = 8,
    batch_size: int = 500,
    generator: torch.Generator | None = None,
) -> float:
    """Return what `frechet` gives for real samples against other real samples.

    The mean over random splits of x into two disjoint sets: no sampler can be asked to be nearer.

    Args:
        x: (N, ...) real samples.
        features: map (B, ...) -> (B, F); None flattens.
        size: samples of each set, 2 to N // 2; None is N // 2. Use the number you sample.
        strata: (N,) labels that both sets share evenly, as samples do that are drawn with given
            labels; chance proportions would raise the floor.
        splits: how many splits are averaged.
        batch_size: samples given to the features at once.
        generator: of the splits; None is the global one.

    Raises:
        ValueError: if x is too small for two sets of that size.

    Cost: N features, three decompositions of F-by-F matrices a split.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> frechet_floor(torch.randn(2000, 2, generator=g), generator=g) < 0.02
        True
    """
    found = _mapped("x", x, features, batch_size)
    total = 0.0
    for _ in range(whole("splits", splits)):
        here, there = halves(len(x), size, strata, generator=generator)
        total += frechet(found[here.to(found.device)], found[there.to(found.device)])
    return total / splits


def halves(
    n: int,
    size: int | None = None,
    strata: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Split the indices 0 to n - 1 into two disjoint random sets.

    Args:
        n: how many there are.
        size: of each set, 2 to n // 2; None is n // 2.
        strata: (n,) labels; each is then shared by both sets in proportion, to about one sample.
        generator: of the split; None is the global one.

    Raises:
        ValueError: if n is too small, or the strata are not (n,).
    """
    size = whole("size", n // 2 if size is None else size, least=2, most=n // 2)
    order = torch.randperm(n, generator=generator)
    if strata is not None:
        if strata.shape != (n,):
            raise ValueError(f"strata must be ({n},), got {tuple(strata.shape)}.")
        order = order[strata.cpu()[order].argsort(stable=True)]
    # every second one of the order, thinned evenly: runs of equal labels stay in proportion
    pick = torch.arange(size) * (n // 2) // size
    return order[2 * pick], order[2 * pick + 1]


@torch.no_grad()
def _mapped(name: str, x: Tensor, features: Features | None, batch_size: int) -> Tensor:
    """Return the features of x, (N, F), float64."""
    if x.ndim < 1 or len(x) < 2:
        raise ValueError(f"{name} must hold at least two samples, got shape {tuple(x.shape)}.")
    if features is not None:
        x = torch.cat([features(part) for part in x.split(whole("batch_size", batch_size))])
    x = x.double().flatten(1) if x.ndim > 1 else x.double()[:, None]
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"the features of {name} are not finite.")
    return x


def _fit(
    name: str, x: Tensor, features: Features | None, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return the mean (F,) and the symmetric root (F, F) of the covariance of the features."""
    x = _mapped(name, x, features, batch_size)
    mean = x.mean(0)
    x = x - mean
    values, vectors = torch.linalg.eigh(x.T @ x / (len(x) - 1))
    return mean, (vectors * values.clamp_min(0).sqrt()) @ vectors.T
