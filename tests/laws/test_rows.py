"""Tables obey their own identities, count what they ask, and survive a file."""

import dataclasses
import json

import pytest
import torch

import redrift as rd
from problems import (
    F64,
    Melt,
    Spring,
    all_processes,
    discrete,
    double,
    flow_exactly,
    follow,
    mixture,
    noisy_start,
)
from redrift._core.linalg import product
from redrift.process import convert
from redrift.solvers import Plan, langevin_corrected
from redrift.solvers.coefficients import adams, integrate, variable, variable_of_log_snr

PROCESSES = {"VP": rd.VP(), "EDM": rd.EDM(), "Flow": rd.Flow(), "Spring": Spring(), "Melt": Melt()}
BUILDERS = {
    "ddim": rd.ddim,
    "deis 2": lambda p, g: rd.deis(p, g, order=2),
    "deis 4": lambda p, g: rd.deis(p, g, order=4),
    "deis 4, no starter": lambda p, g: rd.deis(p, g, order=4, startup=False),
    "res 2": lambda p, g: rd.res(p, g, order=2),
    "res 3": lambda p, g: rd.res(p, g, order=3),
    "res 3 after 2": lambda p, g: rd.res(p, g, order=3, first_stages=2),
    "res multistep": lambda p, g: rd.res(p, g, order=3, multistep=True),
    "res multistep, low end": lambda p, g: rd.res(p, g, order=2, multistep=True, lower_final=True),
    "dpmpp 2": lambda p, g: rd.dpmpp(p, g),
    "dpmpp 3": lambda p, g: rd.dpmpp(p, g, order=3),
    "dpmpp 2 single": lambda p, g: rd.dpmpp(p, g, single=True),
    "dpmpp 3 single": lambda p, g: rd.dpmpp(p, g, order=3, single=True, first_stages=1),
}
EVERY = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
ON = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


@ON
@EVERY
def test_coefficients_are_a_partition_of_the_constant_step(process, build):
    plan = build(process, rd.timegrid(process, 7))
    for row in plan.rows:
        targets = [*row.asks[1:], row.end]
        before = process.reading(row.start, plan.wants)[1]
        for A, C, target in zip(row.A[1:], row.C[1:], targets):
            total = sum(c for c in C if c is not None)
            after = process.reading(target, plan.wants)[1]
            expected = after - product(A, before)
            scale = sum(c.abs() for c in C if c is not None).max()
            assert torch.allclose(total, expected, rtol=1e-10, atol=1e-12 * float(scale))


@pytest.mark.parametrize("name", ["t", "rho", "logrho", "softlog", "angle"])
@pytest.mark.parametrize("wants", ["eps", "x0", "v"])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_polynomials_below_the_order_are_integrated_exactly(wants, name, order):
    process = rd.VP()
    grid = rd.timegrid(process, 8)
    p = variable(process, name)
    start, end = process.level(grid[4]), process.level(grid[5])
    points = [grid[4 - j] for j in range(order)]
    C = adams(process, wants, start, end, points, name)
    for power in range(order):
        found = sum(c[0, 0] * p(t) ** power for c, t in zip(C, points))
        # the same integral by the trapezoid rule on a fine log-SNR grid, Richardson extrapolated
        values = []
        for cells in (2000, 4000):
            ends = process.clock(torch.stack((grid[4], grid[5])))
            w = ends[0] + torch.linspace(0, 1, cells + 1, dtype=F64) * (ends[1] - ends[0])
            t = process.unclock(w)
            f = process.increment(wants, end, t)[:, 0, 0] * p(t) ** power
            values.append(torch.trapezoid(f, w))
        exact = (4 * values[1] - values[0]) / 3
        assert abs(float(found / exact) - 1) < 1e-9


@pytest.mark.parametrize("corrector", [False, True, 1.0], ids=["plain", "corrected", "above"])
def test_rows_are_exact_for_polynomials_through_what_they_asked(corrector):
    # whatever a row keeps, its weights belong to its own asks, oldest first, then to the history
    process = rd.VP()
    plan = rd.deis(process, rd.timegrid(process, 7), order=3, startup=False, corrector=corrector)
    p, past = variable(process, "t"), []
    for row in plan.rows:
        own, C = [level.t for level in row.asks], row.C[-1]
        points = (own + past)[: len(C)]
        for power in range(len(C)):
            found = sum(c[0, 0] * p(t) ** power for c, t in zip(C, points, strict=True))
            (exact,) = integrate(
                process, "eps", row.start, row.end, lambda t, k=power: [p(t) ** k]
            )
            assert torch.allclose(found, exact[0, 0], rtol=1e-10)
        past = ([own[j] for j in row.keep] + past)[: plan.history]


@pytest.mark.parametrize("name", ["t", "rho", "logrho", "softlog", "angle"])
@pytest.mark.parametrize("wants", ["eps", "v"])
@pytest.mark.parametrize("process", [rd.VP(), rd.EDM(), discrete()], ids=["VP", "EDM", "table"])
def test_the_last_step_to_the_clean_state_is_exact_for_polynomials(process, wants, name):
    plan = rd.deis(
        process,
        rd.timegrid(process, 6),
        order=3,
        variable=name,
        wants=wants,
        startup=False,
        end="zero",
    )
    p, row, before = variable(process, name), list(plan.rows)[-1], list(plan.rows)[-3:-1]
    points = [row.asks[0].t, before[1].asks[0].t, before[0].asks[0].t][: len(row.C[-1])]
    assert len(points) == (2 if name == "logrho" else 3)
    top = torch.exp(-process.clock(row.start.t)) / process.sigma_data
    for power in range(len(points)):
        found = sum(c.reshape(()) * p(t) ** power for c, t in zip(row.C[-1], points, strict=True))
        # by parts over rho (eps) or the angle (v), with the end's singular part in u = x^8
        u = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
        length = top if wants == "eps" else torch.atan(top)
        x = length * u**8
        rho = process.sigma_data * (x if wants == "eps" else torch.tan(x))
        f = variable_of_log_snr(name, process.sigma_data)(-rho.log()) ** power * 8 * u**7
        exact = -length * process.sigma_data * f.mean()
        assert abs(float(found / exact) - 1) < 1e-5
    A, _ = convert(process, row.start, wants, "x0")
    assert torch.allclose(row.A[-1], A)


def test_a_clean_end_of_higher_order_is_nearer_than_the_predicted_clean_state():
    process = rd.EDM()
    model = mixture(process, low=0.02, high=0.1)
    levels = (
        torch.linspace(15.0 ** (1 / 7), 0.03 ** (1 / 7), 20, dtype=F64) ** 7
    )  # a host's sigmas
    times = torch.cat((levels, torch.zeros(1, dtype=F64)))
    z = noisy_start(model, 15.0, 256)
    exact = flow_exactly(model, z, 15.0, 1e-5, 1500)
    plan = rd.deis(process, times, variable="softlog", startup=False, end="zero")
    first = plan.rebuilt(rule=dataclasses.replace(plan.rule, order=1))
    far, near = (
        float((follow(model, made, z) - exact).pow(2).mean(1).sqrt().median())
        for made in (first, plan)
    )
    assert near < far / 3


@pytest.mark.parametrize("name", ["ddim", "deis", "ipndm", "heun", "ddpm"])
def test_plans_on_the_noise_do_not_start_where_errors_grow_without_bound(name):
    process = rd.VP(schedule="cosine")
    with pytest.raises(ValueError, match="cannot start at t=1.*start the grid below"):
        getattr(rd, name)(process, torch.linspace(1, 1e-3, 21))
    assert 8 < rd.plan_for(process, 10, solver=name).evaluations <= 10


@pytest.mark.parametrize("name", all_processes())
def test_times_may_be_numbers(name):
    process = all_processes()[name]
    first, last = process.interval
    t = (first + last) / 2
    for method in ("signal", "cov", "root", "drift", "diffusion", "clock", "clock_rate"):
        assert torch.equal(getattr(process, method)(t), getattr(process, method)(double(t)[0]))
    assert torch.equal(process.psi(t, last), process.psi(double(t)[0], double(last)[0]))
    assert process.level(t).sigma == process.level(double(t)[0]).sigma


@ON
@EVERY
def test_a_plan_asks_as_often_as_it_says_and_at_real_noise_levels(process, build):
    plan = build(process, rd.timegrid(process, 7))
    asked = []
    model = mixture(process)
    inner = model.predict
    model.predict = lambda z, level: (asked.append(float(level.t)), inner(z, level))[1]
    follow(model, plan, noisy_start(model, float(plan.times[0]), 2))
    assert len(asked) == plan.evaluations
    assert min(asked) > float(plan.times[-1])
    assert all(a >= b for a, b in zip(asked, asked[1:]))
    assert all(float(row.start.t) > float(row.end.t) for row in plan.rows)


@EVERY
def test_a_plan_survives_a_file_bit_for_bit(build, tmp_path):
    process = rd.VP()
    plan = build(process, rd.timegrid(process, 7))
    path = tmp_path / "plan.json"
    plan.save(path)
    other = Plan.load(path)
    assert str(other) == str(plan)
    assert torch.equal(other.times, plan.times)
    for a, b in zip(plan.rows, other.rows, strict=True):
        for C, D in zip(a.C, b.C):
            assert all(c is d or torch.equal(c, d) for c, d in zip(C, D))


def test_a_plan_with_langevin_correctors_survives_a_file_bit_for_bit(tmp_path):
    process = rd.VP()
    base = rd.deis(process, rd.timegrid(process, 6), order=2, startup=False)
    plan = langevin_corrected(base, 2, churn=1.0, low=0.1)
    plan.save(tmp_path / "plan.json")
    for a, b in zip(plan.rows, Plan.load(tmp_path / "plan.json").rows, strict=True):
        assert torch.equal(a.A[-1], b.A[-1])
        assert (a.B is None and b.B is None) or torch.equal(a.B, b.B)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_stochastic_plan_survives_a_file_bit_for_bit(eta, tmp_path):
    process = rd.VP()
    plan = rd.ddpm(process, rd.timegrid(process, 5), eta=eta)
    plan.save(tmp_path / "plan.json")
    other = Plan.load(tmp_path / "plan.json")
    assert str(other) == str(plan)
    for a, b in zip(plan.rows, other.rows, strict=True):
        assert torch.equal(a.A[-1], b.A[-1])
        assert (a.B is None and b.B is None) or torch.equal(a.B, b.B)


def test_a_damaged_plan_file_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    rd.ddim(rd.VP(), rd.timegrid(rd.VP(), 3)).save(path)
    text = path.read_text()
    for bad in (text[:50], "{}", text.replace("Adams", "Adam"), text.replace("VP", "PV")):
        path.write_text(bad)
        with pytest.raises(ValueError, match=r"not a saved plan|not known"):
            Plan.load(path)
    data = json.loads(text)
    data["times"] = data["times"][::-1]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="decrease strictly"):
        Plan.load(path)


def test_entering_in_the_middle_makes_the_rows_anew():
    process = rd.VP()
    plan = rd.deis(process, rd.timegrid(process, 10), order=3, startup=False)
    late = plan.start(4)
    fresh = rd.deis(process, plan.times[4:], order=3, startup=False)
    for a, b in zip(late.rows, fresh.rows, strict=True):
        assert all(torch.equal(c, d) for c, d in zip(a.C[-1], b.C[-1], strict=True))
    assert [len(row.C[-1]) for row in late.rows][:3] == [1, 2, 3]
    with pytest.raises(ValueError, match="i must be at least 0"):
        plan.start(10)


@pytest.mark.parametrize("solver", ["ddim", "deis", "res", "dpmpp", "ddpm"])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 7, 9, 10, 11, 16, 25])
def test_a_budget_is_kept(solver, budget):
    for order in (None, 1, 2, 3, 4):
        for options in ({}, {"startup": True}, {"multistep": True}, {"single": True}):
            try:
                plan = rd.plan_for(rd.VP(), budget, solver=solver, order=order, **options)
            except (ValueError, TypeError):
                continue
            assert plan.evaluations <= budget
            if options != {"startup": True}:
                assert plan.evaluations == budget


def test_the_shorter_step_comes_first():
    plan = rd.plan_for(rd.VP(), 10, solver="res", order=3)
    assert [len(row.asks) for row in plan.rows] == [1, 3, 3, 3]


def test_a_process_without_signal_at_the_start_is_stepped_in_x0_and_refused_in_eps():
    process = rd.Flow()
    grid = rd.timegrid(process, 6, "uniform", start=1.0, stop=0.0)
    model = mixture(process)
    z = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    for plan in (rd.res(process, grid), rd.dpmpp(process, grid), rd.res(process, grid, order=2)):
        out = follow(model, plan, z)
        assert bool(out.isfinite().all())
        # the last step, to zero noise, returns the prediction
        assert float(list(plan.rows)[-1].A[-1].abs().max()) == 0
    with pytest.raises(ValueError, match="cannot start at t=1"):
        rd.deis(process, grid)


def test_tables_can_be_differentiated_in_the_times():
    process = rd.VP()
    grid = rd.timegrid(process, 5)

    def value(inner, build):
        times = torch.cat((grid[:1], inner, grid[-1:]))
        model = mixture(process)
        return follow(model, build(process, times), z).sum()

    z = noisy_start(mixture(process), 1.0, 2)
    for build in (BUILDERS["deis 4"], BUILDERS["res 3"], BUILDERS["dpmpp 3"]):
        inner = grid[1:-1].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda i, b=build: value(i, b), inner, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, g: rd.deis(p, g, order=0), "order must be at least 1"),
        (lambda p, g: rd.deis(p, g[:3], order=4), "needs at least 4 steps, the grid has 2"),
        (lambda p, g: rd.deis(p, g.flip(0)), "decrease strictly"),
        (lambda p, g: rd.deis(p, torch.cat((g, g[-1:]))), "remove repeated times"),
        (lambda p, g: rd.deis(p, g * 2), "within"),
        (lambda p, g: rd.deis(p, g, variable="logsnr"), "variable='logsnr' is not known"),
        (lambda p, g: rd.res(p, g, order=4), "at most 3"),
        (lambda p, g: rd.res(p, g, order=3, c2=2 / 3), "not be 2/3"),
        (lambda p, g: rd.res(p, g, multistep=True, c2=0.5), "single-step"),
        (lambda p, g: rd.ddpm(p, g, eta=1.5), "eta must lie in"),
        (lambda p, g: rd.plan_for(p, 0), "evaluations must be at least 1"),
        (lambda p, g: rd.plan_for(p, 5, solver="dies"), "Did you mean 'deis'"),
        (lambda p, g: rd.plan_for(p, 2, order=3), "needs at least 3 evaluations"),
        (lambda p, g: rd.ddim(p, g[:1]), "at least two"),
    ],
)
def test_a_bad_plan_is_refused_with_the_way_out(make, message):
    process = rd.VP()
    with pytest.raises(ValueError, match=message):
        make(process, rd.timegrid(process, 6))


def test_a_plan_cites_the_papers_it_uses():
    process = rd.VP()
    assert "2204.13902" in rd.deis(process, rd.timegrid(process, 6)).cite()
    assert "2308.02157" in rd.res(process, rd.timegrid(process, 6)).cite()
    assert set(all_processes()) >= {"VP", "Spring"}
