"""Laws of weights and of resampling.

Statistical laws use fixed seeds and allow 4 standard errors: a correct program fails one check
with probability 6e-5 (about 100 such checks here, 0.6 % for the file, were the seeds free).
"""

import math

import pytest
import torch

from redrift.measure import Weights, adaptive_resample, effective_share, resample

INF = math.inf
SCHEMES = ("systematic", "stratified", "multinomial", "residual")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


# --- resampling -----------------------------------------------------------------------------

SHARES = torch.tensor([0.05, 0.0, 0.31, 0.24, 0.4, 0.0], dtype=torch.float64)


def offspring(method, n, repeats, seed=0, shares=SHARES):
    log_w = (shares.log() + 700.0).expand(repeats, -1)
    index = resample(log_w, n, method, generator=seeded(seed))
    assert index.shape == (repeats, n)
    return torch.nn.functional.one_hot(index, len(shares)).sum(1).double()


@pytest.mark.parametrize("n", [1, 4, 7, 20])
@pytest.mark.parametrize("method", SCHEMES)
def test_resampling_is_unbiased(method, n):
    # E[offspring] = n W, 20 000 repeats, error at most 1 % of n. Catches a comb without its
    # offset, remainders drawn by the full weights, a weight skipped or counted twice.
    counts = offspring(method, n, 20_000)
    error = counts.std(0) / math.sqrt(20_000)
    assert ((counts.mean(0) - n * SHARES).abs() <= 4 * error + 1e-9).all()
    assert (counts[:, SHARES == 0] == 0).all()


@pytest.mark.parametrize("n", [1, 4, 7, 20])
def test_systematic_offspring_are_floor_or_ceil(n):
    counts, expected = offspring("systematic", n, 2_000), n * SHARES
    assert (counts >= (expected - 1e-9).floor()).all()
    assert (counts <= (expected + 1e-9).ceil()).all() or n == 20
    assert ((counts - expected).abs() < 1).all()


def test_many_teeth_are_counted_as_few_are_searched(monkeypatch):
    # Two ways to the same ancestors, for weights of all sizes, zeros first, last and between.
    from redrift.measure import resampling

    log_w = 8 * random(6, 5000, seed=3)
    log_w[torch.rand(log_w.shape, generator=seeded(4)) < 0.3] = -INF
    log_w[:2, -900:] = -INF
    log_w[2:4, :900] = -INF
    found = resample(log_w, 5000, generator=seeded(5))
    fewer = resample(log_w, 3000, generator=seeded(5))
    monkeypatch.setattr(resampling, "_MANY", math.inf)
    assert torch.equal(found, resample(log_w, 5000, generator=seeded(5)))
    assert torch.equal(fewer, resample(log_w, 3000, generator=seeded(5)))
    assert bool((log_w.gather(-1, found) > -INF).all())


@pytest.mark.parametrize("n", [1, 4, 7, 20])
def test_residual_offspring_are_at_least_floor(n):
    assert (offspring("residual", n, 2_000) >= (n * SHARES + 1e-9).floor()).all()


@pytest.mark.parametrize("n", [4, 7, 20])
def test_stratified_offspring_are_within_two_of_their_mean(n):
    assert ((offspring("stratified", n, 2_000) - n * SHARES).abs() < 2).all()


def test_multinomial_offspring_are_binomial_and_the_others_vary_less():
    # Variance n W (1 - W) within 4 standard errors (6 %): catches draws that are not independent.
    n, binomial = 7, 7 * SHARES * (1 - SHARES)
    kept = SHARES > 0
    variance = {m: offspring(m, n, 20_000).var(0)[kept] for m in SCHEMES}
    torch.testing.assert_close(variance["multinomial"], binomial[kept], rtol=0.06, atol=0)
    for method in ("systematic", "stratified", "residual"):
        assert (variance[method] < 0.9 * variance["multinomial"]).all(), method


@pytest.mark.parametrize("method", ["systematic", "residual"])
def test_equal_weights_survive_unchanged(method):
    # N W_i = 1 in exact arithmetic; 49 and 1000 are numbers where N (1 / N) rounds.
    for size in (3, 49, 1000):
        index = resample(torch.zeros(size), size, method, generator=seeded(0))
        assert torch.equal(index, torch.arange(size))


@pytest.mark.parametrize("method", SCHEMES)
def test_rows_are_resampled_apart_each_by_its_own_generator(method):
    log_w = random(2, 3, 5, seed=0)
    index = resample(log_w, 4, method, generator=[seeded(i) for i in range(6)])
    assert index.shape == (2, 3, 4)
    for row in range(6):
        alone = resample(log_w.reshape(6, 5)[row], 4, method, generator=[seeded(row)])
        assert torch.equal(index.reshape(6, 4)[row], alone)


# --- adaptive resampling --------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("method", SCHEMES)
def test_sets_below_the_threshold_are_resampled_and_the_others_are_left_alone(method, normalised):
    log_w = random(2, 30, 8, seed=1) * torch.linspace(0, 3, 30).double()[:, None]
    log_w = log_w.log_softmax(-1) if normalised else log_w + 700
    share, stay = Weights(log_w).ess, torch.arange(8)
    for threshold in (0.3, 0.5, 0.9):
        found = adaptive_resample(
            log_w, threshold, method, seeded(0), normalised=normalised
        )  # fmt: skip
        low = share < threshold
        assert found.sets == int(low.sum())
        assert 0 < found.sets < 60
        assert found.ancestors.shape == log_w.shape
        assert (found.ancestors[~low] == stay).all()
        assert torch.equal(found.log_w[~low], log_w[~low])
        # the mean weight stays: so do estimates of a normalising constant
        torch.testing.assert_close(Weights(found.log_w).log_z, Weights(log_w).log_z)
        assert (Weights(found.log_w[low]).ess > 1 - 1e-12).all()


@pytest.mark.parametrize("method", SCHEMES)
@pytest.mark.parametrize("normalised", [False, True])
def test_weighted_means_are_kept_in_expectation(method, normalised):
    log_w = (SHARES.log() + (0 if normalised else 5)).expand(20_000, -1)
    found = adaptive_resample(log_w, 0.9, method, seeded(2), normalised=normalised)
    assert found.sets == 20_000
    value = torch.arange(6).double() ** 2
    mean = value[found.ancestors].mean(-1)
    error = float(mean.std()) / math.sqrt(20_000)
    assert abs(float(mean.mean() - SHARES @ value)) < 4 * error + 1e-9


def test_nothing_happens_at_threshold_zero_and_everything_at_one():
    log_w = torch.stack(
        [torch.zeros(5), random(5, seed=3).float(), torch.tensor([0.0] + 4 * [-INF])]
    )
    assert adaptive_resample(log_w, 0.0).ancestors is None
    assert adaptive_resample(log_w, 0.0).log_w is log_w
    assert adaptive_resample(log_w, 1.0, generator=seeded(0)).sets == 3
    one_set = adaptive_resample(log_w[2], 0.5, generator=seeded(0))
    assert one_set.ancestors.tolist() == [0] * 5
    assert one_set.sets == 1
    assert adaptive_resample(log_w[:1], 0.99).ancestors is None


def test_the_numbers_of_a_set_do_not_depend_on_the_weights_of_others():
    log_w = random(3, 6, seed=4) * torch.tensor([0.0, 5.0, 5.0]).double()[:, None]
    even = torch.zeros_like(log_w)
    own = [seeded(i) for i in range(3)]
    adaptive_resample(even, 0.5, generator=own, always_draw=True)
    second = adaptive_resample(log_w, 0.5, generator=own, always_draw=True)
    for row in (1, 2):
        alone = seeded(row)
        adaptive_resample(log_w[row : row + 1], 0.5, generator=[alone], always_draw=True)
        again = adaptive_resample(log_w[row : row + 1], 0.5, generator=[alone], always_draw=True)
        assert torch.equal(second.ancestors[row], again.ancestors[0])


def test_the_effective_share_is_one_over_n_times_the_sum_of_squares():
    w = torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]])
    assert effective_share(w).tolist() == [1, 0.5, 0.25]


# --- weights --------------------------------------------------------------------------------


def test_weights_state_known_figures():
    w = Weights(torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64).log() + 900)
    assert abs(w.log_z - 900) < 1e-12
    assert abs(w.ess - 16 / 10 / 4) < 1e-12
    assert abs(w.max_share - 0.75) < 1e-12
    torch.testing.assert_close(w.normalised, torch.tensor([0.75, 0.25, 0, 0]).double())
    # Sample variance 2 of (3, 1, 0, 0) about mean 1: standard error sqrt(2 / 4).
    assert abs(w.log_z_se - math.sqrt(0.5)) < 1e-12


def test_standard_error_of_log_z_is_its_spread_over_repeats():
    # 2 000 sets of 500 log-normal weights; relative error of a standard deviation 1.6 %, plus
    # the delta method's own: within 10 %.
    w = Weights(random(2_000, 500, seed=0) * 0.7)
    assert w.log_z.shape == (2_000,)
    assert abs(w.log_z.std() / w.log_z_se.mean() - 1) < 0.1


def test_weights_of_zero_are_safe_and_never_drawn():
    log_w = torch.tensor([-INF, 2.0, -INF, 1.0, -INF])
    w, x = Weights(log_w), torch.arange(5.0)[:, None]
    for figure in (w.log_z, w.log_z_se, w.ess, w.max_share, w.normalised):
        assert torch.isfinite(figure).all()
    for method in SCHEMES:
        drawn = w.resample(x, 1_000, method, generator=seeded(0))
        assert set(drawn.flatten().tolist()) == {1.0, 3.0}
    one = Weights(torch.tensor([-INF, -1e30, -INF]))
    assert one.ess * 3 == 1
    assert (one.resample(torch.arange(3.0), 9, generator=seeded(0)) == 1).all()


def test_no_weight_at_all_is_an_error_that_names_the_remedy():
    none = Weights(torch.full((4,), -INF))
    assert none.log_z == -INF
    assert "-inf" in repr(none)
    for figure in ("ess", "max_share", "normalised", "log_z_se"):
        with pytest.raises(ValueError, match=r"all log-weights are -inf.*more particles"):
            getattr(none, figure)
    some = Weights(torch.tensor([[0.0, 1.0], [-INF, -INF]]))
    with pytest.raises(ValueError, match="1 of 2 sets"):
        some.resample(torch.zeros(2, 2), generator=seeded(0))


def test_merged_weights_estimate_from_all_samples():
    a, b = random(10, seed=0), random(30, seed=1)
    merged = Weights(a).merge(Weights(b))
    assert len(merged) == 40
    mean = (a.exp().sum() + b.exp().sum()) / 40
    assert abs(merged.log_z - mean.log()) < 1e-12


def test_resample_gathers_sets_along_leading_axes():
    log_w = torch.tensor([[0.0, -INF], [-INF, 0.0]])
    x = torch.arange(12.0).reshape(2, 2, 3)
    drawn = Weights(log_w).resample(x, 3, generator=seeded(0))
    assert drawn.shape == (2, 3, 3)
    assert torch.equal(drawn[0], x[0, :1].expand(3, 3))
    assert torch.equal(drawn[1], x[1, 1:].expand(3, 3))
