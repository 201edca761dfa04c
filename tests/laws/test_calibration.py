"""Calibration: gains that held-out trajectories confirm, order conditions that survive, plans as files."""

import pytest
import torch

import redrift as rd
from laws.test_best import hard
from problems import F64, generator, wide
from redrift.calibration import calibrate
from redrift.denoise import GaussianMixture
from redrift.solvers import FirstEvaluation, UniC, layer
from redrift.solvers.fractions import grid_of_fractions
from redrift.solvers.free import FreeCoefficients


def narrow(process, components=6, dim=3, seed=3):
    g = generator(seed)
    means = 0.5 * torch.randn(components, dim, generator=g, dtype=F64)
    std = 0.03 + 0.1 * torch.rand(components, dim, generator=g, dtype=F64)
    return GaussianMixture(torch.ones(components, dtype=F64), means, std, process)


def fit(plan, **options):
    options = (
        dict(samples=96, dtype=F64, budget=30 * plan.evaluations + 120, reference=120) | options
    )
    return calibrate(narrow(plan.process), plan, shape=(3,), generator=generator(5), **options)


def test_a_calibrated_grid_is_better_on_fresh_trajectories_than_the_one_it_started_from():
    process = rd.VP()
    plan = rd.deis(process, rd.timegrid(process, 6), order=3, startup=False)
    found = fit(plan)
    assert found.gained
    assert found.plan.evaluations == plan.evaluations
    assert found.plan.times[0] == plan.times[0]
    assert found.plan.times[-1] == plan.times[-1]
    # trajectories nobody saw, from another seed
    model = narrow(process)
    x = torch.randn(128, 3, generator=generator(99), dtype=F64)
    fine = rd.sample(model, rd.res(process, rd.timegrid(process, 120), order=3), x=x)
    errors = [
        (rd.sample(model, p, x=x) - fine).square().mean(1).sqrt() for p in (plan, found.plan)
    ]
    for share in (0.5, 0.9):
        before, after = (float(e.quantile(share)) for e in errors)
        assert after < 0.7 * before, (share, before, after)


def test_what_it_reports_are_the_errors_of_the_plans_on_the_held_out_quarter():
    process = rd.VP()
    plan = rd.deis(process, rd.timegrid(process, 5), order=2, startup=False)
    found = fit(plan, budget=plan.evaluations + 120)
    x = torch.randn(96, 3, generator=generator(5), dtype=F64)
    x = float(process.sigma(plan.times[0])) * x
    model = narrow(process)
    fine = rd.plan_for(process, 120, solver="res", order=3, start=1.0, stop=float(plan.times[-1]))
    exact = rd.sample(model, fine, x=x)[72:]
    error = (rd.sample(model, plan, x=x[72:]) - exact).square().mean(1).sqrt()
    assert found.held_out == 24
    assert found.before.median == pytest.approx(float(error.median()), rel=1e-6)
    assert found.before.p90 == pytest.approx(float(error.quantile(0.9)), rel=1e-6)


@pytest.mark.parametrize("broad", [False, True])
def test_a_plan_that_skips_the_start_is_fitted_to_what_suits_the_data(broad):
    process = rd.VP()
    options = {"order": 4, "wants": "v", "startup": False, "first_sigma": 22.0}
    fractions = torch.tensor([0.243908, 0.193007, 0.199428, 0.198965, 0.164693], dtype=F64)
    plan = rd.deis(process, grid_of_fractions(process, fractions, process.interval), **options)
    model = wide(plan.process) if broad else narrow(plan.process)
    found = calibrate(
        model, plan, shape=(12 if broad else 3,), samples=96, dtype=F64, budget=60 * 5 + 120,
        reference=120, generator=generator(5),
    )  # fmt: skip
    given, fitted = (layer(made.rule, FirstEvaluation) for made in (plan, found.plan))
    assert given
    assert fitted == (given if broad else None)
    assert ("the first at" in str(found.plan)) == broad
    assert found.evaluations == 120 + 5 * found.iterations <= 60 * 5 + 120
    gain = found.before.median * found.before.p90 / (found.after.median * found.after.p90)
    assert gain > (1.2 if broad else 4.0)


@pytest.mark.parametrize("finite", [False, True])
def test_a_plan_whose_corrector_stops_is_fitted_to_what_suits_the_data(finite):
    process = rd.VP()
    options = {"order": 3, "wants": "v", "startup": False, "corrector": 0.1}
    plan = rd.deis(process, rd.timegrid(process, 20), **options)
    points = torch.randn(60, 8, generator=generator(2), dtype=F64) / 2
    model = rd.denoise.Empirical(points, plan.process) if finite else hard(plan.process, 302)
    found = calibrate(
        model, plan, shape=(8,), samples=96, dtype=F64, budget=30 * 20 + 400, reference=400,
        generator=generator(5),
    )  # fmt: skip
    assert layer(plan.rule, UniC).above > 0
    assert (layer(found.plan.rule, UniC).above > 0) == finite
    assert ("corrected above" in str(found.plan)) == finite
    assert found.after.median * found.after.p90 < found.before.median * found.before.p90 / 4


def test_the_errors_of_a_plan_that_ends_clean_are_distances_to_the_exact_flow():
    process = rd.VP()
    plan = rd.deis(process, rd.timegrid(process, 6), order=2, startup=False, end="zero")
    found = fit(plan, budget=plan.evaluations + 120)
    x = torch.randn(96, 3, generator=generator(5), dtype=F64)[72:]
    model = narrow(process)
    fine = rd.plan_for(process, 300, solver="res", order=3, stop=1e-5, end="denoise")
    error = (rd.sample(model, plan, x=x) - rd.sample(model, fine, x=x)).square().mean(1).sqrt()
    assert found.before.median == pytest.approx(float(error.median()), rel=0.02)
    assert found.before.p90 == pytest.approx(float(error.quantile(0.9)), rel=0.02)


def test_a_plan_that_cannot_be_bettered_is_given_back():
    process = rd.VP()
    plan = rd.ddim(process, rd.timegrid(process, 4))
    point = rd.denoise.Gaussian(torch.zeros(2, dtype=F64), 1e-9, process)  # DDIM is exact on it
    found = calibrate(point, plan, shape=(2,), samples=16, budget=40, reference=30, dtype=F64)
    assert not found.gained
    assert found.plan is plan


def test_bent_rows_keep_every_order_condition_but_the_last():
    process = rd.VP()
    times = rd.timegrid(process, 6)
    plain = rd.deis(process, times, order=3, startup=False)
    bent = plain.rebuilt(rule=FreeCoefficients(plain.rule, tuple(0.1 * i for i in range(6))))
    for i, (a, b) in enumerate(zip(plain.rows, bent.rows)):
        nodes = process.clock(times[max(i - len(a.C[-1]) + 1, 0) : i + 1]).flip(0)
        before, after = (torch.stack([c.flatten() for c in row.C[-1]]).flatten() for row in (a, b))
        count = len(before)
        if i:
            assert (before - after).abs().max() > 1e-3
        for power in range(count - 1):
            change = ((after - before) * nodes**power).sum()
            assert abs(float(change)) < 1e-12 * float(nodes.abs().max() ** power)


def test_free_coefficients_lower_the_loss_further_and_survive_the_file(tmp_path):
    process = rd.VP()
    plan = rd.deis(process, rd.timegrid(process, 6), order=3, wants="v", startup=False)
    grid, both = fit(plan), fit(plan, coefficients=True)
    assert min(v for _, v in both.history) < min(v for _, v in grid.history) + 0.05
    both.plan.save(str(tmp_path / "plan.json"))
    again = rd.Plan.load(str(tmp_path / "plan.json"))
    x = torch.randn(4, 3, generator=generator(1), dtype=F64)
    model = narrow(process)
    assert torch.equal(rd.sample(model, again, x=x), rd.sample(model, both.plan, x=x))
    assert "calibrated on" in str(again)


def test_it_leaves_the_network_and_its_gradients_alone():
    net = torch.nn.Linear(3, 3).double()
    before = [p.detach().clone() for p in net.parameters()]
    model = rd.Denoiser(lambda x, t: net(x), rd.VP(), "eps")
    plan = rd.ddim(rd.VP(), rd.timegrid(rd.VP(), 4))
    calibrate(model, plan, shape=(3,), samples=8, budget=60, reference=30, dtype=F64)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
    assert all(p.grad is None for p in net.parameters())


def test_bad_input_is_refused_by_name():
    process = rd.VP()
    model, plan = narrow(process), rd.ddim(process, rd.timegrid(process, 4))
    noisy = rd.ddpm(process, rd.timegrid(process, 4))
    with pytest.raises(ValueError, match="deterministic"):
        calibrate(model, noisy, shape=(3,))
    with pytest.raises(ValueError, match="process"):
        calibrate(model, rd.ddim(rd.EDM(), rd.timegrid(rd.EDM(), 4)), shape=(3,))
    with pytest.raises(ValueError, match="samples must be at least 8"):
        calibrate(model, plan, shape=(3,), samples=4)
    with pytest.raises(ValueError, match="budget=50"):
        calibrate(model, plan, shape=(3,), budget=50)
