"""Memory that a network writes again, and inputs that it writes on, change no sample."""

import pytest
import torch

import redrift as rd
from problems import generator
from redrift.denoise.memory import owned
from redrift.solvers import SOLVERS

PROCESS = rd.VP()


def plain(x, t):
    return torch.tanh(x * (1 + t.reshape(-1, 1)))


def ring(count):
    """Return a network that fills so many buffers in turn."""
    buffers, calls = [torch.empty(4, 2) for _ in range(count)], [0]

    def net(x, t):
        calls[0] += 1
        return torch.mul(plain(x, t), 1, out=buffers[calls[0] % count])

    return net


def view(x, t):
    return torch.mul(plain(x, t), 1, out=BUFFER[:4])[:, :2]


def inplace(x, t):
    return x.copy_(plain(x, t))


BUFFER = torch.empty(9, 2)
NETS = {"one buffer": ring(1), "two": ring(2), "five": ring(5), "view": view, "in place": inplace}


def samples(net, plan, **kwargs):
    model = rd.Denoiser(net, PROCESS, "eps")
    return rd.sample(model, plan, generator=generator(), **kwargs)


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "gddim"])
def test_a_network_may_write_its_output_again_and_on_its_input(solver, net):
    plan = rd.plan_for(PROCESS, 9, solver=solver)
    x = torch.randn(4, 2, generator=generator(1))
    kept = x.clone()
    assert torch.equal(samples(net, plan, x=x), samples(plain, plan, x=x))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("net", [ring(1), inplace], ids=["one buffer", "in place"])
def test_both_calls_of_guidance_keep_their_predictions(net):
    def told(inner):
        return lambda x, t, label: inner(x + label.reshape(-1, 1), t)

    plan, cond = rd.plan_for(PROCESS, 6, solver="deis"), {"label": torch.ones(4)}
    out = [
        rd.sample(
            rd.Guided(rd.Denoiser(told(inner), PROCESS), 3.0, {"label": 0.0}), plan, shape=(4, 2),
            cond=cond, generator=generator(),
        )
        for inner in (net, plain)
    ]  # fmt: skip
    assert torch.equal(*out)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_what_is_fresh_is_not_copied_and_what_is_held_is(context):
    with context():
        buffer = torch.ones(5)
        fresh = torch.ones(5) * 2
        address = fresh.data_ptr()
        fresh = owned(fresh)
    assert fresh.data_ptr() == address
    for held in (buffer, buffer[:3], buffer.view(5, 1)):
        assert owned(held).data_ptr() != buffer.data_ptr()


def test_a_network_that_writes_on_its_input_later_only_is_refused():
    calls = []

    def net(x, t):
        calls.append(0)
        return x.mul_(0.9) if len(calls) == 3 else x * 0.9

    with pytest.raises(ValueError, match="wrote on its input"):
        samples(net, rd.plan_for(PROCESS, 6, solver="deis"), shape=(4, 2))
