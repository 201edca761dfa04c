"""The default plans: recorded rivals beaten on fresh mixtures, no budget worse than the one before."""

import math

import pytest
import torch

import redrift as rd
from problems import F64, Melt, Spring, discrete, generator, wide
from redrift.denoise import GaussianMixture
from redrift.fitting import Trajectories, distances, fit_grid, follow
from redrift.solvers import UniC, layer
from redrift.solvers.fractions import grid_of_fractions

# medians and 90th percentiles of diffusers 0.42.1's best schedulers and spacings (the best of six
# strong ones, chosen on the test seed) on hard mixtures under VP, and what is held against them
BUDGETS = (5, 6, 8, 9, 10, 12, 15, 20, 30, 50)
RIVAL = dict(
    zip(BUDGETS, (5.4e-2, 4.2e-2, 1.5e-2, 1.2e-2, 8.8e-3, 4.2e-3, 2e-3, 1.5e-3, 4.7e-4, 3.3e-5))
)
RIVAL_P90 = dict(
    zip(BUDGETS, (0.33, 0.26, 9.3e-2, 3.4e-2, 2.9e-2, 1.3e-2, 9.7e-3, 5.9e-3, 2.9e-3, 6.7e-4))
)


def hard(process, seed, components=16, dim=8):
    """Return a narrow mixture of overall standard deviation one half, seeds unseen by the fit."""
    g = generator(seed)
    means = torch.randn(components, dim, generator=g, dtype=F64)
    weights = torch.rand(components, generator=g, dtype=F64) + 0.3
    std = 0.02 * 7.5 ** torch.rand(components, dim, generator=g, dtype=F64)
    share = (weights / weights.sum())[:, None]
    means = means - (share * means).sum(0)
    spread = (0.25 - (share * std**2).sum(0)).clamp_min(1e-4)
    return GaussianMixture(
        weights, means * (spread / (share * means**2).sum(0)).sqrt(), std, process
    )


def task(process, seed, n=96, steps=500):
    model, g = hard(process, seed), generator(seed + 1000)
    start = process.interval[0]
    level = process.level(torch.tensor(start, dtype=F64))
    x = float(level.signal) * model.sample(n, generator=g)
    x = x + float(level.root) * torch.randn(x.shape, generator=g, dtype=F64)
    grid = rd.timegrid(process, steps, "logsnr")
    last = follow(model, rd.deis(process, grid, order=4, variable="logrho"), x)
    return Trajectories(model, x, last)


@pytest.fixture(scope="module")
def tasks():
    with torch.no_grad():
        return [task(rd.VP(), seed) for seed in (201, 202)]


def errors(tasks, plan):
    with torch.no_grad():
        found = [distances(follow(t.model, plan, t.first), t.last) for t in tasks]
    return [
        math.exp(sum(math.log(float(f(e))) for e in found) / len(found))
        for f in (torch.median, lambda e: e.quantile(0.9))
    ]


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_recorded_rivals_are_beaten_in_median_and_tail(tasks, budget):
    median, tail = errors(tasks, rd.best_plan(rd.VP(), budget))
    assert median <= RIVAL[budget]
    assert tail <= RIVAL_P90[budget]


def test_more_evaluations_are_never_much_worse(tasks):
    one = tasks[:1]
    found = {n: errors(one, rd.best_plan(rd.VP(), n)) for n in [*range(5, 33), *range(34, 51, 4)]}
    budgets = sorted(found)
    for a, b in zip(budgets, budgets[1:]):
        assert found[b][0] <= 1.5 * found[a][0], (a, b, found[a], found[b])
        assert found[b][1] <= 1.5 * found[a][1], (a, b, found[a], found[b])
    listed = [found[n][0] for n in BUDGETS if n in found]
    assert all(b < a for a, b in zip(listed, listed[1:])), listed


@pytest.mark.parametrize("budget", [17, 20, 25])
def test_a_corrector_that_stops_in_time_is_nearer_on_a_finite_data_set(budget):
    process, g = rd.VP(), generator(3)
    model = rd.denoise.Empirical(torch.randn(60, 8, generator=g, dtype=F64) / 2, process)
    first = process.level(torch.tensor(process.interval[0], dtype=F64))
    noise = torch.randn(128, 8, generator=g, dtype=F64)
    x = float(first.signal) * model.sample(128, generator=g) + float(first.root) * noise
    grid = rd.timegrid(process, 500, "logsnr")
    last = follow(model, rd.deis(process, grid, order=4, variable="logrho"), x)
    task = Trajectories(model, x, last)
    plan = rd.best_plan(process, budget)
    everywhere = rd.deis(process, plan.times, order=3, wants="v", startup=False, corrector=True)
    found, other = errors([task], plan), errors([task], everywhere)
    assert all(a < b / 2 for a, b in zip(found, other)), (found, other)


def test_the_level_where_correctors_stop_falls_with_the_budget():
    levels = [layer(rd.best_plan(rd.VP(), n).rule, UniC).above for n in range(17, 51)]
    assert all(a > b for a, b in zip(levels, levels[1:]))
    assert levels[-1] == 0
    assert all(
        rd.best_plan(rd.VP(), n).rule.corrector == (n > 16) for n in (8, 15, 16, 17, 18, 64)
    )


@pytest.mark.parametrize("process", [rd.VP(), rd.EDM(), rd.Flow(), discrete(), Spring(), Melt()])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 7, 11, 33, 64])
def test_a_default_spends_its_budget_on_every_process(process, budget):
    plan = rd.best_plan(process, budget)
    assert plan.evaluations == budget
    assert bool((plan.times.diff() < 0).all())
    ends = plan.times[[0, -1]].tolist()
    assert ends == pytest.approx(process.interval)


def test_equal_shares_are_the_quadratic_grid():
    for process in (rd.VP(), rd.EDM()):
        ends = process.interval
        times = grid_of_fractions(process, torch.ones(7, dtype=F64), ends)
        assert torch.allclose(times, rd.timegrid(process, 7, "quadratic"), rtol=1e-10)


@pytest.mark.parametrize("budget", [20, 50])
def test_the_starter_costs_little_and_is_worth_much_on_data_as_wide_as_pictures(tasks, budget):
    process, options = rd.VP(), {"solver": "deis", "order": 4}
    usual, plain = (
        rd.plan_for(process, budget, **options, **more) for more in ({}, {"startup": False})
    )
    assert all(a < 1.4 * b for a, b in zip(errors(tasks, usual), errors(tasks, plain)))
    model = wide(process, components=20, dim=40, seed=3)
    z = torch.randn(128, 40, generator=generator(4), dtype=F64)
    exact = follow(model, rd.plan_for(process, 1000, solver="res", order=3), z)
    a, b = (distances(follow(model, plan, z), exact) for plan in (usual, plain))
    assert a.median() < 0.5 * b.median()
    assert a.quantile(0.9) < 0.5 * b.quantile(0.9)


def test_fitting_lowers_the_loss_it_is_given(tasks):
    def build(process, times):
        return rd.deis(process, times, order=3, wants="v", startup=False)

    ends, shares = rd.VP().interval, torch.ones(8, dtype=F64)
    fitted = fit_grid(build, tasks[:1], shares, ends, iterations=25)
    before = errors(tasks[:1], build(rd.VP(), grid_of_fractions(rd.VP(), shares, ends)))
    after = errors(tasks[:1], build(rd.VP(), grid_of_fractions(rd.VP(), fitted, ends)))
    assert math.prod(after) < math.prod(before) / 2


def test_a_smooth_grid_has_log_shares_that_are_linear_between_its_knots(tasks):
    def build(process, times):
        return rd.deis(process, times, order=3, wants="v", startup=False)

    ends, shares = rd.VP().interval, torch.ones(9, dtype=F64)
    fitted = fit_grid(build, tasks[:1], shares, ends, iterations=12, knots=3)
    bends = fitted.log().diff().diff()
    assert bends[[0, 1, 2, 4, 5, 6]].abs().max() < 1e-12  # the middle knot is the fifth share
    assert bends[3].abs() > 1e-2
    before = errors(tasks[:1], build(rd.VP(), grid_of_fractions(rd.VP(), shares, ends)))
    after = errors(tasks[:1], build(rd.VP(), grid_of_fractions(rd.VP(), fitted, ends)))
    assert math.prod(after) < math.prod(before)


def test_a_task_without_weight_takes_no_part_in_a_fit(tasks):
    def build(process, times):
        return rd.deis(process, times, order=2, wants="v", startup=False)

    ends, shares = rd.VP().interval, torch.ones(5, dtype=F64)
    both = fit_grid(build, tasks, shares, ends, iterations=4, weights=(3.0, 0.0))
    alone = fit_grid(build, tasks[:1], shares, ends, iterations=4)
    assert torch.equal(both, alone)
    assert not torch.equal(both, fit_grid(build, tasks, shares, ends, iterations=4))
