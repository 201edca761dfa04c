r"""Resampling: ancestors drawn so that particle i has n W_i offspring on average.

`adaptive_resample` is what every engine of particles calls after a step: it resamples the sets whose
effective sample size has fallen below a share of the particles, and leaves the others as they are.

All four methods are unbiased, E[offspring_i] = n W_i with W the normalised weights, and differ in
the spread around it. They place n points u in [0, 1) on the cumulated weights: multinomial draws
them freely, stratified one in each n-th of the interval, systematic all with one common offset;
residual first gives floor(n W_i) offspring and draws only the rest freely.

Paper: Douc, Cappe and Moulines (2005), Comparison of resampling schemes for particle filtering;
Gerber, Chopin and Whiteley (2019), Negative association, ordering and convergence of resampling
methods, arXiv:1707.01845. Resampling by effective sample size: Liu and Chen (1995), Blind deconvolution
via sequential imputations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from redrift._core.errors import choose, whole
from redrift._core.rng import Generators, uniform

_MANY = 500  # teeth from which counting is faster than searching


def systematic(log_w: Tensor, n: int, generator: Generators = None) -> Tensor:
    """Draw n ancestors on one randomly shifted comb: each has floor or ceil of n W_i offspring.

    Args:
        log_w: log-weights (..., N), unnormalised, -inf allowed.
        n: offspring in all.
        generator: one, one per row of the leading axes, or None.

    Returns:
        Indices (..., n) into the last axis, ascending.

    Raises:
        ValueError: if a row has no weight at all, or NaN, or +inf.
    """
    rows, w = _rows(log_w, n)
    shift = uniforms(len(w), 1, w, generator).clamp(margin(n), 1 - margin(n))
    return comb(w, n, shift).reshape(*rows, n)


def margin(n: int) -> float:
    """Return the distance from 0 and 1 within which float64 rounding could move one of n teeth."""
    return 4 * n * torch.finfo(torch.float64).eps


def comb(w: Tensor, n: int, shift: Tensor) -> Tensor:
    """Return the particle under each tooth (k + shift) / n of a comb over cumulated weights.

    Args:
        w: float64 weights (rows, N), at least 0, some above 0; they need not sum to 1.
        n: teeth.
        shift: (rows, 1), at least `margin(n)` away from 0 and 1.

    Returns:
        Indices (rows, n), ascending, never one of weight 0.

    Cost:
        O(N + n) where both are many, by counting the teeth below each cumulated weight.
    """
    if n < _MANY:
        return _invert(w, (torch.arange(n, device=w.device) + shift) / n)
    rows, cumulated = w.shape[0], w.cumsum(-1)
    # the margins of the shift exceed the rounding: below the last weight lie n teeth, never more
    below = (cumulated / (cumulated.narrow(1, -1, 1) / n)).sub_(shift).ceil_().long()
    if rows > 1:
        below += torch.arange(0, rows * (n + 1), n + 1, device=w.device).unsqueeze(-1)
    passed = torch.bincount(below.view(-1), minlength=rows * (n + 1)).view(rows, n + 1)
    return passed[:, :n].cumsum(-1)


def stratified(log_w: Tensor, n: int, generator: Generators = None) -> Tensor:
    """Draw n ancestors, one in each n-th of the cumulated weight; arguments as `systematic`."""
    rows, w = _rows(log_w, n)
    points = (torch.arange(n, device=w.device) + uniforms(len(w), n, w, generator)) / n
    return _invert(w, points).reshape(*rows, n)


def multinomial(log_w: Tensor, n: int, generator: Generators = None) -> Tensor:
    """Draw n independent ancestors; arguments as `systematic`, and ascending as there."""
    rows, w = _rows(log_w, n)
    points = uniforms(len(w), n, w, generator).sort(-1).values
    return _invert(w, points).reshape(*rows, n)


def residual(log_w: Tensor, n: int, generator: Generators = None) -> Tensor:
    """Give each particle floor(n W_i) offspring and draw the rest freely, by the remainders.

    Arguments as `systematic`; the free ones follow the fixed ones, so not ascending.
    """
    rows, w = _rows(log_w, n)
    # A product that rounding left just below a whole number is that number.
    counts = (n * w + 1e-9).floor()
    remainder = (n * w - counts).clamp(min=0)
    fixed = counts.cumsum(-1)
    slots = torch.arange(n, dtype=w.dtype, device=w.device).expand(len(w), n).contiguous()
    given = torch.searchsorted(fixed, slots, right=True)
    none_left = remainder.sum(-1, keepdim=True) == 0
    drawn = _invert(torch.where(none_left, w, remainder), uniforms(len(w), n, w, generator))
    return torch.where(slots < fixed[:, -1:], given, drawn).reshape(*rows, n)


METHODS: dict[str, Callable[[Tensor, int, Generators], Tensor]] = {
    "systematic": systematic,
    "stratified": stratified,
    "multinomial": multinomial,
    "residual": residual,
}


def resample(
    log_w: Tensor, n: int, method: str = "systematic", generator: Generators = None
) -> Tensor:
    """Draw n ancestors (..., n) by the named method: a key of `METHODS`."""
    return METHODS[choose("method", method, METHODS)](log_w, n, generator)


class Resampled(NamedTuple):
    """Hold what adaptive resampling did to sets of N particles.

    Attributes:
        log_w: log-weights after it (..., N): equal within a set that was resampled, with the mean
            weight it had before.
        ancestors: (..., N) index of the particle that each one now continues, itself in the sets that
            were left alone; None where no set was resampled.
        sets: how many sets were resampled.
    """

    log_w: Tensor
    ancestors: Tensor | None = None
    sets: int = 0


def adaptive_resample(
    log_w: Tensor,
    ess_threshold: float = 0.5,
    method: str = "systematic",
    generator: Generators = None,
    *,
    always_draw: bool = False,
    normalised: bool = False,
) -> Resampled:
    """Resample the sets of particles whose effective sample size is below a share of the particles.

    Args:
        log_w: log-weights (..., N), one set of N particles for each index of the leading axes.
        ess_threshold: resample a set below ess_threshold * N, in [0, 1]: 0 never, 1 always.
        method: "systematic", "stratified", "multinomial" or "residual".
        generator: one, one per set of the leading axes, or None.
        always_draw: draw random numbers for every set even where none is resampled, so that the numbers
            of a set do not depend on the weights of the others.
        normalised: the weights of each set are sound and sum to one: nothing is checked, the mean weight
            is 1 / N to the bit, and systematic offsets are drawn in one operation (other numbers).

    Raises:
        ValueError: for an unknown method, or (unless normalised) a set without any weight, NaN or +inf.

    Example:
        >>> log_w = torch.tensor([[0.0, 0.0], [0.0, -50.0]])
        >>> adaptive_resample(log_w, 0.9).ancestors
        tensor([[0, 1],
                [0, 0]])
    """
    n = log_w.shape[-1]
    if normalised:
        w = log_w.exp()
    else:
        require_weight(log_w)
        w = log_w.detach().softmax(-1)
    norm = torch.linalg.vector_norm(w, dim=-1)  # 1 / sqrt(N * effective_share)
    norms, enough = norm.flatten().tolist(), _enough(n, ess_threshold)
    low = max(norms) > enough
    if not low and not always_draw:
        return Resampled(log_w)
    if normalised:
        rows = w if w.ndim == 2 else w.reshape(-1, n)
        drawn = ancestors(rows, n, method, generator)
        drawn = drawn if w.ndim == 2 else drawn.view(w.shape)
        mean = torch.full_like(log_w, -math.log(n))
    else:
        drawn = resample(log_w, n, method, generator)
        mean = (log_w.logsumexp(-1, keepdim=True) - math.log(n)).expand_as(log_w)
    if not low:
        return Resampled(log_w)
    if min(norms) > enough:
        return Resampled(mean, drawn, len(norms))
    which = norm > enough
    keep = torch.arange(n, device=drawn.device)
    drawn = torch.where(which[..., None], drawn, keep)
    return Resampled(torch.where(which[..., None], mean, log_w), drawn, int(which.sum()))


def _enough(n: int, ess_threshold: float) -> float:
    """Return the norm of normalised weights up to which n particles are kept."""
    if ess_threshold <= 0:
        return math.inf
    return 1 / math.sqrt(n * ess_threshold) if ess_threshold < 1 else -math.inf


def check_ess_threshold(value: float) -> float:
    """Return a threshold of the effective sample size, a share of the particles.

    Raises:
        ValueError: unless it is in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(
            f"ess_threshold must be a share of the particles in [0, 1], got {value}: 0 never "
            "resamples, 1 always."
        )
    return float(value)


def effective_share(w: Tensor) -> Tensor:
    """Return the effective sample size (...) of weights (..., N) that sum to 1, as a share of N.

    It is 1 / (N sum w^2), in [1/N, 1].
    """
    return torch.linalg.vecdot(w, w).mul(w.shape[-1]).reciprocal().clamp(max=1)


def ancestors(w: Tensor, n: int, method: str, generator: Generators) -> Tensor:
    """Draw n ancestors (rows, n) by weights (rows, N) known to be finite, with some above 0 in each row.

    They need not sum to 1. Systematic offsets are drawn in one operation, as by `shifts`.
    """
    if method == "systematic":
        return comb(w, n, shifts(w.shape[0], n, w, generator))
    return resample(w.log(), n, method, generator)


def require_weight(log_w: Tensor) -> None:
    """Refuse weights (..., N) that cannot be normalised.

    Raises:
        ValueError: if a row holds NaN or +inf, or nothing but -inf.
    """
    if log_w.ndim == 0 or log_w.shape[-1] == 0:
        raise ValueError(
            f"log_w has shape {tuple(log_w.shape)}, expected (..., N) with N >= 1: one log-weight "
            "per particle on the last axis."
        )
    top = log_w.amax(-1)
    if top.isnan().any() or (top == torch.inf).any():
        raise ValueError(
            "log_w holds NaN or +inf: a density returned it, or a state is not finite. Look for "
            "it where log_w is made; the log of a weight 0 is -inf, which is welcome here."
        )
    empty = top == -torch.inf
    if empty.any():
        raise ValueError(
            f"all log-weights are -inf in {int(empty.sum())} of {empty.numel()} sets: no particle "
            "has any weight, so nothing can be normalised or resampled. Use more particles, a "
            "proposal that reaches the support of the target, or a log-density that falls off "
            "instead of dropping to -inf."
        )


def _rows(log_w: Tensor, n: int) -> tuple[torch.Size, Tensor]:
    """Return the leading axes and normalised weights (rows, N) in float64."""
    whole("n", n)
    require_weight(log_w)
    flat = log_w.detach().reshape(-1, log_w.shape[-1])
    return log_w.shape[:-1], flat.double().softmax(-1)


def uniforms(rows: int, n: int, like: Tensor, generator: Generators) -> Tensor:
    """Draw uniform numbers (rows, n) of the dtype and device of `like`."""
    return uniform((rows, n), generator, dtype=like.dtype, device=like.device)


def shifts(rows: int, n: int, like: Tensor, generator: Generators) -> Tensor:
    """Draw shifts (rows, 1) for a `comb` of n teeth by one operation, where `uniforms` takes five.

    Raises:
        ValueError: if the rows cannot be shared out evenly among the generators.
    """
    if generator is None or isinstance(generator, torch.Generator):
        source = like.device if generator is None else generator.device
        drawn = torch.empty(rows, 1, dtype=like.dtype, device=source)
        least = margin(n)
        return drawn.uniform_(least, 1 - least, generator=generator).to(like.device)
    each, rest = divmod(rows, max(len(generator), 1))
    if rest or not generator:
        raise ValueError(f"generator is a list of {len(generator)}, but there are {rows} rows.")
    return torch.cat([shifts(each, n, like, g) for g in generator])


def _invert(w: Tensor, points: Tensor) -> Tensor:
    """Return the first index whose cumulated weight exceeds each point: never one of weight 0."""
    cumulated = w.cumsum(-1)
    cumulated = cumulated / cumulated[:, -1:]
    below_one = 1 - torch.finfo(w.dtype).eps / 2
    return torch.searchsorted(cumulated, points.clamp(max=below_one), right=True)
