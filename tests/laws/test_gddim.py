"""gDDIM on every linear SDE: exact for a point, of its order on mixtures, and true to its marginals."""

import math

import pytest
import torch

import redrift as rd
from problems import F64, double, follow, generator, mixture, noisy_start, slopes
from redrift.denoise import Denoiser, Gaussian
from redrift.process.cld import _panels
from redrift.process.convert import complete_score

CLD, BLUR = rd.CLD(), rd.Blur((4, 4), blur=2.0)


def point(process):
    shape = (1, 4, 4) if process.modes else (3,)
    return Gaussian(
        torch.linspace(-1, 1, math.prod(shape), dtype=F64).reshape(shape), 0.0, process
    )


@pytest.mark.parametrize(
    ("process", "start"), [(CLD, 1.0), (BLUR, 0.99), (rd.VP(), 1.0)], ids=["CLD", "Blur", "VP"]
)
def test_one_step_of_any_size_is_exact_for_a_single_data_point(process, start):
    # the paper's proposition; z = S c + R eps has eps constant along the flow
    model = point(process)
    stop = process.interval[1]
    z = noisy_start(model, start, 4)
    last = process.level(torch.tensor(stop, dtype=F64))
    first = process.level(torch.tensor(start, dtype=F64))
    from redrift._core.linalg import apply, combine, inverse

    clean = process.lift(model.means).expand_as(z)
    noise = apply(
        inverse(first.root), z - apply(first.signal, clean, process.modes), process.modes
    )
    exact = combine(((last.signal, clean), (last.root, noise)), process.modes)
    for order in (1, 3):
        for steps in (1, 2, 5):
            if order > steps:
                continue
            grid = rd.timegrid(process, steps, start=start)
            found = follow(model, rd.gddim(process, grid, order=order), z)
            assert torch.allclose(found, exact, atol=1e-8), (order, steps)


def test_in_cholesky_coordinates_it_is_not():
    model = point(CLD)
    z = noisy_start(model, 1.0, 4)
    exact = follow(model, rd.gddim(CLD, rd.timegrid(CLD, 3), order=1), z)
    wrong = follow(model, rd.gddim(CLD, rd.timegrid(CLD, 3), order=1, root="L"), z)
    assert float((wrong - exact).abs().max()) > 1
    # but it is consistent: with many steps it arrives
    smooth = mixture(CLD, low=0.4, high=0.6)
    z = noisy_start(smooth, 0.6, 8)
    fine = follow(smooth, rd.gddim(CLD, rd.timegrid(CLD, 200, start=0.6, stop=0.2), order=3), z)
    gaps = []
    for steps in (100, 200):
        plan = rd.gddim(CLD, rd.timegrid(CLD, steps, start=0.6, stop=0.2), order=2, root="L")
        gaps.append(float((follow(smooth, plan, z) - fine).abs().max()))
    assert gaps[1] < gaps[0] / 3 < 1e-2, gaps


def test_on_a_scalar_process_it_is_ddim():
    process = rd.VP()
    grid, model = rd.timegrid(process, 9), mixture(process)
    z = noisy_start(model, 1.0, 5)
    found = follow(model, rd.gddim(process, grid, order=1), z)
    assert torch.allclose(found, follow(model, rd.ddim(process, grid), z), rtol=1e-12, atol=1e-12)
    for lam in (0.3, 1.0):
        for row in rd.gddim(process, grid, order=1, stochasticity=lam).rows:
            a, b = row.start, row.end
            ratio = (b.root / b.signal) / (a.root / a.signal)
            variance = b.root**2 * (1 - ratio ** (2 * lam**2))
            assert torch.allclose(row.B**2, variance, rtol=1e-10)
            # DDIM with that variance: sqrt(sigma'^2 - variance) eps on top of alpha' x0
            keep = (b.root**2 - variance).sqrt() / a.root
            assert torch.allclose(row.A[-1], keep, rtol=1e-10)
            assert torch.allclose(row.C[-1][0], b.signal - keep * a.signal, rtol=1e-9, atol=1e-12)
            if lam == 1:
                step = (a.signal / b.signal) ** 2
                posterior = b.root**2 / a.root**2 * (1 - step)
                assert torch.allclose(variance, posterior, rtol=1e-9)


@pytest.mark.parametrize("process", [CLD, BLUR], ids=["CLD", "Blur"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_orders_hold_on_a_mixture(process, order):
    ends = (0.5, 0.2) if process is CLD else (0.6, 0.3)
    model = mixture(process, low=0.5, high=0.7)
    z = noisy_start(model, ends[0], 8)

    def run(steps, order, starter):
        grid = rd.timegrid(process, steps, "uniform", start=ends[0], stop=ends[1])
        return follow(model, rd.deis(process, grid, order=order, startup=starter), z)

    exact = run(600, 4, True)
    errors = [
        float((run(n, order, True) - exact).pow(2).mean().sqrt()) for n in (40, 80, 160, 320)
    ]
    assert all(abs(s - order) <= 0.15 for s in slopes(errors)), (errors, slopes(errors))


def test_the_published_accuracy_on_cld_is_reached():
    # spec: 16 narrow components in 8 dimensions, cubic grid, position error, median of 256
    from redrift.denoise import GaussianMixture

    g = generator(0)
    means = torch.randn(16, 8, generator=g, dtype=F64)
    weights = torch.rand(16, generator=g, dtype=F64) + 0.3
    std = 0.02 * 7.5 ** torch.rand(16, 8, generator=g, dtype=F64)
    share = (weights / weights.sum())[:, None]
    means = means - (share * means).sum(0)
    spread = (0.25 - (share * std**2).sum(0)).clamp_min(1e-4)
    means = means * (spread / (share * means**2).sum(0)).sqrt()
    model = GaussianMixture(weights, means, std, CLD)
    z = noisy_start(model, 1.0, 256)
    exact = follow(model, rd.gddim(CLD, rd.timegrid(CLD, 500), order=4), z)
    for steps, bound in {10: 2.6e-2, 20: 6.5e-3, 27: 3.0e-3, 50: 4.4e-4}.items():
        found = follow(model, rd.gddim(CLD, rd.timegrid(CLD, steps), order=4), z)
        error = float((found - exact)[:, 0].pow(2).mean(1).sqrt().median())
        assert error <= 1.2 * bound, (steps, error)


@pytest.mark.parametrize("process", [CLD, BLUR, rd.VP()], ids=["CLD", "Blur", "VP"])
@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_the_stochastic_covariance_is_its_closed_form(process, lam):
    plan = rd.gddim(process, rd.timegrid(process, 12), order=2, stochasticity=lam)
    for row in plan.rows:
        A, B = row.A[-1], row.B
        before, after = row.start.root @ row.start.root.mT, row.end.root @ row.end.root.mT
        P = after - A @ before @ A.mT
        assert torch.allclose(B @ B.mT, P, atol=1e-10 * float(after.abs().max()))
        assert torch.allclose(P, P.mT, atol=1e-13)
        assert float(torch.linalg.eigvalsh(P).min()) > -1e-12
        total = sum(row.C[-1])
        exact = row.end.signal - A @ row.start.signal
        assert torch.allclose(total, exact, atol=1e-9 * float(after.abs().max().sqrt()))


@pytest.mark.parametrize(("order", "slope"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("process", [CLD, rd.VP()], ids=["CLD", "VP"])
@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_the_family_keeps_the_marginals_of_gaussian_data(process, lam, order, slope):
    # with a linear model the plan's law is Gaussian: propagate its covariance through the rows
    data, k = 0.6, process.k
    start, stop = (0.8, 0.1) if k == 2 else (0.8, 0.05)

    def marginal(t):
        level = process.level(torch.tensor(t, dtype=F64))
        first = level.signal[:, :1]
        return data**2 * first @ first.mT + level.root @ level.root.mT

    def gain(level):  # E[c | z] as a matrix on z
        first = level.signal[:, :1]
        cov = data**2 * first @ first.mT + level.root @ level.root.mT
        mean = data**2 * first.mT @ torch.linalg.inv(cov)
        return torch.cat((mean, torch.zeros(k - 1, k, dtype=F64)))

    errors = []
    for steps in (32, 64, 128):
        grid = rd.timegrid(process, steps, "quadratic", start=start, stop=stop)
        root = torch.linalg.cholesky(marginal(start))
        state, past = root, []  # rows: the state as a combination of independent noises
        for row in rd.gddim(process, grid, order=order, stochasticity=lam).rows:
            own = gain(row.start) @ state
            state = row.A[-1] @ state + sum(
                c @ torch.nn.functional.pad(e, (0, state.shape[1] - e.shape[1]))
                for c, e in zip(row.C[-1], [own, *past])
            )
            state = torch.cat((state, row.B), 1)
            past = [own]
        errors.append(float((state @ state.mT - marginal(stop)).abs().max()))
    assert abs(slopes(errors)[-1] - slope) < 0.2, (errors, slopes(errors))


@pytest.mark.parametrize(
    ("n", "steps", "most", "bias"),
    [(20_000, 120, 4.5, 2e-3), pytest.param(100_000, 500, 4.0, 0.0, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_samples_keep_the_marginal_of_a_mixture(lam, n, steps, most, bias):
    # order 2: mean and second moment of two coordinates within 4.5 standard errors (family-wise
    # 3e-5); with 20 000 samples a 4 % error of a variance is seen with power .99
    model = mixture(CLD, components=3, dim=2, low=0.2, high=0.3)
    z = noisy_start(model, 1.0, n)
    plan = rd.gddim(CLD, rd.timegrid(CLD, steps), order=2, stochasticity=lam)
    x = rd.sample(model, plan, x=z, generator=generator(5))
    true = CLD.data(noisy_start(model, 1e-3, 400_000, seed=9))
    for f in (lambda a: a, lambda a: a**2, lambda a: a[:, :1] * a[:, 1:]):
        found, exact = f(x), f(true)
        error = (found.var(0) / n + exact.var(0) / len(true)).sqrt()
        assert bool(((found.mean(0) - exact.mean(0)).abs() < most * error + bias).all())


def test_the_angle_is_the_one_of_the_paper():
    # theta' = beta / M L22 / L11, and by the spec theta(1) = 12.48, theta(1e-3) = 1.14
    found = CLD._angle(double(1e-4, 1e-3, 1.0))
    assert torch.allclose(found, double(0.16, 1.14, 12.48), atol=6e-3)
    edges, total = _panels(CLD)
    assert bool((edges.diff() > 0).all())
    assert bool((total.diff() > 0).all())


def test_a_velocity_only_score_determines_the_whole_one():
    model = mixture(CLD)
    for t in (0.01, 0.3, 1.0):
        level = CLD.level(torch.tensor(t, dtype=F64))
        z = noisy_start(model, t, 6)
        score = model.ask(z, level, "score")
        found = complete_score(CLD, level, z, score[:, 1])
        assert torch.allclose(found, score, rtol=1e-7, atol=1e-7 * float(score.abs().max()))

    def net(x, t):
        return model.score(x.unflatten(1, (2, -1)), t)[:, 1]

    small = Denoiser(net, CLD, "score")
    z = noisy_start(model, 0.5, 6)
    assert torch.allclose(small.eps(z, 0.5), model.eps(z, 0.5), rtol=1e-7, atol=1e-8)


def test_the_readmes_snippet_runs_on_every_process():
    for process in (rd.VP(), CLD, rd.Blur((8, 8))):
        channels = process.channels(3)
        net = torch.nn.Conv2d(channels, channels, 3, padding=1)
        model = Denoiser(lambda x, t, net=net: net(x), process, "eps")
        plan = rd.gddim(process, rd.timegrid(process, 6), order=2)
        x = rd.sample(model, plan, shape=(2, 3, 8, 8), generator=generator())
        assert x.shape == (2, 3, 8, 8)
        assert bool(x.isfinite().all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rd.CLD(friction=3.0), "not critical"),
        (lambda: rd.CLD(mass=-1.0), "mass"),
        (lambda: rd.Blur((0, 4)), "sizes >= 1"),
        (lambda: rd.gddim(CLD, rd.timegrid(CLD, 4), stochasticity=1.5), r"lie in \[0, 1\]"),
        (
            lambda: rd.gddim(CLD, rd.timegrid(CLD, 4), stochasticity=0.5, corrector=True),
            "corrector",
        ),
        (lambda: rd.gddim(CLD, rd.timegrid(CLD, 4), stochasticity=0.5, order=3), "at most 2"),
        (lambda: rd.gddim(CLD, rd.timegrid(CLD, 2), order=3), "needs at least 3 steps"),
        (lambda: rd.gddim(CLD, rd.timegrid(CLD, 4), root="Q"), "root='Q' is not known"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_network_without_the_velocity_channel_is_named():
    model = Denoiser(lambda x, t: x[:, :3], CLD, "eps")
    with pytest.raises(ValueError, match="CLD has k = 2"):
        rd.sample(model, rd.gddim(CLD, rd.timegrid(CLD, 4)), shape=(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"for data ending in \(4, 4\)"):
        rd.sample(point(BLUR), rd.ddim(BLUR, rd.timegrid(BLUR, 3)), shape=(2, 1, 8, 8))
