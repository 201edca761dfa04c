"""Predictions turn into each other and back, on every process and level where they are defined."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import redrift as rd
from problems import F64, all_processes, double, generator, mixture, noisy_start
from redrift._core.linalg import apply
from redrift.denoise import Denoiser, Preconditioned
from redrift.process import PREDICTIONS, convert
from redrift.process.convert import available

PROCESSES = all_processes()


def states(process, level, n=3):
    """Return a state with the clean state and the noise it was mixed from."""
    g = generator(3)
    shape = (n, *((process.k,) if process.k > 1 else ()), *(process.modes or (5,)))
    if process.modes:
        shape = (n, 1, *process.modes)
    clean, noise = (torch.randn(shape, generator=g, dtype=F64) for _ in range(2))
    z = apply(level.signal, clean, process.modes) + apply(level.root, noise, process.modes)
    return z, clean, noise


def direct(process, level, clean, noise, name):
    """Return the prediction by its definition."""
    if name == "eps":
        return noise
    if name == "x0":
        return clean
    if name == "flow":
        return noise - clean
    if name == "score":
        root = level.root
        inverse = torch.linalg.inv(root.mT)
        return -apply(inverse, noise, process.modes)
    data = process.sigma_data
    s = ((data * level.signal) ** 2 + level.root**2).sqrt()
    return apply(data * level.signal / s, noise, process.modes) - apply(
        level.root / (data * s), clean, process.modes
    )


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(PROCESSES)),
    source=st.sampled_from(PREDICTIONS),
    target=st.sampled_from(PREDICTIONS),
    where=st.floats(0.02, 0.98),
)
def test_any_prediction_gives_any_other(name, source, target, where):
    process = PROCESSES[name]
    if source not in available(process) or target not in available(process):
        return
    start, stop = process.interval
    ends = process.clock(double(start, max(stop, 1e-4 * start)))
    t = process.unclock(ends[0] + where * (ends[1] - ends[0]))
    level = process.level(t)
    z, clean, noise = states(process, level)
    given_e = direct(process, level, clean, noise, source)
    wanted = direct(process, level, clean, noise, target)
    P, Q = convert(process, level, source, target)
    found = apply(P, z, process.modes) + apply(Q, given_e, process.modes)
    # rounding is amplified by the size of the two terms, which cancel
    size = apply(P.abs(), z.abs(), process.modes) + apply(Q.abs(), given_e.abs(), process.modes)
    condition = 1.0 if process.k == 1 else 1e3
    assert bool(((found - wanted).abs() <= 64 * 2**-52 * condition * (size + wanted.abs())).all())


@pytest.mark.parametrize("name", ["VP", "Flow", "EDM", "Spring", "Melt"])
def test_every_reading_of_an_oracle_is_consistent(name):
    process = PROCESSES[name]
    model = mixture(process)
    start, stop = process.interval
    t = start * 0.3 + stop * 0.7
    z = noisy_start(model, t, 6)
    x = process.back(z)
    for predicts in available(process):

        def net(x_, t_, predicts=predicts):
            if process.k > 1:
                x_ = x_.unflatten(1, (process.k, -1))
            out = model._at(x_, t_, predicts, {})
            return out.flatten(1, 2) if process.k > 1 else out

        wrapped = Denoiser(net, process, predicts)
        for name_ in available(process):
            a, b = getattr(wrapped, name_)(x, t), getattr(model, name_)(x, t)
            assert torch.allclose(a, b, rtol=1e-8, atol=1e-9), (predicts, name_)


def test_a_position_only_x0_network_serves_a_process_with_velocity():
    process = PROCESSES["Spring"]
    model = mixture(process)
    z = noisy_start(model, 1.0, 6)
    small = Denoiser(lambda x, t: model.x0(x.unflatten(1, (2, -1)), t), process, "x0")
    assert torch.allclose(small.eps(z, 1.0), model.eps(z, 1.0), atol=1e-12)


def test_preconditioning_is_the_angle_reading_of_the_raw_network():
    # EDM's F is minus v at sigma_data, so D from F must equal x0 from v
    process, raw = rd.EDM(sigma_data=0.5), lambda x, t: torch.tanh(x + t[:, None])
    x, t = torch.randn(4, 3, generator=generator(), dtype=F64), double(0.1, 1.0, 5.0, 40.0)
    d = Preconditioned(raw, sigma_data=0.5)(x, t)
    level = process.level(t)
    c_in = 1 / (t**2 + 0.25).sqrt()
    v = -raw(x * c_in[:, None], t.log() / 4)
    P, Q = convert(process, level, "v", "x0")
    assert torch.allclose(apply(P, x) + apply(Q, v), d, atol=1e-13)


@pytest.mark.parametrize(
    ("process", "t", "source", "target", "works"),
    [
        (rd.Flow(), 1.0, "eps", "x0", "'x0', 'v' or 'flow'"),
        (rd.Flow(), 0.0, "x0", "eps", "'eps', 'v' or 'flow'"),
        (PROCESSES["Spring"], 1.0, "v", "eps", "eps, x0, score"),
    ],
)
def test_an_undefined_conversion_names_those_that_work(process, t, source, target, works):
    level = process.level(torch.tensor(t, dtype=F64))
    with pytest.raises(ValueError, match=works):
        convert(process, level, source, target)


def test_v_and_flow_are_defined_where_the_signal_is_zero():
    process = rd.Flow()
    level = process.level(torch.tensor(1.0, dtype=F64))
    z, clean, noise = states(process, level)
    for source in ("v", "flow", "x0"):
        for target in ("eps", "x0", "v", "flow", "score"):
            P, Q = convert(process, level, source, target)
            e = direct(process, level, clean, noise, source)
            found = apply(P, z) + apply(Q, e)
            assert torch.allclose(found, direct(process, level, clean, noise, target), atol=1e-12)


@pytest.mark.parametrize("process", [rd.VP(), rd.EDM()], ids=["VP", "EDM"])
def test_a_converted_prediction_is_differentiable_in_its_time(process):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, generator=g, dtype=torch.float64)
    model = rd.Denoiser(lambda x, t: torch.tanh(x), process, "x0")

    def total(t):
        return model.ask(z, process.level(t), "v").sum()

    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(t), [t])
    h = 1e-5
    with torch.no_grad():
        expected = (total(t + h) - total(t - h)) / (2 * h)
    assert float((slope - expected).abs()) < 1e-6 * (1 + float(expected.abs()))
