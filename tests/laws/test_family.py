"""The rest of the family: orders, corrector, order conditions, clean ends, churn, the SDE."""

import math

import pytest
import torch

import redrift as rd
from laws.test_orders import RANGES, assert_order, counts, errors, problem, rms
from problems import (
    F64,
    Spring,
    all_processes,
    even_grid,
    follow,
    generator,
    mixture,
    scalar_processes,
    slopes,
)
from redrift.process import TableProcess
from redrift.solvers.conditions import conditions
from redrift.solvers.exprk import RungeKutta, gamma
from redrift.solvers.multistep import Adams

MEMBERS = {
    "krogstad": (lambda p, g: rd.krogstad(p, g), 4, "VP"),
    "rk heun": (lambda p, g: rd.rho_rk(p, g, "heun"), 2, "EDM"),
    "rk midpoint": (lambda p, g: rd.rho_rk(p, g, "midpoint"), 2, "VP"),
    "rk kutta3": (lambda p, g: rd.rho_rk(p, g, "kutta3"), 3, "EDM"),
    "rk ralston3": (lambda p, g: rd.rho_rk(p, g, "ralston3"), 3, "Flow"),
    "rk rk4": (lambda p, g: rd.rho_rk(p, g, "rk4"), 4, "VP"),
    "heun": (lambda p, g: rd.heun(p, g, end="min"), 2, "EDM"),
    "ipndm": (lambda p, g: rd.ipndm(p, g), 2, "EDM"),
    "v 1": (lambda p, g: rd.deis(p, g, order=1, wants="v"), 1, "EDM"),
    "v 2": (lambda p, g: rd.deis(p, g, order=2, wants="v"), 2, "VP"),
    "v 3": (lambda p, g: rd.deis(p, g, order=3, wants="v"), 3, "EDM"),
    "v 4": (lambda p, g: rd.deis(p, g, order=4, wants="v"), 4, "VP"),
    "res 2 corrected": (
        lambda p, g: rd.res(p, g, order=2, multistep=True, corrector=True), 3, "VP"),
    "res 3 corrected": (
        lambda p, g: rd.res(p, g, order=3, multistep=True, corrector=True), 4, "Spring"),
    "deis 1 corrected": (lambda p, g: rd.deis(p, g, order=1, corrector=True), 2, "EDM"),
    "deis 2 corrected": (lambda p, g: rd.deis(p, g, order=2, corrector=True), 3, "Melt"),
    "deis 3 corrected": (lambda p, g: rd.deis(p, g, order=3, corrector=True), 4, "EDM"),
    "v 2 corrected": (lambda p, g: rd.deis(p, g, order=2, wants="v", corrector=True), 3, "EDM"),
    "v 2 corrected above": (
        lambda p, g: rd.deis(p, g, order=2, wants="v", corrector=1.0), 3, "EDM"),
    "deis 3 corrected above": (lambda p, g: rd.deis(p, g, order=3, corrector=1.0), 4, "EDM"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_members_converge_with_their_order(name):
    build, order, where = MEMBERS[name]
    process = all_processes()[where]
    assert build(process, rd.timegrid(process, 9)).converges == order
    found = errors(where, build)
    while found[-1] < 5e-12:  # the reference's own error
        found.pop()
    assert_order(found, order)


def test_the_corrector_costs_no_evaluation():
    for process in (rd.VP(), Spring()):
        grid = rd.timegrid(process, 9)
        for order in (1, 2):
            plain = rd.deis(process, grid, order=order)
            corrected = rd.deis(process, grid, order=order, corrector=True)
            assert corrected.evaluations == plain.evaluations == 9
        asked = [len(row.asks) for row in corrected.rows]
        assert asked == [2] + [1] * 7 + [0]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_corrector_with_a_level_stops_there_for_one_point_more(order):
    process = rd.VP()
    grid = rd.timegrid(process, 9)

    def build(**options):
        return rd.deis(process, grid, startup=False, **options)

    plan = build(order=order, corrector=1.0)
    assert plan.evaluations == build(order=order, corrector=True).evaluations
    ends = [float(row.end.root / row.end.signal) for row in plan.rows]
    assert ends[2] > 1 > ends[6]
    corrected = [float(row.asks[-1].t) == float(row.end.t) for row in plan.rows if row.asks]
    assert corrected == [rho >= 1 for rho, row in zip(ends, plan.rows) if row.asks]
    assert [len(row.C[-1]) for row in plan.rows][-1] == order + 1
    model = mixture(process)
    z = torch.randn(8, 4, generator=generator(), dtype=F64)
    for level, same in ((1e-9, {"order": order, "corrector": True}), (1e9, {"order": order + 1})):
        found = follow(model, build(order=order, corrector=level), z)
        assert torch.equal(found, follow(model, build(**same), z))
        assert not torch.equal(found, follow(model, plan, z))


def test_conditions_hold_where_a_method_meets_them_and_fail_where_it_does_not():
    zero = 1e-12
    for c2, c3 in ((1 / 3, 2 / 3), (0.5, 0.75), (0.5, 1.0), (0.3, 0.7)):
        found = conditions(RungeKutta(3, c2=c2, c3=c3))
        assert max(map(abs, (found.psi1, found.psi2, found.stage, found.coupled))) < zero
        assert abs(found.psi3_limit) < 1e-9
    two = conditions(RungeKutta(2))
    assert max(map(abs, (two.psi1, two.psi2, two.stage))) < zero
    assert two.coupled == pytest.approx(7.8e-2, rel=0.02)
    dpm = conditions(RungeKutta(2, weights="dpmpp"))
    assert dpm.psi2 == pytest.approx(5.2e-2, rel=0.02)
    multi = conditions(Adams("x0", "logrho", 2), past=(-1.0,))
    assert max(abs(multi.psi1), abs(multi.psi2)) < zero
    from redrift.solvers.dpmpp import DPMpp

    assert abs(conditions(DPMpp(2), past=(-1.0,)).psi2) > 1e-2
    three = conditions(Adams("x0", "logrho", 3), past=(-1.0, -2.0))
    assert max(map(abs, (three.psi1, three.psi2, three.psi3))) < zero
    four = conditions(RungeKutta(4, c2=0.5, c3=0.5))
    assert max(map(abs, (four.psi1, four.psi2, four.psi3, four.stage, four.coupled))) < zero


def test_the_gamma_in_circulation_breaks_the_third_condition():
    c2, c3 = 0.5, 0.75
    wrong = (3 * c3**3 - 2 * c3) / (c2 * (2 - 3 * c2))
    right = gamma(c2, c3)
    # b2 c2^2 + b3 c3^2 = 1/3 at h = 0, where b3 = 1/2 / (gamma c2 + c3)
    for value, holds in ((right, True), (wrong, False)):
        b3 = 0.5 / (value * c2 + c3)
        assert (abs(value * b3 * c2**2 + b3 * c3**2 - 1 / 3) < 1e-14) == holds


ENDS = {
    "ddim": lambda p, g, end: rd.ddim(p, g, end=end),
    "deis": lambda p, g, end: rd.deis(p, g, order=1, end=end),
    "v": lambda p, g, end: rd.deis(p, g, order=1, wants="v", end=end),
    "res multistep": lambda p, g, end: rd.res(p, g, order=2, multistep=True, end=end),
    "res": lambda p, g, end: rd.res(p, g, order=2, end=end),
    "dpmpp": lambda p, g, end: rd.dpmpp(p, g, end=end),
    "heun": lambda p, g, end: rd.heun(p, g, end=end),
}


@pytest.mark.parametrize("build", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("name", ["VP", "EDM", "cosine", "VE", "TableProcess", "Flow"])
def test_a_clean_end_of_order_one_returns_the_last_prediction(name, build):
    process = scalar_processes()[name]
    model, grid = mixture(process), rd.timegrid(process, 6)
    z = torch.randn(4, 4, generator=generator(), dtype=F64) * float(process.sigma(grid[0]))
    plain, denoised = build(process, grid, "min"), build(process, grid, "denoise")
    assert denoised.evaluations == plain.evaluations + 1
    assert float(denoised.times[-1]) == process.clean
    last = follow(model, plain, z)
    found = follow(model, denoised, z)
    assert torch.allclose(found, model.x0(last, float(grid[-1])), atol=1e-10)
    zero = build(process, grid, "zero")
    assert zero.steps == plain.steps
    assert len(list(zero.rows)[-1].asks) <= 1
    before = follow(model, build(process, grid[:-1], "min"), z)
    assert torch.allclose(follow(model, zero, z), model.x0(before, float(grid[-2])), atol=1e-10)


def test_clean_ends_survive_a_file(tmp_path):
    for end in ("zero", "denoise"):
        plan = rd.heun(rd.EDM(), rd.timegrid(rd.EDM(), 5), churn=3.0, end=end)
        plan.save(tmp_path / "plan.json")
        other = rd.Plan.load(tmp_path / "plan.json")
        assert str(other) == str(plan)
        for a, b in zip(plan.rows, other.rows, strict=True):
            assert torch.equal(a.A[-1], b.A[-1])


def gaussian_variance(plan, data):
    """Propagate the variance of a Gaussian of standard deviation `data` through a plan's rows."""
    process, t = plan.process, plan.times[0]
    assert plan.wants in ("x0", "eps")
    a, s = process.alpha(t), process.sigma(t)
    gain, noise = [(a**2 * data**2 + s**2).sqrt()], []  # the state as a vector over noises
    state, past = torch.stack(gain), []

    def ask(state, level):
        alpha, sigma = level.signal[0, 0], level.root[0, 0]
        total = alpha**2 * data**2 + sigma**2
        return state * (alpha * data**2 if plan.wants == "x0" else sigma) / total

    for row in plan.rows:
        own = []
        for k, level in enumerate(row.asks):
            stage = state if k == 0 and row.fresh else combine(row, k, state, own, past)
            own.append(ask(stage, level))
        state = combine(row, -1, state, own, past)
        past = ([own[j] for j in row.keep] + past)[: plan.history]
        if row.B is not None:
            state = torch.cat((state, row.B.flatten()))
            past = [torch.cat((e, e.new_zeros(1))) for e in past]
    return float((state**2).sum()), noise


def combine(row, k, state, own, past):
    total = row.A[k].flatten() * state
    for weight, e in zip(row.C[k], own + past):
        if weight is not None:
            total = total + weight.flatten() * torch.nn.functional.pad(e, (0, len(state) - len(e)))
    return total


@pytest.mark.parametrize(("order", "slope"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_exponential_sde_keeps_the_marginal_with_its_order(order, slope, eta):
    process, data = rd.EDM(), 0.5
    errors = []
    for steps in (64, 128, 256):
        grid = rd.timegrid(process, steps, "logsnr", start=20.0, stop=0.05)
        variance, _ = gaussian_variance(
            rd.exponential_sde(process, grid, order=order, eta=eta), data
        )
        errors.append(abs(variance / (data**2 + 0.05**2) - 1))
    assert abs(slopes(errors)[-1] - slope) < 0.2, errors


def test_without_noise_the_exponential_sde_is_multistep_res():
    process = rd.VP()
    grid, model = rd.timegrid(process, 8), mixture(process)
    z = torch.randn(4, 4, generator=generator(), dtype=F64)
    sde = rd.exponential_sde(process, grid, order=2, eta=0.0)
    flow = rd.res(process, grid, order=2, multistep=True, lower_final=True)
    for a, b in zip(sde.rows, flow.rows, strict=True):
        for x, y in zip(a.C[-1], b.C[-1]):
            assert torch.allclose(x, y, rtol=1e-12)
        assert float(a.B) == 0
    assert torch.allclose(follow_mean(sde, model, z), follow(model, flow, z), rtol=1e-12)


def follow_mean(plan, model, z):
    class Mean:
        width, coupled = 1, False

        def begin(self):
            import contextlib

            return contextlib.nullcontext(self)

        def __call__(self, law, model, wants, *, generator):
            return rd.solvers.NextState(law.mean)

        def finish(self, x):
            return x

    return rd.sample(model, plan, x=z, policy=Mean())


@pytest.mark.parametrize("build", [rd.heun, lambda p, g, **k: rd.res(p, g, order=2, **k)])
def test_churn_carries_the_state_up_by_the_forward_transition(build):
    for process in (rd.EDM(), rd.VP()):
        grid = rd.timegrid(process, 10)
        plan = build(process, grid, churn=5.0)
        noisy = [row for row in plan.rows if row.B is not None]
        assert len(noisy) >= 8
        assert plan.stochastic
        for row in noisy:
            before, after = row.start, row.end
            rise = (after.root / after.signal) / (before.root / before.signal)
            assert float(rise) == pytest.approx(1 + min(0.5, math.sqrt(2) - 1), rel=1e-12)
            total = row.A[0] ** 2 * before.root**2 + row.B**2
            assert torch.allclose(total, after.root**2, rtol=1e-12)
            assert torch.allclose(row.A[0] * before.signal, after.signal, rtol=1e-12)
        asked = sum(len(row.asks) for row in plan.rows)
        assert asked == plan.evaluations


def test_churn_of_zero_is_the_plain_method_bit_for_bit():
    process = rd.EDM()
    grid = rd.timegrid(process, 6)
    for a, b in zip(
        rd.heun(process, grid).rows, rd.heun(process, grid, churn=0.0).rows, strict=True
    ):
        assert all(x is y or torch.equal(x, y) for x, y in zip(a.C[-1], b.C[-1]))


def test_heun_is_the_published_algorithm():
    process = rd.EDM()
    grid = rd.timegrid(process, 5, "karras")
    model = mixture(process)
    x = z = 80 * torch.randn(3, 4, generator=generator(), dtype=F64)
    sigmas = [*grid.tolist(), 0.0]
    for a, b in zip(sigmas, sigmas[1:]):
        d = (x - model.x0(x, a)) / a
        step = x + (b - a) * d
        if b > 0:
            step = x + (b - a) * (d + (step - model.x0(step, b)) / b) / 2
        x = step
    assert torch.allclose(follow(model, rd.heun(process, grid), z), x, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rd.heun(Spring(), rd.timegrid(Spring(), 4)), "needs a process with one noise"),
        (lambda: rd.rho_rk(rd.VP(), rd.timegrid(rd.VP(), 4), "rk5"), "method='rk5' is not known"),
        (lambda: rd.heun(rd.VP(), rd.timegrid(rd.VP(), 4), churn=-1.0), "churn >= 0"),
        (lambda: rd.res(Spring(), rd.timegrid(Spring(), 4), churn=1.0), "churn needs a process"),
        (lambda: rd.deis(rd.VP(), rd.timegrid(rd.VP(), 4), end="zeero"), "Did you mean 'zero'"),
        (lambda: rd.deis(rd.VP(), rd.timegrid(rd.VP(), 6), order=4, corrector=True), "at most 3"),
        (
            lambda: rd.deis(rd.VP(), rd.timegrid(rd.VP(), 6), corrector=-0.4),
            "corrector=-0.4 must be",
        ),
        (lambda: rd.deis(rd.VP(), rd.timegrid(rd.VP(), 6), corrector=None), "corrector=None must"),
        (lambda: rd.deis(Spring(), rd.timegrid(Spring(), 6), corrector=0.4), "one noise level"),
        (lambda: rd.exponential_sde(rd.VP(), rd.timegrid(rd.VP(), 4), eta=-1.0), "eta must be"),
        (lambda: rd.deis(Spring(), rd.timegrid(Spring(), 4), wants="v"), "no meaning for k = 2"),
        (lambda: rd.ipndm(rd.VP(), rd.timegrid(rd.VP(), 3), order=4), "needs at least 4 steps"),
        (lambda: rd.plan_for(rd.VP(), 1, solver="heun", end="min"), "heun needs at least 2"),
        (
            lambda: rd.plan_for(rd.VP(), 2, solver="krogstad", method="x"),
            "krogstad needs at least",
        ),
    ],
)
def test_bad_members_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_helpers_of_this_file_measure_what_they_say():
    model, z, start, stop, exact = problem("EDM")
    plan = rd.ddim(model.process, even_grid(model.process, counts("EDM")[0], start, stop))
    assert rms(follow(model, plan, z), exact) > 1e-4
    assert RANGES["EDM"][0] == rd.EDM()
    assert isinstance(scalar_processes()["TableProcess"], TableProcess)
