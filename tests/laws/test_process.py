"""Laws of every registered process: its tables belong to one linear SDE."""

import pytest
import torch

import redrift as rd
from problems import F64, all_processes, discrete, double, scalar_processes
from redrift._core.linalg import inverse, product, transpose
from redrift.process import SPACINGS, timegrid
from redrift.process.rotation import angle_rate

PROCESSES = all_processes()
EVERY = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
SCALAR = pytest.mark.parametrize("process", scalar_processes().values(), ids=scalar_processes())


def inner_times(process, n=7):
    """Return times well inside the default interval."""
    return timegrid(process, n + 1)[1:-1]


def reach(process, t):
    """Return a length over which the tables are smooth; a table process is so within a cell."""
    if isinstance(process, rd.TableProcess):
        return 10 * float(min(t - t.floor(), t.ceil() - t))
    return float(min(t, process.horizon - t + 1e-3 * process.horizon))


def derivative(f, t, scale):
    """Differentiate a table in time by a central difference of order 6."""
    h = 1e-3 * scale
    weights = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
    return sum(w * (f(t + j * h) - f(t - j * h)) for j, w in weights.items()) / h


@EVERY
def test_mean_maps_compose(process):
    s, u, t = inner_times(process, 3)
    composed = product(process.psi(s, u), process.psi(u, t))
    assert torch.allclose(composed, process.psi(s, t), rtol=1e-11, atol=0)
    eye = torch.eye(process.k, dtype=F64).expand_as(composed)
    assert torch.allclose(product(process.psi(s, t), process.psi(t, s)), eye, atol=1e-11)


@EVERY
def test_signal_and_covariance_solve_their_equations(process):
    for t in inner_times(process):
        scale = reach(process, t)
        drift, noise = process.drift(t), process.diffusion(t)
        signal, cov = process.signal(t), process.cov(t)
        rate = derivative(process.signal, t, scale)
        bound = 1e-8 * (rate.abs().max() + signal.abs().max() / scale)
        assert (rate - product(drift, signal)).abs().max() <= bound
        rate = derivative(process.cov, t, scale)
        flow = product(drift, cov)
        right = flow + transpose(flow) + product(noise, transpose(noise))
        assert (rate - right).abs().max() <= 1e-8 * (rate.abs().max() + cov.abs().max() / scale)


@EVERY
def test_the_root_squares_to_the_covariance_and_keeps_the_noise_constant(process):
    for t in inner_times(process):
        root, cov, noise = process.root(t), process.cov(t), process.diffusion(t)
        error = (product(root, transpose(root)) - cov).abs().max()
        assert error <= 1e-12 * cov.abs().max()
        scale = reach(process, t)
        rate = derivative(process.root, t, scale)
        half = product(noise, transpose(noise), inverse(transpose(root))) / 2
        right = product(process.drift(t), root) + half
        assert (rate - right).abs().max() <= 1e-7 * (rate.abs().max() + root.abs().max() / scale)


@EVERY
def test_the_clock_is_monotone_and_inverts(process):
    times = timegrid(process, 200, "uniform")
    clocks = process.clock(times)
    assert bool((clocks.diff() > 0).all()) or bool((clocks.diff() < 0).all())
    assert torch.allclose(process.unclock(clocks), times, rtol=1e-9, atol=1e-9 * process.horizon)
    t = inner_times(process)
    rate = derivative(process.clock, t, 0.1 * t)
    assert torch.allclose(rate, process.clock_rate(t), rtol=1e-7)


@EVERY
@pytest.mark.parametrize("wants", ["eps", "x0", "v"])
def test_increments_are_the_derivative_of_the_reading(process, wants):
    if wants == "v" and process.k > 1:
        pytest.skip("v has no meaning for k > 1")
    end = process.level(inner_times(process)[-1])
    after, _ = process.reading(end, wants)

    def carried(w):
        N, M = process.reading(process.level(process.unclock(w)), wants)
        return product(after, inverse(N), M)

    t = inner_times(process)
    for time in t:
        w = process.clock(time)
        rate = derivative(carried, w, 0.1 if process.k == 1 else 0.02)
        found = process.increment(wants, end, time[None])[0]
        assert (rate - found).abs().max() <= 1e-6 * max(float(rate.abs().max()), 1e-12)


@SCALAR
@pytest.mark.parametrize("spacing", SPACINGS)
def test_grids_decrease_strictly_between_their_ends(process, spacing):
    times = timegrid(process, 37, spacing)
    assert bool((times.diff() < 0).all())
    assert tuple(times[[0, -1]].tolist()) == pytest.approx(process.interval, rel=1e-15)


def test_quadratic_means_the_same_noise_levels_on_every_process():
    vp, edm = rd.VP(), rd.EDM()
    times = timegrid(vp, 12, "quadratic")
    ends = torch.exp(-vp.clock(times[[0, -1]]))
    edm = rd.EDM(sigma_max=float(ends[0]))
    other = timegrid(edm, 12, "quadratic", stop=float(ends[1]))
    assert torch.allclose(torch.exp(-vp.clock(times)), other, rtol=1e-12)
    assert torch.allclose(times.sqrt().diff(), times.sqrt().diff()[:1].expand(12), rtol=1e-12)


def test_a_table_process_meets_its_table_and_is_smooth_between():
    process = discrete()
    index = torch.arange(1000, dtype=F64)
    table = torch.tensor(process.alpha_bar, dtype=F64)
    assert torch.allclose(process.alpha(index) ** 2, table, rtol=1e-12)
    fine = torch.linspace(0, 999, 100_001, dtype=F64)
    assert bool((process.clock_rate(fine) < 0).all())
    left, right = process.clock_rate(index[1:-1] - 1e-9), process.clock_rate(index[1:-1] + 1e-9)
    assert torch.allclose(left, right, rtol=1e-6)


def test_a_table_with_jumps_stays_monotone_between_its_entries():
    # slopes without a limit overshoot: the clock turns back and a noise level has two times
    process = rd.TableProcess((0.999, 0.998, 0.5, 0.499, 0.01, 0.0099))
    fine = torch.linspace(0, 5, 20_001, dtype=F64)
    assert bool((process.clock(fine).diff() < 0).all())
    assert bool((process.clock_rate(fine) < 0).all())


def test_small_times_keep_their_digits():
    # sqrt(1 - exp(-B)) loses 0.6 % in float32 at t = 1e-5; expm1 loses nothing
    vp = rd.VP()
    t = torch.tensor(1e-5)
    exact = vp.sigma(t.double())
    assert abs(float(vp.sigma(t) / exact) - 1) < 3e-7
    assert abs(float(vp.unclock(vp.clock(t.double())) / t.double()) - 1) < 1e-13


def test_the_generic_angle_solves_the_rotation_equation():
    process = PROCESSES["Spring"]
    t = double(0.3, 1.1, 2.0)

    def angle(t):
        turn = inverse(torch.linalg.cholesky(process.cov(t))) @ process.root(t)
        return torch.atan2(turn[..., 0, 1], turn[..., 0, 0])

    rate = derivative(angle, t, 1.0)
    assert torch.allclose(rate, angle_rate(process, t), rtol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"spacing": "quadratc"}, "Did you mean 'quadratic'"),
        ({"start": 0.1, "stop": 0.2}, "0 <= stop < start"),
        ({"start": 2.0}, "0 <= stop < start <= 1.0"),
    ],
)
def test_a_bad_grid_is_refused_with_the_way_out(change, message):
    with pytest.raises(ValueError, match=message):
        timegrid(rd.VP(), **{"steps": 5, **change})


@pytest.mark.parametrize(
    "make",
    [
        lambda: rd.VP(beta_min=-1.0),
        lambda: rd.VP(schedule="linnear"),
        lambda: rd.VE(sigma_min=2.0, sigma_max=1.0),
        lambda: rd.EDM(sigma_data=0.0),
        lambda: rd.TableProcess((0.9, 0.9)),
        lambda: rd.TableProcess((0.9, 0.0)),
    ],
)
def test_constants_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"needs|must|known"):
        make()
