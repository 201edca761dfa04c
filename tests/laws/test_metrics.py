"""Distances between sets of samples, against closed forms."""

import math

import pytest
import torch

from redrift.metrics import (
    energy_distance,
    frechet,
    frechet_floor,
    sliced_wasserstein,
    wasserstein_1d,
)
from redrift.metrics.frechet import halves

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def exactly(mean, root, n=40):
    """Return n samples with this mean and covariance root root^T, to rounding."""
    x = torch.randn(n, root.shape[1], generator=generator(), dtype=F64)
    x = x - x.mean(0)
    upper = torch.linalg.cholesky(x.T @ x / (n - 1)).mT
    return torch.linalg.solve_triangular(upper, x, upper=True, left=False) @ root.T + mean


def turn(d, seed=1):
    return torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=F64))[0]


def test_the_frechet_distance_of_gaussians_that_commute_is_that_of_means_and_deviations():
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    a, b = torch.tensor([0.3, 1.0, 2.0], dtype=F64), torch.tensor([1.1, 0.2, 2.0], dtype=F64)
    base = turn(3)
    x, y = exactly(0 * mean, base * a), exactly(mean, base * b, n=60)
    assert frechet(x, y) == pytest.approx(float((mean**2).sum() + ((a - b) ** 2).sum()), abs=1e-11)


def test_the_frechet_distance_of_gaussians_that_do_not_commute_is_the_closed_form():
    # 2 x 2: tr (S_x^1/2 S_y S_x^1/2)^1/2 = sqrt(tr(S_x S_y) + 2 sqrt(det S_x det S_y))
    a = torch.tensor([[1.0, 0.0], [0.8, 0.3]], dtype=F64)
    b = torch.tensor([[0.4, 0.0], [-1.0, 0.9]], dtype=F64)
    sx, sy = a @ a.T, b @ b.T
    dets = torch.linalg.det(sx) * torch.linalg.det(sy)
    shared = (torch.trace(sx @ sy) + 2 * dets.sqrt()).sqrt()
    expected = float(torch.trace(sx + sy) - 2 * shared)
    zero = torch.zeros(2, dtype=F64)
    assert frechet(exactly(zero, a), exactly(zero, b)) == pytest.approx(expected, abs=1e-11)


def test_the_frechet_distance_survives_singular_covariances():
    # ten samples of 64 features: rank 9 against rank 9
    x = torch.randn(10, 64, generator=generator(), dtype=F64)
    assert frechet(x, x) < 1e-6
    assert frechet(x, x + 2) == pytest.approx(4 * 64, abs=1e-6)
    # two lines at a right angle share nothing
    line = torch.linspace(-1, 1, 9, dtype=F64)
    flat = torch.stack([line, 0 * line], 1)
    assert frechet(flat, flat.flip(1)) == pytest.approx(2 * float(line.var()), abs=1e-7)


def test_the_frechet_distance_is_symmetric_and_sees_neither_order_nor_rotation():
    g = generator()
    x = torch.randn(50, 4, generator=g, dtype=F64) * torch.tensor([1.0, 0.1, 2.0, 1.0])
    y = torch.randn(70, 4, generator=g, dtype=F64) + 1
    value, base = frechet(x, y), turn(4)
    assert frechet(y, x) == pytest.approx(value, abs=1e-10)
    assert frechet(x[torch.randperm(50, generator=g)], y) == pytest.approx(value, abs=1e-10)
    assert frechet(x @ base + 3, y @ base + 3) == pytest.approx(value, abs=1e-10)


def test_features_are_applied_to_both_sets_whatever_the_batch():
    g = generator()
    x, y = (torch.randn(30, 1, 3, 3, generator=g) for _ in range(2))

    def features(images):
        assert len(images) <= 7
        return images.flatten(1)[:, :2].exp()

    expected = frechet(*(part.flatten(1)[:, :2].double().exp() for part in (x, y)))
    assert frechet(x, y, features, batch_size=7) == pytest.approx(expected, abs=1e-5)


def test_the_floor_is_the_bias_of_two_finite_sets_of_one_law():
    # the means of n standard normals in d dimensions differ by d (2 / n) on average, the fitted
    # deviations by about as much again over four for each of the d (d + 1) / 2 moments
    x = torch.randn(4000, 5, generator=generator(), dtype=F64)
    whole = frechet_floor(x, splits=20, generator=generator(1))
    small = frechet_floor(x, size=500, splits=20, generator=generator(1))
    means = 5 * 2 / 2000
    assert means < whole < 4 * means
    assert 3 < small / whole < 5
    with pytest.raises(ValueError, match="size must be at least 2 and at most 2000"):
        frechet_floor(x, size=2001)


def test_halves_are_disjoint_and_share_the_strata_evenly():
    labels = torch.tensor([0] * 30 + [1] * 11 + [2] * 60)
    for size, shares in ((None, (15, 5.5, 30)), (20, (6, 2.2, 12))):
        here, there = halves(101, size, labels, generator=generator())
        assert not set(here.tolist()) & set(there.tolist())
        for part in (here, there):
            assert len(part.unique()) == len(part) == (50 if size is None else size)
            counts = labels[part].bincount(minlength=3)
            assert all(abs(int(c) - share) <= 1 for c, share in zip(counts, shares))
    with pytest.raises(ValueError, match="strata must be"):
        halves(101, 20, labels[:5])


def test_strata_take_chance_proportions_out_of_the_floor():
    # two far points: the halves differ by chance proportions alone
    labels = torch.arange(400) % 2
    x = labels.double()[:, None] * 10
    assert frechet_floor(x, strata=labels, generator=generator()) < 1e-12
    assert frechet_floor(x, splits=4, generator=generator()) > 1e-2


def test_the_distance_on_a_line_joins_quantiles():
    x, y = torch.tensor([0.0, 3.0, 1.0]), torch.tensor([2.0, 1.0, 5.0])
    assert float(wasserstein_1d(x, y)) == pytest.approx(math.sqrt((1 + 1 + 4) / 3))
    assert float(wasserstein_1d(x, y, order=1)) == pytest.approx((1 + 1 + 2) / 3)


def test_the_distance_on_a_line_is_exact_for_different_numbers_of_samples():
    g = generator()
    x, y = torch.randn(6, 3, generator=g, dtype=F64), torch.randn(4, 3, generator=g, dtype=F64)
    # both as twelve equal masses
    many = wasserstein_1d(x.repeat_interleave(2, 0), y.repeat_interleave(3, 0))
    assert torch.allclose(wasserstein_1d(x, y), many, atol=1e-14)
    assert torch.allclose(wasserstein_1d(y, x), many, atol=1e-14)


def test_the_distance_on_a_line_is_that_of_an_optimal_transport_solver():
    ot = pytest.importorskip("ot")
    g = generator()
    x, y = torch.randn(7, generator=g, dtype=F64), torch.rand(5, generator=g, dtype=F64)
    cost = (x[:, None] - y).square().numpy()
    exact = ot.emd2(torch.full((7,), 1 / 7).double().numpy(), [1 / 5] * 5, cost)
    assert float(wasserstein_1d(x, y)) ** 2 == pytest.approx(float(exact), rel=1e-6)


def test_the_sliced_distance_of_a_shift_is_its_length_over_the_root_of_the_dimension():
    # <theta, shift>^2 averages to |shift|^2 / d; with 4000 directions its error is under 4 %
    x = torch.randn(20, 8, generator=generator(), dtype=F64)
    shift = torch.zeros(8, dtype=F64)
    shift[0] = 3
    value = sliced_wasserstein(x, x + shift, projections=4000, generator=generator(1))
    assert value == pytest.approx(3 / math.sqrt(8), rel=0.04)


def test_the_sliced_distance_in_one_dimension_is_the_exact_one():
    g = generator()
    x, y = torch.randn(9, 1, generator=g), torch.randn(5, 1, generator=g)
    value = sliced_wasserstein(x, y, projections=3, generator=g)
    assert value == pytest.approx(float(wasserstein_1d(x, y)), abs=1e-12)


def test_the_sliced_distance_depends_on_its_own_generator_only():
    x, y = torch.randn(9, 2, 3, generator=generator()), torch.zeros(5, 2, 3)
    before = torch.get_rng_state()
    values = {sliced_wasserstein(x, y, projections=8, generator=generator(2)) for _ in range(2)}
    assert len(values) == 1
    assert torch.equal(before, torch.get_rng_state())


def test_the_energy_distance_on_a_line_is_twice_the_squared_gap_of_the_distribution_functions():
    # Cramer: 2 E|X - Y| - E|X - X'| - E|Y - Y'| = 2 int (F - G)^2
    g = generator()
    x, y = torch.randn(30, generator=g, dtype=F64), torch.randn(50, generator=g, dtype=F64) + 1
    points = torch.cat((x, y)).sort().values
    gap = (x <= points[:-1, None]).double().mean(1) - (y <= points[:-1, None]).double().mean(1)
    expected = 2 * float((gap**2 * points.diff()).sum())
    assert energy_distance(x, y) == pytest.approx(expected, abs=1e-12)
    assert energy_distance(x, y, block=7) == pytest.approx(expected, abs=1e-12)


def test_the_energy_distance_sees_neither_order_nor_rotation_and_vanishes_on_itself():
    g = generator()
    x, y = torch.randn(20, 3, generator=g, dtype=F64), torch.rand(30, 3, generator=g, dtype=F64)
    base = turn(3)
    value = energy_distance(x, y)
    assert energy_distance(y.flip(0) @ base, x @ base) == pytest.approx(value, abs=1e-12)
    assert energy_distance(x, x) < 1e-14
    assert value > 0.1


@pytest.mark.parametrize("metric", [frechet, wasserstein_1d, sliced_wasserstein, energy_distance])
def test_sets_that_cannot_be_compared_are_refused(metric):
    with pytest.raises(ValueError, match="trailing axes|one map for both"):
        metric(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="at least"):
        metric(torch.zeros(0, 2), torch.zeros(4, 2))


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="features of y are not finite"):
        frechet(torch.zeros(3, 1), torch.full((3, 1), math.nan))
