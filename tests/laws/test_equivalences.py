"""Different roads to one method agree to rounding."""

import math

import numpy as np
import pytest
import torch

import redrift as rd
from problems import follow, mixture, noisy_start, scalar_processes
from redrift._core.quadrature import phi

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def start_of(model, plan, n=5):
    return noisy_start(model, float(plan.times[0]), n)


@pytest.mark.parametrize("name", ["VP", "EDM", "Flow", "SubVP", "OrnsteinUhlenbeck"])
@pytest.mark.parametrize("build", [rd.deis, rd.res, rd.dpmpp], ids=["deis", "res", "dpmpp"])
def test_order_one_of_everything_is_ddim(name, build):
    process = scalar_processes()[name]
    model, grid = mixture(process), rd.timegrid(process, 9)
    z = start_of(model, rd.ddim(process, grid))
    x = z
    for t, s in zip(grid, grid[1:]):  # DDIM by hand
        x0, eps = model.x0(x, t), model.eps(x, t)
        x = process.alpha(s) * x0 + process.sigma(s) * eps
    assert torch.allclose(follow(model, build(process, grid, order=1), z), x, **TIGHT)


def test_rho_deis_on_ve_is_the_linear_multistep_method():
    process = rd.EDM()
    model, grid = mixture(process), rd.timegrid(process, 12, "karras")
    z = start_of(model, rd.ddim(process, grid))
    x, slopes, sigmas = z, [], []
    for i, (a, b) in enumerate(zip(grid.tolist(), grid[1:].tolist())):
        slopes.insert(0, (x - model.x0(x, a)) / a)
        sigmas.insert(0, a)
        for j in range(min(4, i + 1)):  # the integral of each Lagrange polynomial, exactly
            others = [sigmas[k] for k in range(min(4, i + 1)) if k != j]
            poly = np.poly1d(others, r=True) if others else np.poly1d([1.0])
            weight = poly.integ()(b) - poly.integ()(a)
            x = x + slopes[j] * weight / math.prod(sigmas[j] - o for o in others)
    plan = rd.deis(process, grid, order=4, variable="rho", startup=False)
    assert torch.allclose(follow(model, plan, z), x, rtol=1e-9, atol=1e-10)


def test_full_noise_is_ddpm_with_the_posterior_variance():
    process = rd.VP()
    grid = rd.timegrid(process, 7)
    plan = rd.ddpm(process, grid)
    for row in plan.rows:
        a, b = process.alpha(row.start.t) ** 2, process.alpha(row.end.t) ** 2
        step = a / b  # alpha_t of the discrete chain
        variance = (1 - b) / (1 - a) * (1 - step)
        assert torch.allclose(row.B**2, variance, rtol=1e-11)
        # the posterior mean from x0 and z, with x0 = (z - sigma eps) / alpha put in
        on_x0 = b.sqrt() * (1 - step) / (1 - a)
        on_z = step.sqrt() * (1 - b) / (1 - a)
        assert torch.allclose(row.A[-1], on_z + on_x0 / a.sqrt(), rtol=1e-11)
        assert torch.allclose(row.C[-1][0], -on_x0 * ((1 - a) / a).sqrt(), rtol=1e-10)


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_eta_is_a_share_of_the_posterior_standard_deviation(eta):
    # DDIM, arXiv:2010.02502, Eq. (16); every variance below the full one keeps the marginals
    process = rd.VP()
    for row in rd.ddpm(process, rd.timegrid(process, 7), eta=eta).rows:
        a, b = process.alpha(row.start.t) ** 2, process.alpha(row.end.t) ** 2
        deviation = eta * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
        assert torch.allclose(row.B, deviation, rtol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ancestral_steps_keep_the_marginals_of_gaussian_data(eta):
    # a linear model's plan has an exactly Gaussian law: propagate its variance through the rows
    process, data = rd.VP(), 0.5
    errors = []
    for steps in (40, 80, 160, 320):
        grid = rd.timegrid(process, steps)
        variance = process.alpha(grid[0]) ** 2 * data**2 + process.sigma(grid[0]) ** 2
        for row in rd.ddpm(process, grid, eta=eta).rows:
            alpha, sigma = row.start.signal[0, 0], row.start.root[0, 0]
            eps = sigma / (alpha**2 * data**2 + sigma**2)  # eps = this times z
            gain = row.A[-1][0, 0] + row.C[-1][0][0, 0] * eps
            variance = gain**2 * variance + (0 if row.B is None else row.B[0, 0] ** 2)
        end = grid[-1]
        exact = process.alpha(end) ** 2 * data**2 + process.sigma(end) ** 2
        errors.append(abs(float(variance / exact) - 1))
    assert errors[-1] < 0.03
    slope = math.log2(errors[-2] / errors[-1])
    assert abs(slope - 1) < 0.15, errors


BUILDERS = {
    "ddim": rd.ddim,
    "deis rho": lambda p, g: rd.deis(p, g, order=3, variable="rho"),
    "deis logrho": lambda p, g: rd.deis(p, g, order=4, variable="logrho"),
    "deis t": lambda p, g: rd.deis(p, g, order=3),
    "res 2": lambda p, g: rd.res(p, g, order=2),
    "res 3": lambda p, g: rd.res(p, g, order=3),
    "res multistep": lambda p, g: rd.res(p, g, order=3, multistep=True),
    "dpmpp": lambda p, g: rd.dpmpp(p, g),
    "dpmpp 3": lambda p, g: rd.dpmpp(p, g, order=3),
    "dpmpp single": lambda p, g: rd.dpmpp(p, g, single=True),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize("name", ["VP", "Flow", "SubVP", "VE", "Brownian", "cosine"])
def test_processes_agree_on_the_same_noise_levels(name, build):
    edm, other = rd.EDM(), scalar_processes()[name]
    rho = rd.timegrid(edm, 8, "karras", start=9.0, stop=0.05)
    times = other.unclock(-rho.log())
    if name == "Brownian":
        other = rd.Brownian(horizon=100.0)
    z = noisy_start(mixture(edm), 9.0, 5)
    ours = follow(mixture(edm), build(edm, rho), z)
    theirs = follow(mixture(other), build(other, times), z * other.alpha(times[0]))
    assert torch.allclose(theirs / other.alpha(times[-1]), ours, rtol=1e-11, atol=1e-12)


def test_dpm_solver_rows_are_the_published_formulas():
    process = rd.VP()
    grid = rd.timegrid(process, 6)  # steps of unequal length in log-SNR: no ratio is 1
    rows = list(rd.dpmpp(process, grid).rows)
    row, t, s, r = rows[3], grid[3], grid[4], grid[2]
    lam = process.clock
    h, ratio = lam(s) - lam(t), (lam(t) - lam(r)) / (lam(s) - lam(t))
    scale = -process.alpha(s) * torch.expm1(-h)
    assert torch.allclose(row.A[-1][0, 0], process.sigma(s) / process.sigma(t), rtol=1e-12)
    assert torch.allclose(row.C[-1][0][0, 0], scale * (1 + 0.5 / ratio), rtol=1e-11)
    assert torch.allclose(row.C[-1][1][0, 0], -scale * 0.5 / ratio, rtol=1e-11)


def test_rows_of_dpm_solver_of_order_three_are_the_published_formulas():
    process = rd.VP()
    grid = rd.timegrid(process, 6)
    row = list(rd.dpmpp(process, grid, order=3).rows)[3]
    lam, alpha = process.clock(grid), process.alpha(grid[4])
    h = lam[4] - lam[3]
    r0, r1 = (lam[3] - lam[2]) / h, (lam[2] - lam[1]) / h

    def step(m0, m1, m2):
        """Return what the published step adds for x0 predictions at the last three points."""
        near, far = (m0 - m1) / r0, (m1 - m2) / r1
        slope, bend = near + r0 / (r0 + r1) * (near - far), (near - far) / (r0 + r1)
        decay = torch.expm1(-h)
        flat = -alpha * decay * m0 + alpha * (decay / h + 1) * slope
        return flat - alpha * ((decay + h) / h**2 - 0.5) * bend

    for found, unit in zip(row.C[-1], torch.eye(3, dtype=h.dtype), strict=True):
        assert torch.allclose(found[0, 0], step(*unit), rtol=1e-10)


def test_res_rows_are_the_phi_functions():
    process, c2, c3 = rd.EDM(), 0.4, 0.9
    grid = rd.timegrid(process, 5, "logsnr")
    row = list(rd.res(process, grid, order=3, c2=c2, c3=c3).rows)[2]
    h = process.clock(grid[3]) - process.clock(grid[2])
    gamma = (3 * c3**2 - 2 * c3) / (c2 * (2 - 3 * c2))
    a32 = gamma * c2 * phi(2, -c2 * h) + c3**2 / c2 * phi(2, -c3 * h)
    b3 = phi(2, -h) / (gamma * c2 + c3)
    expected = [
        (),
        (c2 * phi(1, -c2 * h),),
        (c3 * phi(1, -c3 * h) - a32, a32),
        (phi(1, -h) - (1 + gamma) * b3, gamma * b3, b3),
    ]
    for C, wanted in zip(row.C, expected):
        for found, value in zip(C, wanted):
            assert torch.allclose(found[0, 0], h * value, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("z", [0.0, 1e-8, -1e-8, 1e-4, -1e-2, 0.5, -0.999, 1.0, -1.5, 5.0, -50.0])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_functions_keep_all_digits(k, z):
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    value = mpmath.mpf(z)
    if z == 0:
        exact = 1 / mpmath.factorial(k)
    else:
        exact = (
            mpmath.exp(value) - sum(value**j / mpmath.factorial(j) for j in range(k))
        ) / value**k
    assert abs(float((mpmath.mpf(float(phi(k, z))) - exact) / exact)) < 2e-15
