"""Exact denoisers are exact: their score is the gradient of the log density they claim."""

import math

import pytest
import torch

from problems import F64, all_processes, double, generator, mixture, noisy_start
from redrift.denoise import Empirical, Gaussian, GaussianMixture

PROCESSES = all_processes()


def log_density(model, z, level):
    """Return the log density of the modal state, block by block, from the definition."""
    process = model.process
    k, shape = process.k, model.means.shape[1:]
    signal, root = (table.expand(*shape, k, k) for table in (level.signal, level.root))
    if process.modes:
        signal, root = (t.expand(*shape, 1, 1) for t in (level.signal, level.root))
    column = signal[..., :1]
    state = z if k > 1 else z.unsqueeze(1)
    state = state.movedim(1, -1)  # (B, *shape, k)
    total = []
    std = model.std.reshape(len(model.std), *[1] * (model.means.ndim - model.std.ndim),
                            *model.std.shape[1:]).expand(model.means.shape)  # fmt: skip
    for weight, mean, s in zip(model.weights, process.to(model.means), std):
        cov = s[..., None, None] ** 2 * column @ column.mT + root @ root.mT
        residual = state - (column * mean[..., None, None])[..., 0]
        energy = (residual * torch.linalg.solve(cov, residual[..., None])[..., 0]).sum(-1)
        each = energy + torch.linalg.slogdet(cov)[1] + k * math.log(2 * math.pi)
        total.append(weight.log() - each.flatten(1).sum(1) / 2)
    return torch.logsumexp(torch.stack(total), 0)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_the_score_is_the_gradient_of_the_density(name, where):
    process = PROCESSES[name]
    model = mixture(process)
    start, stop = process.interval
    t = double(stop + where * (start - stop))[0]
    level = process.level(t)
    z = noisy_start(model, float(t), 6).requires_grad_()
    (exact,) = torch.autograd.grad(log_density(model, z, level).sum(), z)
    found = model.ask(z.detach(), level, "score")
    assert torch.allclose(found, exact, rtol=1e-8, atol=1e-8 * float(exact.abs().max()))


@pytest.mark.parametrize("name", ["VP", "EDM", "Flow", "Melt"])
def test_the_density_is_the_one_of_the_definition(name):
    process = PROCESSES[name]
    model, t = mixture(process), 0.3
    z = noisy_start(model, t, 5)
    level = process.level(torch.tensor(t, dtype=F64))
    found = model.log_prob(process.back(z), t)
    assert torch.allclose(found, log_density(model, z, level), rtol=1e-10)


@pytest.mark.parametrize("name", ["VP", "Spring", "Melt"])
def test_an_empirical_law_is_a_mixture_of_points(name):
    process = PROCESSES[name]
    shape = (1, *process.modes) if process.modes else (3,)
    data = torch.randn(7, *shape, generator=generator(), dtype=F64)
    points = Empirical(data, process)
    mixed = GaussianMixture(torch.ones(7, dtype=F64), data, torch.zeros(7, dtype=F64), process)
    t = 0.4
    z = noisy_start(mixed, t, 5)
    level = process.level(torch.tensor(t, dtype=F64))
    assert torch.allclose(points.ask(z, level, "x0"), mixed.ask(z, level, "x0"), atol=1e-9)


def test_times_may_differ_by_sample():
    for name in ("VP", "Melt", "Spring"):
        process = PROCESSES[name]
        model, t = mixture(process), double(0.2, 0.5, 0.8)
        x = process.back(noisy_start(model, 0.5, 3))
        together = model.eps(x, t)
        for i in range(3):
            alone = model.eps(x[i : i + 1], float(t[i]))
            assert torch.allclose(together[i : i + 1], alone, atol=1e-10)


def test_samples_have_the_moments_of_the_clean_law():
    # 40 000 draws: standard error of a mean .0025, of a standard deviation .0018
    mean, std = double(0.3, -0.2), double(0.5, 0.25)
    model = Gaussian(mean, std, PROCESSES["VP"])
    x = model.sample(40_000, generator=generator())
    assert torch.allclose(x.mean(0), mean, atol=4 * 0.0025)
    assert torch.allclose(x.std(0), std, atol=4 * 0.0018)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: GaussianMixture(torch.ones(2), torch.zeros(3, 2), torch.ones(2), p), "must be"),
        (
            lambda p: GaussianMixture(torch.ones(2), torch.zeros(2, 2), torch.ones(3), p),
            "std must",
        ),
        (
            lambda p: GaussianMixture(-torch.ones(2), torch.zeros(2, 2), torch.ones(2), p),
            "positive",
        ),
        (lambda p: Empirical(torch.zeros(3), p), "data must be"),
    ],
)
def test_bad_laws_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(PROCESSES["VP"])


def test_modes_need_isotropic_components():
    means = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="isotropic"):
        GaussianMixture(torch.ones(2), means, torch.ones(2, 1, 4, 4), PROCESSES["Melt"])
