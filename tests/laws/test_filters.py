"""The path-integral filter on linear-Gaussian models: exact, unbiased, and the bootstrap at its end."""

import dataclasses
import math
import pickle

import pytest
import torch

from redrift.filters import (
    Bootstrap,
    GaussianPrior,
    ParticleFilter,
    PathIntegral,
    Sensor,
    StateSpace,
    kalman,
    particle_filter,
)
from redrift.measure.noise import NoiseLaw
from redrift.measure.noise import log_ratio as measured
from redrift.pathintegral.forward import simulate_paths
from redrift.pathintegral.ilqr import nominal
from redrift.pathintegral.window import Window
from redrift.statespace.columns import coordinate_major
from redrift.statespace.observation import ObservationBatch
from redrift.statespace.problems import PROBLEMS

LINEAR = ("ou", "tracking", "ar4", "ar10", "integrators")
WHOLE = PathIntegral(math.inf, math.inf)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(name, batch=4, seed=0, count=None):
    problem = PROBLEMS[name]()
    times = problem.times[:count]
    _, y = problem.model.simulate(times, batch=batch, generator=seeded(seed))
    return problem, times, y


def eye(d):
    return torch.eye(d, dtype=torch.float64)


def places(times, post):
    return [min(range(len(times)), key=lambda i: abs(times[i] - t)) for t in post.times.tolist()]


def error(post, exact, times):
    """Return rms of (mean - exact mean) / exact standard deviation."""
    at = places(times, post)
    return float((((post.mean - exact.mean[:, at]) / exact.std[:, at]) ** 2).mean().sqrt())


@pytest.mark.parametrize("n", [1, 3, 50])
@pytest.mark.parametrize("name", LINEAR)
def test_one_window_weighs_all_paths_alike_and_gives_kalmans_evidence_for_any_number(name, n):
    problem, times, y = made(name)
    exact = kalman(problem.model, y, times=times)
    post = particle_filter(
        problem.model, y, times=times, particles=n, proposal=WHOLE, generator=seeded(1)
    )
    assert 1 - float(post.ess.min()) < 1e-10
    assert float((post.log_evidence - exact.log_evidence).abs().max()) < 1e-8


def test_the_filter_by_matrices_and_the_filter_step_by_step_are_one():
    problem, times, y = made("tracking", count=20)
    options = {"times": times, "particles": 7}
    same = PathIntegral(problem.window, twisting=lambda window, guide: guide, rao_blackwell=True)
    fast = PathIntegral(problem.window, rao_blackwell=True)
    a = particle_filter(problem.model, y, proposal=fast, generator=seeded(1), **options)
    b = particle_filter(problem.model, y, proposal=same, generator=seeded(1), **options)
    torch.testing.assert_close(a.particles, b.particles, atol=1e-10, rtol=0)
    torch.testing.assert_close(a.mean, b.mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(a.log_evidences, b.log_evidences, atol=1e-8, rtol=0)


@pytest.mark.parametrize("guide", ["auto", lambda window, guide: guide])
def test_the_increments_are_the_log_ratios_of_the_laws_of_the_noise(guide):
    problem = PROBLEMS["ar4"]()
    window = Window(problem.model, (0.0, 1.0, 2.0), (), None)
    y = torch.ones(2, 3, 1, 4, dtype=torch.float64)
    facts = (torch.tensor([[1.0], [2.0]]).double().reshape(2, 1, 1, 1),) * 2
    window = dataclasses.replace(window, places=(1, 2), obs=ObservationBatch(y, *facts, True))
    x = torch.randn(3, 5, 4, generator=seeded(), dtype=torch.float64)
    z = torch.randn(2, 3, 5, 4, generator=seeded(1), dtype=torch.float64)
    found = nominal(window, x[:, :1], None, 0)
    run = simulate_paths(window, found, x, z)
    potential = window.log_likelihood(run.path)
    for k in range(2):
        m = problem.model.advance(run.path[k], k, 1.0)
        mu = found.gain[k] - m @ found.feedback[k, 0, 0].mT
        root = torch.linalg.cholesky(found.root[k, 0, 0] @ found.root[k, 0, 0].mT)
        white = torch.linalg.solve_triangular(root, (run.noise[k] - mu).mT, upper=False).mT
        law = NoiseLaw(mu.flatten(0, 1), root)
        ratio = measured(None, law, run.noise[k].flatten(0, 1), white.flatten(0, 1))
        torch.testing.assert_close(run.increments[k] - potential[k], ratio.reshape(3, 5))


@pytest.mark.parametrize("given", ["matrix", "function"])
def test_psi_is_the_likelihood_of_the_windows_data_given_its_start(given):
    problem, times, y = made("ar4", batch=3, count=3)
    x = torch.randn(3, 5, 4, generator=seeded(1), dtype=torch.float64)
    facts = (torch.tensor(times).double().reshape(3, 1, 1, 1),) * 2
    obs = ObservationBatch(y.movedim(1, 0).unsqueeze(2), *facts, True)
    F = problem.model.drift
    bare = {
        "drift": lambda x, t: x @ F.mT + 0.3, "sensors": Sensor(lambda x, t: x, 0.01 * eye(4)),
    }  # fmt: skip
    model = dataclasses.replace(problem.model, offset=torch.full((4,), 0.3).double())
    walked = dataclasses.replace(model, offset=None, **bare) if given == "function" else model
    window = Window(walked, (0.0, *times), (1, 2, 3), obs)
    psi = nominal(window, x, None, 2).log_psi(walked, x)
    for n in range(5):
        known = GaussianPrior(x[:, n : n + 1], torch.zeros(4, 4).double())
        exact = kalman(dataclasses.replace(model, initial=known), y, times=times).log_evidence
        torch.testing.assert_close(psi[:, n], exact)


def test_steering_the_mean_alone_loses_a_share_that_is_proportional_to_the_step():
    lost = []
    for dt in (0.00625, 0.003125, 0.0015625):
        prior = GaussianPrior(torch.zeros(1).double(), eye(1))
        model = StateSpace(
            prior, (1 - dt) * eye(1), math.sqrt(dt) * eye(1), dt, Sensor(eye(1), 1e-2 / dt),
            time="discrete",
        )  # fmt: skip
        times = [dt * (k + 1) for k in range(round(0.3 / dt))]
        _, y = model.simulate(times, batch=32, generator=seeded())
        option = dataclasses.replace(WHOLE, proposal="shift")
        post = particle_filter(
            model, y, times=times, particles=1000, proposal=option, generator=seeded(1)
        )
        lost.append(float(1 - post.ess.mean()))
        twist = particle_filter(
            model, y, times=times, particles=10, proposal=WHOLE, generator=seeded(1)
        )
        assert 1 - float(twist.ess.min()) < 1e-10
    assert 0.4 < lost[1] / lost[0] < 0.6
    assert 0.4 < lost[2] / lost[1] < 0.6


@pytest.mark.parametrize("n", [20, 50, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LINEAR)
def test_moving_windows_err_as_independent_draws_of_the_posterior_would(name, n):
    problem, times, y = made(name, batch=64)
    exact = kalman(problem.model, y, times=times)
    option = PathIntegral(problem.window, problem.stride)
    post = particle_filter(
        problem.model, y, times=times, particles=n, proposal=option, generator=seeded(1)
    )
    assert 0.9 < error(post, exact, times) * math.sqrt(n) < 1.05
    if n == 50:
        spread = float((post.log_evidence - exact.log_evidence).std())
        # about .095 for ou; 64 runs know a standard deviation to 9 %
        assert spread < (0.12 if name == "ou" else 0.02)


@pytest.mark.parametrize("name", ["tracking", "ar4", "integrators"])
def test_the_mean_of_the_noise_free_ends_errs_less(name):
    problem, times, y = made(name, batch=16)
    exact = kalman(problem.model, y, times=times)
    option = PathIntegral(problem.window, problem.stride, rao_blackwell=True)
    post = particle_filter(
        problem.model, y, times=times, particles=50, proposal=option, generator=seeded(1)
    )
    assert error(post, exact, times) < 0.03 / math.sqrt(50)
    # a window that begins at the first time has no noise left, start included
    first = places(times, post)[0]
    miss = (post.mean[:, 0] - exact.mean[:, first]) / exact.std[:, first]
    assert float(miss.abs().max()) < 1e-6


def test_full_smoothing_is_rauch_tung_and_striebels():
    problem, times, y = made("tracking", batch=8, count=20)
    exact = kalman(problem.model, y, times=times)
    mean, cov = exact.smoothed()
    n = 4000
    post = particle_filter(
        problem.model, y, times=times, particles=n, proposal=WHOLE, generator=seeded(1)
    )
    at = [5 * (k + 1) for k in range(20)]
    found, variance = post.smoothed()
    spread = cov.diagonal(dim1=-2, dim2=-1)
    score = (found[:, at] - mean) / (spread / n).sqrt()
    assert float(score.abs().max()) < 4.5  # 320 normal scores: exceeded once in 500 runs
    ratio = (variance[:, at] / spread - 1) / math.sqrt(2 / n)
    assert float(ratio.abs().max()) < 5


def test_fixed_lag_smoothing_is_rauch_tung_and_striebels_at_that_lag():
    problem, times, y = made("tracking", batch=48)
    exact = kalman(problem.model, y, times=times)
    post = particle_filter(
        problem.model, y, times=times, particles=50, proposal=PathIntegral(problem.window),
        smooth=True, generator=seeded(1),
    )  # fmt: skip
    for lag in (0, 1, 3, 5):
        mean, cov = exact.smoothed(lag)
        found, variance = post.smoothed(0.1 * lag)
        count = len(times) - lag
        skip = found.shape[1] - count  # the start itself, where the lag reaches it
        spread = cov.diagonal(dim1=-2, dim2=-1)[:, :count]
        rms = float(((found[:, skip:] - mean[:, :count]) ** 2 / spread).mean().sqrt())
        assert 0.9 < rms * math.sqrt(50) < 1.1, lag
        assert abs(float((variance[:, skip:] / spread).mean()) * 50 / 49 - 1) < 0.03


def test_kalmans_variance_tends_to_that_of_kalman_and_bucy_with_the_step():
    r, gaps = 0.1, []
    limit = r * (-1 + math.sqrt(1 + 1 / r))
    for dt in (0.02, 0.01, 0.005):
        model = StateSpace(
            GaussianPrior(torch.zeros(1).double(), eye(1)), -eye(1), 1.0, dt,
            Sensor(eye(1), r, kind="increment"),
        )  # fmt: skip
        times = [dt * (k + 1) for k in range(round(4 / dt))]
        post = kalman(model, torch.zeros(len(times), 1).double(), times=times)
        gaps.append(float(post.cov[-1, 0, 0]) - limit)
    assert abs(gaps[-1]) < 0.02 * limit
    assert abs(gaps[0] / gaps[1] - 2) < 0.1
    assert abs(gaps[1] / gaps[2] - 2) < 0.1


@pytest.mark.parametrize("n", [2, 8])
@pytest.mark.parametrize("mode", ["block", "archive"])
@pytest.mark.parametrize("guide", ["right", "wrong"])
def test_the_evidence_is_unbiased_in_both_recursions_even_under_a_wrong_guide(guide, mode, n):
    dt, repeats = 0.25, 40_000
    model = StateSpace(
        GaussianPrior(torch.zeros(1).double(), eye(1)), -eye(1), 1.0, dt, Sensor(eye(1), 0.5)
    )  # fmt: skip
    times = [dt * k for k in range(1, 6)]
    y = torch.tensor([0.4, 1.1, 0.3, -0.5, 0.2]).double().reshape(1, 5, 1)
    exact = kalman(model, y[0], times=times).log_evidence

    def wrong(window, guide):
        return dataclasses.replace(
            guide, gain=guide.gain + 0.25, feedback=0.6 * guide.feedback,
            slope=0.7 * guide.slope + 0.1, curvature=0.8 * guide.curvature,
        )  # fmt: skip

    option = PathIntegral(2 * dt, mode=mode, twisting="auto" if guide == "right" else wrong)
    post = particle_filter(
        model, y.expand(repeats, 5, 1), times=times, particles=n, proposal=option,
        generator=seeded(7),
    )  # fmt: skip
    ratio = (post.log_evidence - exact).exp()
    miss = float((ratio.mean() - 1) / (ratio.std() / math.sqrt(repeats)))
    assert abs(miss) < 4
    assert float(ratio.std() / math.sqrt(repeats)) < 0.02


@pytest.mark.parametrize("name", ["tracking", "double-well", "ou", "ar10"])
def test_without_a_guide_and_with_a_window_of_one_measurement_it_is_the_bootstrap(
    name,
):
    problem, times, y = made(name, count=12)
    sensor = dataclasses.replace(problem.model.parts[0], cov=4.0)
    model = dataclasses.replace(problem.model, sensors=sensor)
    options = {"times": times, "particles": 60}
    window = PathIntegral(times[0], twisting="none", check=False)
    a = particle_filter(model, y, proposal=window, generator=seeded(3), **options)
    b = particle_filter(model, y, proposal=Bootstrap(), generator=seeded(3), **options)
    # the last bit of a matrix product depends on the processor
    for mine, other in (
        (a.particles, b.particles),
        (a.log_weights, b.log_weights),
        (a.log_evidences, b.log_evidences),
    ):
        torch.testing.assert_close(mine, other, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("spread", [1.0, 0.7])
@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_diagonals_are_the_matrices_that_they_stand_for(spread, variance):
    # a number off the diagonal that no rounding sees makes the same model one of matrices
    speck = torch.zeros(3, 3).double()
    speck[0, 2] = 1e-200
    F = torch.diag(torch.tensor([0.9, 0.5, -0.3])).double()
    G = torch.diag(torch.tensor([1.0, 1.0, spread])).double()
    H = torch.diag(torch.tensor([1.0, 2.0, 0.5])).double()
    R = torch.tensor([1.0, 0.5, variance]).double()
    y = torch.randn(2, 12, 3, generator=seeded(), dtype=torch.float64)
    one, two = (
        particle_filter(
            StateSpace(
                GaussianPrior(torch.zeros(3).double(), eye(3)), F + s, G + s, 1.0, Sensor(H + s, R),
                time="discrete",
            ), y, particles=600, generator=seeded(1),
        )
        for s in (0 * speck, speck)
    )  # fmt: skip
    torch.testing.assert_close(one.particles, two.particles, atol=1e-10, rtol=0)
    torch.testing.assert_close(one.log_weights, two.log_weights, atol=1e-10, rtol=0)
    torch.testing.assert_close(one.log_evidences, two.log_evidences, atol=1e-10, rtol=0)


def test_states_sum_alike_however_they_lay_in_memory():
    x = torch.randn(2, 50, 10, generator=seeded(), dtype=torch.float64)
    other = x.movedim(-1, 0).contiguous().movedim(0, -1)
    for laid in (coordinate_major(x), coordinate_major(other)):
        assert torch.equal(laid, x)
        assert laid.stride(-2) == 1
        assert torch.equal(laid.sum(-1), other.sum(-1))


def transformed(model, T):
    inverse = torch.linalg.inv(T)
    sensor = model.parts[0]
    prior = GaussianPrior(model.initial.mean @ T.mT, T @ model.initial.cov @ T.mT)
    return dataclasses.replace(
        model, initial=prior, drift=T @ model.drift @ inverse, scale=T @ model.scale,
        sensors=Sensor(sensor.h @ inverse, sensor.cov),
    )  # fmt: skip


def test_a_change_of_coordinates_changes_neither_weights_nor_evidence():
    problem, times, y = made("tracking", count=15)
    T = torch.tensor([[2.0, 0.0], [0.3, 0.1]]).double()
    one, two = (
        particle_filter(
            m, y, times=times, particles=30, proposal=PathIntegral(0.5), generator=seeded(5)
        )
        for m in (problem.model, transformed(problem.model, T))
    )
    torch.testing.assert_close(one.log_evidences, two.log_evidences, atol=1e-7, rtol=0)
    torch.testing.assert_close(one.mean @ T.mT, two.mean, atol=1e-7, rtol=0)
    torch.testing.assert_close(one.ess, two.ess, atol=1e-7, rtol=0)


def test_a_missing_measurement_changes_nothing():
    problem, times, y = made("tracking", count=10)
    exact = kalman(problem.model, y, times=times)
    more = [*times, times[-1] + 0.04]
    wide = torch.cat([y, torch.full_like(y[:, :1], torch.nan)], 1)
    longer = kalman(problem.model, wide, times=more)
    torch.testing.assert_close(longer.log_evidence, exact.log_evidence)
    post = particle_filter(
        problem.model, wide, times=more, particles=3, proposal=WHOLE, generator=seeded(1)
    )
    assert float((post.log_evidence - exact.log_evidence).abs().max()) < 1e-8


def test_partly_missing_vectors_and_correlated_noise_keep_kalmans_evidence():
    problem = PROBLEMS["ar4"]()
    R = 0.01 * (eye(4) + 0.5)
    model = dataclasses.replace(problem.model, sensors=Sensor(eye(4), R))
    _, y = model.simulate(problem.times[:12], batch=6, generator=seeded())
    y[torch.rand(y.shape, generator=seeded(1)) < 0.3] = torch.nan
    exact = kalman(model, y)
    post = particle_filter(model, y, particles=2, proposal=WHOLE, generator=seeded(2))
    assert float((post.log_evidence - exact.log_evidence).abs().max()) < 1e-8
    # the marginal law of what is there, by hand for the first measurement
    one = y[:, :1]
    P = problem.model.drift @ problem.model.drift.mT + eye(4) + R
    for b in range(6):
        there = ~one[b, 0].isnan()
        law = torch.distributions.MultivariateNormal(
            torch.zeros(int(there.sum())).double(), P[there][:, there]
        )
        by_hand = law.log_prob(one[b, 0, there])
        torch.testing.assert_close(kalman(model, one).log_evidence[b], by_hand)


def test_one_measurement_is_two_of_twice_the_variance_up_to_a_known_constant():
    problem, times, y = made("ar4", count=10)
    two = dataclasses.replace(
        problem.model, sensors=(Sensor(eye(4), 0.02 * eye(4)), Sensor(eye(4), 0.02 * eye(4)))
    )
    options = {"times": times, "particles": 40, "proposal": PathIntegral(3.0)}
    a = particle_filter(problem.model, y, generator=seeded(1), **options)
    b = particle_filter(two, torch.cat([y, y], -1), generator=seeded(1), **options)
    # N(y; x, 2R)^2 = N(y; x, R) (8 pi |R|^1/d)^(-d/2) for each of ten measurements in d = 4
    constant = 10 * 4 * -0.5 * math.log(8 * math.pi * 0.01)
    torch.testing.assert_close(b.log_evidence, a.log_evidence + constant)
    torch.testing.assert_close(a.mean, b.mean)


@pytest.mark.parametrize("filter", ["kalman", "particles"])
def test_increments_are_rates_with_covariance_r_over_dt_up_to_a_known_constant(filter):
    dt, r = 0.02, 0.05
    prior = GaussianPrior(torch.zeros(2).double(), eye(2))
    A, H = torch.tensor([[-1.0, 1.0], [0.0, -2.0]]).double(), eye(2)
    rates = StateSpace(prior, A, 1.0, dt, Sensor(H, r / dt * eye(2)))
    moves = StateSpace(prior, A, 1.0, dt, Sensor(H, r * eye(2), kind="increment"))
    times = [dt * (k + 1) for k in range(30)]
    _, dy = moves.simulate(times, batch=3, generator=seeded())
    noise = torch.distributions.Normal(0.0, math.sqrt(r * dt))
    # log N(dY / dt; h, R / dt) = log N(dY; h dt, R dt) + d log dt
    constant = noise.log_prob(dy).sum((1, 2)) + 60 * math.log(dt)
    if filter == "kalman":
        a, b = kalman(rates, dy / dt, times=times), kalman(moves, dy, times=times)
    else:
        options = {"times": times, "particles": 20, "proposal": PathIntegral(0.2)}
        a = particle_filter(rates, dy / dt, generator=seeded(1), **options)
        b = particle_filter(moves, dy, generator=seeded(1), **options)
    torch.testing.assert_close(a.log_evidence, b.log_evidence + constant)
    torch.testing.assert_close(a.mean, b.mean)


def test_a_matrix_in_continuous_time_is_stepped_exactly():
    prior = GaussianPrior(torch.zeros(2).double(), eye(2))
    A = torch.tensor([[0.0, 1.0], [-2.0, -0.3]]).double()
    sigma = torch.tensor([[0.0], [0.7]]).double()
    offset = torch.tensor([0.1, -0.4]).double()
    sensor = Sensor(torch.tensor([[1.0, 0.0]]).double(), 0.01)
    coarse = StateSpace(prior, A, sigma, 0.5, sensor, offset=offset)
    fine = dataclasses.replace(coarse, dt=0.01)
    times = [0.5, 1.3, 2.0]
    _, y = fine.simulate(times, batch=2, generator=seeded())
    a, b = kalman(coarse, y, times=times), kalman(fine, y, times=times)
    torch.testing.assert_close(a.log_evidence, b.log_evidence)
    torch.testing.assert_close(a.cov, b.cov)
    single = particle_filter(coarse, y, times=times, particles=2, proposal=WHOLE)
    assert float((single.log_evidence - a.log_evidence).abs().max()) < 1e-8


@pytest.mark.parametrize("filter", ["path integral", "bootstrap"])
@pytest.mark.parametrize("generators", ["one", "one a data set"])
def test_a_stream_that_is_pickled_on_the_way_gives_the_record_s_laws(filter, generators):
    problem, times, y = made("tracking", batch=2, count=30)
    y[0, 4] = torch.nan
    option = PathIntegral(problem.window) if filter == "path integral" else Bootstrap()

    def seeds():
        return seeded(4) if generators == "one" else [seeded(4), seeded(5)]

    whole = particle_filter(
        problem.model, y, times=times, particles=20, proposal=option, generator=seeds()
    )
    f, g = ParticleFilter(problem.model, 20, option), seeds()
    state, sizes = f.init(2), []
    for k, t in enumerate(times):
        state = pickle.loads(pickle.dumps(state))
        state, law = f.update(state, t, y[:, k], generator=g)
        assert torch.equal(law.mean, whole.mean[:, k])
        sizes.append(len(pickle.dumps(state)))
    assert len(set(sizes[10:])) == 1  # constant memory


def test_parameter_sets_run_side_by_side_as_they_do_alone():
    problem, times, y = made("ar4", batch=1, count=10)
    factors = torch.tensor([0.9, 1.0, 1.05]).double()
    drifts = factors.reshape(3, 1, 1) * problem.model.drift
    options = {"times": times, "particles": 5, "proposal": WHOLE}
    many = dataclasses.replace(problem.model, drift=drifts)
    together = particle_filter(many, y.expand(3, -1, -1), generator=seeded(), **options)
    for i in range(3):
        one = dataclasses.replace(problem.model, drift=drifts[i])
        alone = kalman(one, y[0], times=times).log_evidence
        assert abs(float(together.log_evidence[i] - alone)) < 1e-8


def test_sensors_on_clocks_of_their_own_are_one_record_with_gaps():
    prior = GaussianPrior(torch.zeros(2).double(), eye(2))
    A = torch.tensor([[0.0, 1.0], [0.0, -0.5]]).double()
    sensors = (Sensor(eye(2)[:1], 0.01), Sensor(eye(2)[1:], 0.04))
    model = StateSpace(prior, A, 0.5, 0.1, sensors)
    fast, slow = [0.1 * k for k in range(1, 11)], [0.25, 0.5, 0.75, 1.0]
    g = seeded()
    a, b = (torch.randn(len(t), 1, generator=g, dtype=torch.float64) for t in (fast, slow))
    series = [(fast, a), (slow, b)]
    clock = sorted({*(round(t, 12) for t in fast), *slow})
    y = torch.full((len(clock), 2), torch.nan).double()
    for column, (times, values) in enumerate(series):
        for t, v in zip(times, values):
            y[clock.index(round(t, 12)), column] = v[0]
    exact = kalman(model, y, times=clock)
    torch.testing.assert_close(kalman(model, series).log_evidence, exact.log_evidence)
    post = particle_filter(model, series, particles=2, proposal=WHOLE, generator=g)
    assert abs(float(post.log_evidence - exact.log_evidence)) < 1e-8


def test_the_gradient_of_the_evidence_in_one_window_is_kalmans():
    problem, times, y = made("ar4", batch=1, count=8)

    def score(estimate):
        drift = problem.model.drift.clone().requires_grad_()
        model = dataclasses.replace(problem.model, drift=drift)
        (slope,) = torch.autograd.grad(estimate(model), drift)
        return slope

    exact = score(lambda m: kalman(m, y[0], times=times).log_evidence)
    found = score(
        lambda m: (
            particle_filter(
                m, y[0], times=times, particles=3, proposal=WHOLE, generator=seeded()
            ).log_evidence
        )
    )
    torch.testing.assert_close(found, exact, atol=1e-7, rtol=1e-7)
