"""Bad input to kernels, rollouts, weights and resampling is named, with its remedy."""

import math

import pytest
import torch

from redrift._core.errors import NumericalError
from redrift.measure import GaussianKernel, Weights, resample
from redrift.rollout import rollout


def flat(x):
    return torch.zeros(len(x))


IDENTITY = GaussianKernel(lambda x: x, 1.0)
TALL = GaussianKernel(lambda x: x, torch.ones(2, 1))
UPPER = torch.tensor([[1.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: rollout([IDENTITY], [], x), "q has 1 kernels and p has 0"),
        (lambda x: rollout([IDENTITY], [GaussianKernel(torch.sin, 1.0)], x), "p.controlled"),
        (lambda x: rollout([TALL], [TALL], x, reverse=True), "square"),
        (lambda x: GaussianKernel(torch.sin, 0.0).pull(x, x), "singular"),
        (lambda x: rollout([IDENTITY], [IDENTITY], x[:3], antithetic=True), "3 rows"),
        (lambda x: rollout([IDENTITY], [IDENTITY], x[:0]), "B >= 1"),
        (lambda x: rollout([IDENTITY], [IDENTITY], x.long()), "floating-point"),
        (lambda x: rollout([IDENTITY], [IDENTITY], x, log_weight=x), r"expected \(4,\)"),
        (lambda x: rollout([IDENTITY.controlled(flat)], [IDENTITY], x), "law's mean"),
        (lambda x: IDENTITY.twisted(lambda x: (x, UPPER)).law(x) and wrong_law(UPPER, x), "lower"),
        (lambda x: wrong_law(torch.ones(2), x), "diag_embed"),
        (lambda x: GaussianKernel(flat, 1.0).push(x, x), "mean"),
        (lambda x: GaussianKernel(torch.sin, torch.ones(2)), "torch.diag"),
        (lambda x: GaussianKernel(torch.sin, lambda x: x[0]).push(x, x), "diag_embed"),
        (lambda x: resample(torch.zeros(3), 0), "n must be at least 1"),
        (lambda x: resample(torch.zeros(3), 2, "sistematic"), "'systematic'"),
        (lambda x: resample(torch.tensor([0.0, math.nan]), 2), "NaN"),
        (lambda x: Weights(torch.tensor([0.0, math.nan, math.inf])), "2 of 3 entries"),
        (lambda x: Weights(torch.zeros(0)), "N >= 1"),
        (lambda x: Weights(torch.zeros(3)).resample(x), r"\(4, 2\)"),
    ],
)
def test_bad_input_is_named_with_its_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(4, 2))


def wrong_law(chol, x):
    return rollout([IDENTITY.twisted(lambda x: (x, chol))], [IDENTITY], x)


def test_types_that_cannot_serve_are_refused():
    with pytest.raises(TypeError, match="mean must be a function"):
        GaussianKernel(torch.zeros(2), 1.0)
    with pytest.raises(TypeError, match="floating-point"):
        Weights(torch.zeros(3, dtype=torch.long))


def test_a_state_that_stops_being_finite_names_its_step():
    blow = GaussianKernel(lambda x: x * 1e200, 1.0)
    x0 = torch.ones(2, 1, dtype=torch.float64)
    with pytest.raises(NumericalError, match=r"state of 2 .* of 2 samples") as caught:
        rollout([blow] * 4, [blow] * 4, x0, generator=torch.Generator())
    assert caught.value.step == 1
