"""The small nets: what a configuration, a label, a dtype and an average mean."""

import json

import pytest
import torch

from redrift.nn import EMA, MLP, Classifier, UNet
from redrift.nn.mlp import Embedding
from redrift.nn.unet import Attention

NETS = {
    "unet": (UNet, dict(channels=2, width=8, classes=3, dropout=0.1), (2, 8, 12)),
    "unet_deep": (
        UNet,
        dict(
            channels=1,
            width=6,
            multipliers=(1, 2, 3),
            blocks=2,
            attention=(0, 2),
            classes=3,
            embedding=10,
            out_channels=4,
        ),
        (1, 4, 8),
    ),
    "mlp": (MLP, dict(dim=3, width=16, depth=2, out=5, classes=3), (3,)),
}


def randomise(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter a random value: a new net is the zero function, which hides faults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return net.eval()


def build(name: str, dtype: torch.dtype = torch.float32):
    """Return a random net and a batch of four, one for each label and the null label."""
    kind, config, shape = NETS[name]
    net = randomise(kind(**config)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, *shape, generator=generator, dtype=torch.float64).to(dtype)
    t = torch.tensor([0.001, 0.1, 0.5, 1.0], dtype=torch.float64).to(dtype)
    return net, x, t, torch.arange(4)


@pytest.fixture(params=list(NETS))
def name(request) -> str:
    return request.param


def test_a_new_net_is_the_zero_function(name):
    kind, config, shape = NETS[name]
    y = kind(**config)(torch.randn(2, *shape), torch.rand(2))
    assert torch.equal(y, torch.zeros_like(y))


def test_config_survives_json_and_rebuilds_the_same_function_bit_for_bit(name):
    net, x, t, label = build(name)
    twin = type(net)(**json.loads(json.dumps(net.config)))
    assert twin.config == net.config
    twin.load_state_dict(net.state_dict())
    expected = net(x, t, label)
    assert expected.abs().max() > 0.1
    assert torch.equal(twin.eval()(x, t, label), expected)


def test_changing_a_returned_config_changes_no_net():
    net = UNet(1, width=8)
    net.config["multipliers"].append(9)
    net.config["width"] = 1
    assert net.config["multipliers"] == [1, 2]
    assert net.config["width"] == 8


def test_the_null_label_equals_no_label_and_differs_from_every_other(name):
    net, x, t, _ = build(name)
    none = net(x, t)
    assert torch.equal(net(x, t, torch.full((4,), 3)), none)
    for label in range(3):
        assert not torch.allclose(net(x, t, torch.full((4,), label)), none, atol=1e-3)


def test_each_sample_is_treated_alone(name):
    net, x, t, label = build(name, torch.float64)
    together = net(x, t, label)
    for i in range(4):
        alone = net(x[i : i + 1], t[i : i + 1], label[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-10, atol=1e-10)


def test_one_time_serves_a_batch(name):
    net, x, _, label = build(name)
    expected = net(x, torch.full((4,), 0.3), label)
    assert torch.equal(net(x, torch.tensor(0.3), label), expected)
    assert torch.equal(net(x, torch.tensor([0.3]), label), expected)


def test_time_matters_at_both_ends_of_the_clock(name):
    net, x, _, label = build(name, torch.float64)
    for near, far in ((0.001, 0.002), (0.5, 0.501), (0.999, 1.0)):
        change = net(x, torch.tensor(far), label) - net(x, torch.tensor(near), label)
        assert change.abs().max() > 1e-3


@pytest.mark.parametrize("name", list(NETS))
def test_gradient_reaches_every_parameter_and_the_inputs(name):
    net, x, t, label = build(name, torch.float64)
    x.requires_grad_()
    t.requires_grad_()
    net(x, t, label).square().sum().backward()
    dead = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()
    assert (t.grad.abs() > 0).all()
    used = net.embedding.label.weight.grad.abs().amax(1)
    assert (used > 0).all()


@torch.no_grad()
def test_output_has_the_dtype_of_the_input_and_the_accuracy_of_the_parameters(name):
    net, x, t, label = build(name)
    single = net(x, t, label)
    double = net(x.double(), t.double(), label)
    assert double.dtype == torch.float64
    assert torch.equal(double, single.double())
    half = net(x.bfloat16(), t, label)
    assert half.dtype == torch.bfloat16
    assert (half.float() - single).abs().max() < 0.05 * single.abs().max()


def test_half_precision_parameters_still_see_exact_times():
    embedding = randomise(Embedding(32)).to(torch.bfloat16)
    close = embedding(torch.tensor([0.7]), None, 1), embedding(torch.tensor([0.701]), None, 1)
    assert not torch.equal(*close)


def test_inputs_are_left_as_they_were(name):
    net, x, t, label = build(name)
    copies = x.clone(), t.clone(), label.clone()
    net(x, t, label)
    assert all(torch.equal(a, b) for a, b in zip((x, t, label), copies, strict=True))


def test_dropout_acts_in_training_only():
    net, x, t, label = build("unet")
    torch.manual_seed(0)
    still = net(x, t, label)
    assert torch.equal(net(x, t, label), still)
    assert not torch.equal(net.train()(x, t, label), still)


def test_a_unet_without_attention_moves_with_the_picture():
    net = randomise(UNet(1, width=8, multipliers=(1, 2), attention=()), 3).double()
    x = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    for block in net.modules():
        if isinstance(block, torch.nn.GroupNorm):
            block.forward = lambda h: h
    moved = net(x.roll(2, -1), torch.tensor(0.3))
    still = net(x, torch.tensor(0.3)).roll(2, -1)
    inside = slice(28, 36)
    torch.testing.assert_close(moved[..., inside, inside], still[..., inside, inside])


def test_attention_joins_pixels_that_convolutions_do_not():
    x = torch.randn(1, 1, 64, 4, dtype=torch.float64)
    y = x.clone()
    y[..., 0, :] += 1
    change = {}
    for attention in ((), (1,)):
        net = randomise(UNet(1, width=8, attention=attention), 3).double()
        for block in net.modules():
            if isinstance(block, torch.nn.GroupNorm):
                block.forward = lambda h: h
        t = torch.tensor(0.3)
        change[attention] = (net(y, t) - net(x, t))[..., -1, :].abs().max()
    assert change[()] == 0 < change[(1,)]


def test_what_a_level_remembers_reaches_the_output_without_the_levels_below():
    net = randomise(UNet(1, width=8, attention=()), 3).double()
    for p in net.grow.parameters():
        torch.nn.init.zeros_(p)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    one, other = net(x, torch.tensor(0.3))
    assert not torch.allclose(one, other, atol=1e-3)


def test_attention_is_the_softmax_average_of_each_head_plus_its_input():
    net = randomise(Attention(64)).double()
    x = torch.randn(2, 64, 3, 4, dtype=torch.float64)
    q, k, v = net.qkv(net.norm(x)).flatten(2).split(64, 1)
    heads = []
    for head in torch.arange(64).split(32):
        weights = (torch.einsum("bci,bcj->bij", q[:, head], k[:, head]) / 32**0.5).softmax(2)
        heads.append(torch.einsum("bij,bcj->bci", weights, v[:, head]))
    expected = x + net.out(torch.cat(heads, 1).unflatten(2, (3, 4)))
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


def test_a_size_that_the_levels_do_not_divide_is_named_with_the_remedy():
    net = UNet(1, width=8, multipliers=(1, 1, 1), attention=())
    with pytest.raises(ValueError, match=r"10 x 8.*divisible by 4.*pad or crop"):
        net(torch.zeros(1, 1, 10, 8), torch.ones(1))
    with pytest.raises(ValueError, match=r"8 x 6"):
        net(torch.zeros(1, 1, 8, 6), torch.ones(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UNet(2, width=8)(torch.zeros(1, 3, 8, 8), torch.ones(1)), r"\(B, 2, H, W\).*3"),
        (lambda: UNet(1, width=8)(torch.zeros(8, 8), torch.ones(1)), r"\(B, 1, H, W\)"),
        (lambda: UNet(1, width=8, attention=(2,)), r"levels 0..1.*2"),
        (lambda: UNet(1, multipliers=()), "need a level"),
        (lambda: UNet(1, width=8, embedding=7), "even.*7"),
        (lambda: MLP(2)(torch.zeros(4, 3), torch.ones(4)), r"\(B, 2\).*\(4, 3\)"),
        (lambda: MLP(2)(torch.zeros(4, 2), torch.ones(3)), r"\(4,\).*\(3,\)"),
        (lambda: MLP(2)(torch.zeros(4, 2), torch.ones(4, 1)), r"\(4,\).*\(4, 1\)"),
        (lambda: MLP(2)(torch.zeros(1, 2), torch.ones(1), torch.zeros(1).long()), "classes=None"),
        (lambda: Classifier(1, 8, 10)(torch.zeros(1, 1, 9, 8)), r"8, 8.*9, 8"),
        (lambda: EMA(MLP(2), decay=1.0), r"\[0, 1\).*1.0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_classifier_is_linear_in_its_features_and_rebuilds():
    net = randomise(Classifier(3, 16, 7, width=8))
    x = torch.randn(4, 3, 16, 16)
    f = net.features(x)
    assert f.shape == (4, 64)
    torch.testing.assert_close(net(x), f @ net.last.weight.T + net.last.bias)
    twin = Classifier(**json.loads(json.dumps(net.config)))
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x), net(x))
    assert net.features(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("size", "stages"), [(1, 1), (3, 1), (4, 1), (5, 2), (7, 2), (8, 2), (33, 5)]
)
def test_a_classifier_halves_to_four_and_every_parameter_learns(size, stages):
    net = randomise(Classifier(1, size, 3, width=4))
    assert net.hidden.in_features == 4 * stages
    net(torch.randn(2, 1, size, size)).square().sum().backward()
    assert all(p.grad.any() for p in net.parameters())


def test_the_average_of_constant_parameters_is_exact():
    net = randomise(MLP(2, width=8))
    ema = EMA(net)
    for _ in range(50):
        ema.update(net)
    for mine, theirs in zip(ema.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_average_warms_up_as_its_closed_form_says():
    # From 1 towards 0, with d_n = (1 + n) / (10 + n) below the cap:
    # prod_{n < N} d_n = N! 9! / (N + 9)!
    net = torch.nn.Linear(1, 1).double()
    torch.nn.init.ones_(net.weight)
    ema = EMA(net, decay=0.999)
    torch.nn.init.zeros_(net.weight)
    expected = 1.0
    for n in range(1, 30):
        ema.update(net)
        expected *= n / (n + 9)
        assert ema.net.weight.item() == pytest.approx(expected, rel=1e-12)


def test_the_average_keeps_its_decay_after_the_warm_up():
    net = torch.nn.Linear(1, 1).double()
    ema = EMA(net, decay=0.5)
    for _ in range(20):
        ema.update(net)
    torch.nn.init.constant_(net.weight, 3.0)
    before = ema.net.weight.item()
    ema.update(net)
    assert ema.net.weight.item() == pytest.approx(0.5 * before + 1.5, rel=1e-12)


def test_the_average_follows_but_never_touches_the_net():
    net = randomise(MLP(2, width=8)).train()
    ema = EMA(net)
    copy = {key: value.clone() for key, value in net.state_dict().items()}
    ema.net.first.weight.data += 1
    ema.update(net)
    assert all(torch.equal(value, copy[key]) for key, value in net.state_dict().items())
    assert net.training
    assert not ema.net.training
    assert not any(p.requires_grad for p in ema.net.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_buffers_are_copied_not_averaged():
    net = torch.nn.BatchNorm1d(2)
    ema = EMA(net)
    net(torch.randn(8, 2) + 5)
    ema.update(net)
    assert torch.equal(ema.net.running_mean, net.running_mean)
    assert ema.net.num_batches_tracked == 1


def test_an_average_that_was_saved_goes_on_as_if_it_had_not_been():
    net = MLP(2, width=8)
    ema = EMA(net, decay=0.9)
    for seed in range(3):
        ema.update(randomise(net, seed))
    other = EMA(MLP(2, width=8))
    other.load_state_dict(ema.state_dict())
    randomise(net, 9)
    ema.update(net)
    other.update(net)
    for a, b in zip(ema.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(a, b)
