"""The flow upwards: latents, exact densities, and steps chosen by tolerance."""

import pytest
import torch

import redrift as rd
from problems import F64, Melt, Spring, flow_exactly, generator, mixture, slopes
from redrift.denoise import Denoiser, Gaussian
from redrift.likelihood import decode_exactly, encode, encode_exactly, log_prob

EDM = rd.EDM()


def noisy_data(model, n, stop=0.002, seed=21):
    g = generator(seed)
    return model.sample(n, generator=g) + stop * torch.randn(n, 8, generator=g, dtype=F64)


def smooth():
    return mixture(EDM, components=4, dim=8, low=0.15, high=0.35)


def test_the_density_of_a_mixture_is_met_with_order_two():
    model = smooth()
    x = noisy_data(model, 48)
    exact = model.log_prob(x, 0.002)
    errors = [
        float((log_prob(model, x, evaluations=n) - exact).abs().mean()) for n in (64, 128, 256)
    ]
    assert errors[1] <= 1e-2
    assert all(abs(s - 2) < 0.15 for s in slopes(errors)), errors


@pytest.mark.parametrize(
    "process", [rd.VP(), rd.Flow(), rd.SubVP()], ids=lambda p: type(p).__name__
)
def test_the_density_does_not_depend_on_the_process(process):
    # the same law seen through another process at the same noise level
    edm, other = mixture(EDM), mixture(process)
    t = process.unclock(torch.tensor(4.0, dtype=F64))  # sigma / alpha = e^-4
    alpha = float(process.alpha(t))
    x = edm.sample(16, generator=generator(3))
    ours = log_prob(edm, x, evaluations=160, stop=float(torch.exp(torch.tensor(-4.0, dtype=F64))))
    theirs = log_prob(other, alpha * x, evaluations=160, stop=float(t))
    jacobian = 4 * torch.log(torch.tensor(alpha, dtype=F64))
    assert torch.allclose(theirs + jacobian, ours, atol=0.03)


def test_the_density_of_a_joint_state_is_met_for_two_blocks():
    process = Spring()
    model = Gaussian(torch.zeros(2, dtype=F64), 1.0, process)  # the law assumed at the top
    level = process.level(torch.tensor(0.2, dtype=F64))
    z = torch.randn(12, 2, 2, generator=generator(), dtype=F64) / 2
    first = level.signal[:, :1]
    cov = first @ first.mT + level.root @ level.root.mT
    law = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), cov)
    exact = law.log_prob(z.mT).sum(-1)
    assert torch.allclose(log_prob(model, z, evaluations=400, stop=0.2), exact, atol=0.02)


def test_the_density_on_modes_is_met():
    process = Melt()
    model = Gaussian(torch.zeros(1, 4, 4, dtype=F64), 1.0, process)
    t = 0.2
    level = process.level(torch.tensor(t, dtype=F64))
    x = process.back(torch.randn(8, 1, 4, 4, generator=generator(), dtype=F64))
    var = (level.signal**2 + level.root**2)[..., 0, 0]
    exact = -(process.to(x) ** 2 / var + (2 * torch.pi * var).log()).flatten(1).sum(1) / 2
    found = log_prob(model, x, evaluations=400, start=0.989, stop=t)
    assert torch.allclose(found, exact, atol=0.02)


def test_the_estimated_trace_is_unbiased():
    model = smooth()
    x = noisy_data(model, 4)
    exact = log_prob(model, x, evaluations=32)
    draws = torch.stack([
        log_prob(model, x, evaluations=32, trace="hutchinson", generator=generator(i))
        for i in range(60)
    ])  # fmt: skip
    error = draws.std(0) / 60**0.5
    assert bool(((draws.mean(0) - exact).abs() < 4 * error).all())  # 4 samples at 6e-5 each
    assert float(error.max()) < 0.3  # a bias of 1.2 nats would be seen
    more = log_prob(
        model, x, evaluations=32, trace="hutchinson", probes=400, generator=generator()
    )
    assert float((more - exact).abs().max()) < 0.5


def test_encoding_and_sampling_meet_with_the_plans_accuracy():
    # narrow mixture, two-stage RES, quadratic grid, 100 evaluations: the round trip
    model = mixture(EDM, components=16, dim=8, low=0.02, high=0.15)
    x = noisy_data(model, 64)
    plan = rd.res(EDM, rd.timegrid(EDM, 50, "quadratic"), order=2)
    assert plan.evaluations == 100
    z = encode(model, x, plan)
    back = rd.sample(model, plan, x=z)
    assert float((back - x).pow(2).mean(1).sqrt().median()) < 1e-4
    exact = flow_exactly(model, z, 80.0, 0.002, 400)
    assert float((exact - x).pow(2).mean(1).sqrt().median()) < 1e-3


@pytest.mark.parametrize("steps", [2, 7, 40])
@pytest.mark.parametrize(
    "process", [EDM, rd.VP(), Spring(), Melt()], ids=lambda p: type(p).__name__
)
def test_the_exact_inversion_is_exact_for_any_network_and_length(process, steps):
    def net(x, t):
        return torch.tanh(3 * x + 1)

    model = Denoiser(net, process, "eps")
    shape = (5, 2, 4) if process.k == 2 else (5, 1, 4, 4) if process.modes else (5, 4)
    x = torch.randn(shape, generator=generator(), dtype=F64)
    plan = rd.ddim(process, rd.timegrid(process, steps))
    latent = encode_exactly(model, x, plan)
    assert torch.allclose(decode_exactly(model, latent, plan), x, atol=1e-9)
    assert not torch.allclose(latent.z, x)


def test_the_exact_latent_approaches_the_flows():
    model = smooth()
    x = noisy_data(model, 16)
    gaps = []
    for steps in (100, 200, 400):
        plan = rd.ddim(EDM, rd.timegrid(EDM, steps))
        fine = encode(model, x, rd.res(EDM, rd.timegrid(EDM, 300), order=3))
        gaps.append(float((encode_exactly(model, x, plan).z - fine).pow(2).mean().sqrt()))
    assert slopes(gaps)[-1] > 0.8, gaps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, x: log_prob(m, x[:, :3]), r"must be \(B, 8\)"),
        (lambda m, x: log_prob(m, x, evaluations=1), "evaluations must be at least 2"),
        (lambda m, x: log_prob(m, x, trace="exakt"), "Did you mean 'exact'"),
        (lambda m, x: encode(m, x, rd.ddpm(EDM, rd.timegrid(EDM, 4))), "cannot be run upwards"),
        (lambda m, x: encode(m, x, rd.ddim(EDM, rd.timegrid(EDM, 4), end="zero")), "end='min'"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    model = smooth()
    model.card["shape"] = [8]
    with pytest.raises(ValueError, match=message):
        make(model, noisy_data(model, 2))


def test_a_tolerance_is_met_on_held_out_problems():
    # 90 % of problems: median error at most 3 tol; halving tol does not raise the error
    plan = rd.res(EDM, rd.timegrid(EDM, 12), order=3)
    kept, total = 0, 0
    for seed in range(6):
        low, high = ((0.02, 0.15), (0.15, 0.35))[seed % 2]
        model = mixture(EDM, components=8, dim=8, low=low, high=high, seed=30 + seed)
        g = generator(seed)
        z = model.sample(48, generator=g) + 80 * torch.randn(48, 8, generator=g, dtype=F64)
        exact = flow_exactly(model, z, 80.0, 0.002, 500)
        errors = []
        for tol in (2e-3, 1e-3, 5e-4, 2.5e-4):
            found = rd.sample(model, plan, x=z, tol=tol)
            errors.append(float((found - exact).pow(2).mean(1).sqrt().median()))
            kept, total = kept + (errors[-1] <= 3 * tol), total + 1
        assert errors[-1] < errors[0]
    assert kept / total >= 0.9, (kept, total)


def test_an_adaptive_run_asks_the_start_of_a_rejected_step_once():
    model, asked = smooth(), []
    inner = model.predict
    model.predict = lambda z, level: (asked.append(float(level.t)), inner(z, level))[1]
    x = 80 * torch.randn(4, 8, generator=generator(), dtype=F64)
    far = torch.tensor([80.0, 0.01, 0.002], dtype=F64)  # the first step is far too long
    plan = rd.res(EDM, far, order=3)
    steps = []
    rd.sample(model, plan, x=x, tol=1e-3, callback=lambda i, t, z: steps.append(t))
    assert len(set(asked)) == len(asked)
    assert (len(asked) - len(steps)) % 2 == 0
    assert steps[-1] == 0.002


def test_tolerances_out_of_reach_are_refused():
    model = smooth()
    plan = rd.res(EDM, rd.timegrid(EDM, 6), order=3)
    with pytest.raises(ValueError, match="cannot be met in torch.float32"):
        rd.sample(model, plan, shape=(2, 8), tol=1e-7)
    with pytest.raises(ValueError, match="tol must be positive"):
        rd.sample(model, plan, shape=(2, 8), tol=0.0)
    with pytest.raises(ValueError, match="no error estimate"):
        rd.sample(model, rd.ddim(EDM, rd.timegrid(EDM, 6)), shape=(2, 8), tol=1e-3)
    rough = Denoiser(lambda x, t: 1e6 * torch.sign(torch.sin(1e9 * x)), EDM, "eps")
    with pytest.raises(rd.NumericalError, match="however short the step"):
        rd.sample(rough, plan, shape=(2, 8), tol=1e-4, generator=generator())
