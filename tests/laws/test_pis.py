"""Laws of the path integral sampler: unbiased weights, the exact control, objectives, bridges.

Statistical laws use fixed seeds and allow 4 standard errors.
"""

import itertools
import math

import pytest
import torch

import redrift as rd
from redrift.control import (
    PIS,
    Architecture,
    Buffer,
    Checkpoint,
    Control,
    Objective,
    Optimiser,
    reference_chain,
)
from redrift.control.objective import (
    CostDrift,
    NetDrift,
    bridge_tables,
    bridged_loss,
    path_log_weight,
    simulated_loss,
)
from redrift.control.optimal import MixtureControl
from redrift.control.problem import ControlProblem
from redrift.measure import Weights, log_girsanov
from redrift.targets import Funnel, Mixture, grid9

F64 = torch.float64
REFERENCES = {
    "Brownian": rd.Brownian(3.0),
    "OU": rd.OrnsteinUhlenbeck(scale=1.5, horizon=2.0),
    "VP": rd.VP(),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def two_modes():
    means = torch.tensor([[-1.2, 0.3], [1.0, -0.8]], dtype=F64)
    return Mixture(means, 0.6, torch.tensor([0.3, 0.7]))


def problem(target=None, reference="Brownian", steps=8, power=1.0, clip=100.0):
    target = two_modes() if target is None else target
    chain = reference_chain(REFERENCES[reference], steps, power)
    return ControlProblem(target.log_prob, target.score, target.dim, chain, clip)


def random_net(setup, seed=0, size=0.5, **options):
    """A control far from the optimum, of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Control(setup.dim, setup.reference.steps, setup.reference.end, width=16, **options)
        for layer in (net.last, net.gate[-1]):
            torch.nn.init.normal_(layer.weight, std=size / 4)
    return net.double()


def assert_mean(values, expected, errors=4.0):
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < errors * error, (float(values.mean()), float(error))


# --- weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_weights_of_any_control_are_unbiased(reference, spread, steps):
    # n = 40 000, Z = 1. Catches a control in wrong units, an inexact transition of the reference, a
    # lost determinant of the learned variance, the end law's variance.
    # The clipped gradient keeps the weights' variance finite for one step.
    setup = problem(reference=reference, steps=steps, clip=0.5)
    net = random_net(setup, spread=spread, size=0.3)
    with torch.no_grad():
        _, log_w, _ = setup.simulate(NetDrift(setup, net), 40_000, dtype=F64, generator=seeded(1))
    assert_mean(log_w.exp(), 1.0)
    assert Weights(log_w).ess > 0.02


def test_weights_are_girsanovs_for_a_shared_variance():
    # to 1e-12, on the Brownian reference. Catches u and b confused, and the end law's constant.
    setup = problem(steps=10)
    net = random_net(setup, spread=0.0)
    drift = NetDrift(setup, net)
    with torch.no_grad():
        x, log_w, path = setup.simulate(drift, 30, dtype=F64, path=True, generator=seeded(0))
        b = torch.stack([drift(k, path[k])[0] for k in range(10)])
    lengths = setup.reference.q
    noise = torch.stack([c - a for a, c in itertools.pairwise(path)]) - lengths[:, None, None] * b
    expected = log_girsanov(b, noise, lengths) + setup.log_density_ratio(x)
    assert (log_w - expected).abs().max() < 1e-12


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("reference", REFERENCES)
def test_the_weight_of_a_given_path_is_the_weight_it_was_walked_with(reference, spread):
    # Catches a batched evaluation whose steps are shifted by one.
    setup = problem(reference=reference)
    net = random_net(setup, spread=spread)
    with torch.no_grad():
        drift = NetDrift(setup, net, record=True)
        _, log_w, path = setup.simulate(drift, 20, dtype=F64, path=True, generator=seeded(0))
        assert (path_log_weight(setup, net, path) - log_w).abs().max() < 1e-10
        assert (path_log_weight(setup, net, path, drift.seen) - log_w).abs().max() < 1e-10


@pytest.mark.parametrize("reference", REFERENCES)
def test_weights_along_bridges_from_the_target_invert_those_of_walks(reference):
    # E over bridged paths of 1 / w is 1 / Z, n = 40 000. Catches a bridge of wrong mean or variance
    # at any step, and a start that is not the reference's.
    setup = problem(reference=reference, steps=6)
    net = random_net(setup, spread=0.5, size=0.2)
    ends = two_modes().sample(40_000, generator=seeded(2))
    with torch.no_grad():
        log_w = path_log_weight(setup, net, setup.bridge(ends, generator=seeded(3)))
    assert_mean((-log_w).exp(), 1.0)
    assert log_w.mean() > 0


@pytest.mark.parametrize("reference", REFERENCES)
def test_marginals_of_the_bridge_are_the_closed_form(reference):
    # the walk back, step by step, against the one-shot tables of `bridge`, n = 40 000
    chain = problem(reference=reference, steps=5).reference
    setup = problem(reference=reference, steps=5)
    ends = torch.full((40_000, 2), 1.3, dtype=F64)
    path = setup.bridge(ends, generator=seeded(4))
    mean, std = chain.bridge()
    for k in range(1, 5):
        assert_mean(path[k, :, 0], mean[k] * 1.3)
        assert abs(path[k].std() / std[k] - 1) < 4 / math.sqrt(2 * 80_000)


# --- the exact control ----------------------------------------------------------------------


@pytest.mark.parametrize("reference", REFERENCES)
def test_the_oracle_is_the_gradient_of_the_desirability(reference):
    # log phi by quadrature over the plane. Catches a psi or a V missing from the closed form.
    setup = problem(reference=reference, steps=6)
    chain, target = setup.reference, two_modes()
    steer = MixtureControl(target, chain)
    line = torch.linspace(-9, 9, 241, dtype=F64)
    y = torch.cartesian_prod(line, line)
    ratio = setup.log_density_ratio(y)
    x = torch.tensor([[0.4, -0.7]], dtype=F64)
    for k in (0, 3, 5):
        c, psi = chain.c[k], chain.psi[k]
        log_kernel = -(y - psi * x).square().sum(-1) / (2 * c) + ratio
        weight = log_kernel.softmax(0)
        expected = (weight[:, None] * (y - psi * x)).sum(0) / c
        assert (steer(k, x)[0][0] - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("power", "curvature", "ess", "gap"),
    [(0.0, False, 0.54, 0.48), (1.0, False, 0.83, 0.105), (2.0, False, 0.85, 0.085),
     (2.0, True, 0.99, 0.004)],
)  # fmt: skip
def test_the_exact_control_reaches_the_ceiling_of_its_discretisation(power, curvature, ess, gap):
    # 100 steps, V = 25, n = 5000: figures of an independent prototype; the last row, with the exact
    # conditional variance, is the ceiling of learned step variances.
    target = grid9()
    chain = reference_chain(rd.Brownian(25.0), 100, power)
    setup = ControlProblem(target.log_prob, target.score, 2, chain)
    steer = MixtureControl(target, chain, curvature=curvature)
    _, log_w, _ = setup.simulate(steer, 5000, dtype=F64, generator=seeded(0))
    w = Weights(log_w)
    assert abs(float(w.ess) - ess) < 0.03
    assert abs(-float(log_w.mean()) - gap) < 0.05 * gap + 0.04
    assert abs(w.log_z) < 4 * w.log_z_se


# --- objectives -----------------------------------------------------------------------------


def loss_of(kind, setup, net, seed=0, n=20_000, **options):
    return simulated_loss(
        kind, setup, net, n, constant=torch.zeros((), dtype=F64), generator=seeded(seed), **options
    )


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_kl_loss_is_minus_the_bound(spread):
    # cost - log ratio + log w has mean 0 path by path, n = 20 000: only the Ito term is left. The step's
    # variance is biased to exp(.3), so that its logarithm does not average out.
    setup = problem()
    net = random_net(setup, spread=spread)
    if spread:
        net.last.bias.data[2:] = 0.3
    with torch.no_grad():
        loss, _, log_w = loss_of("kl", setup, net)
        drift = CostDrift(setup, net)
        x, again, _ = setup.simulate(drift, 20_000, dtype=F64, generator=seeded(0))
    each = drift.cost - setup.log_density_ratio(x)
    assert torch.equal(log_w, again)
    assert abs(loss - each.mean()) < 1e-12
    assert_mean(each + log_w, 0.0)
    assert (each + log_w).std() > 0.1


def gradient(loss, net):
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_every_simulated_loss_descends_the_same_divergence(spread):
    # On policy, E grad Var log w = 2 grad KL, and stop-gradient KL has the mean of KL. Means of 12
    # batches of 2000 paths, compared along the direction of the KL gradient itself: within 4 errors.
    setup = problem(steps=4)
    net = random_net(setup, spread=spread)
    options = {"kl": {"detach": False}, "kl-stl": {"detach": False}, "lv": {}}
    found = {
        kind: torch.stack(
            [gradient(loss_of(kind, setup, net, s, 2000, **o)[0], net) for s in range(12)]
        )
        for kind, o in options.items()
    }
    direction = found["kl"].mean(0) / found["kl"].mean(0).norm()
    along = {kind: g @ direction for kind, g in found.items()}
    # lv is linear beyond three deviations: compare it where that hardly matters
    for kind, factor in (("kl-stl", 1.0), ("lv", 0.5)):
        gap = factor * along[kind].mean() - along["kl"].mean()
        error = math.hypot(factor * along[kind].std(), along["kl"].std()) / math.sqrt(12)
        assert abs(gap) < 4 * error + 0.05 * along["kl"].mean()
    assert along["kl"].mean() > 10 * along["kl"].std() / math.sqrt(12)


class Oracle(Control):
    """The exact control as a network, with one parameter that stretches and shifts it."""

    def __init__(self, setup, target):
        super().__init__(2, setup.reference.steps, setup.reference.end, width=4, spread=0.0)
        self.steer = MixtureControl(target, setup.reference)
        self.bend = torch.nn.Parameter(torch.tensor(0.0, dtype=F64))
        self.double()

    def forward(self, features, x, g, std_left):
        flat = x.reshape(-1, x.shape[-2], 2) if x.ndim == 3 else x[None]
        steps = range(len(flat)) if x.ndim == 3 else [self.now]
        b = torch.stack([self.steer(k, part)[0] for k, part in zip(steps, flat)])
        return (b if x.ndim == 3 else b[0]) * (1 + self.bend) + self.bend, None


@pytest.mark.parametrize("kind", ["am", "bm", "mixed"])
def test_bridged_losses_have_their_minimum_at_the_exact_control(kind):
    # d loss / d bend = 0 at bend = 0 within 4 errors, over 40 batches of 2000 target samples, and not
    # at bend = .2. Catches gradients and pulls in wrong units, or a share applied to neither.
    setup = problem(steps=5)
    target = two_modes()
    net = Oracle(setup, target)
    tables, mixing = bridge_tables(setup, F64), torch.full((5, 2), 0.4, dtype=F64)

    def slopes(bend):
        with torch.no_grad():
            net.bend.fill_(bend)
        found = []
        for s in range(40):
            y = target.sample(2000, generator=seeded(s))
            loss = bridged_loss(
                kind, setup, net, y, setup.ratio_score(y), mixing, tables, generator=seeded(s)
            )
            found.append(torch.autograd.grad(loss, net.bend)[0])
        return torch.stack(found)

    assert_mean(slopes(0.0), 0.0)
    away = slopes(0.2)
    assert away.mean() > 10 * away.std() / math.sqrt(40)


def test_the_mixed_target_has_no_variance_for_one_gaussian():
    # share s^2 / (s^2 + c), 1 / s^2 the precision of mu / mu_0: every bridge point tells the control
    # exactly. Catches the share on the wrong one of the two.
    target = Mixture(torch.tensor([[0.7, -0.4]], dtype=F64), 0.8)
    setup = problem(target, steps=6, clip=1e9)
    chain = setup.reference
    y = target.sample(500, generator=seeded(0))
    steer = MixtureControl(target, chain)
    mean, std = chain.bridge()
    for k in (1, 3, 5):
        x = mean[k] * y + std[k] * torch.randn(y.shape, generator=seeded(k), dtype=F64)
        inner = 1 / (1 / 0.8**2 - 1 / chain.end)
        part = inner / (inner + chain.c[k])
        drift = (y - chain.psi[k] * x) / chain.c[k]
        expected = part * setup.ratio_score(y) + (1 - part) * drift
        assert (expected - steer(k, x)[0]).abs().max() < 1e-9


def test_the_fitted_step_variance_is_the_conditional_one():
    # a free constant in place of the variance head: its optimum on bridges is the mean of the exact
    # conditional variance ratio. Catches a variance of x_k in place of that of the step.
    target = Mixture(torch.zeros(1, 2, dtype=F64), 0.6)
    setup = problem(target, steps=5, power=2.0)
    chain = setup.reference
    _, expected = MixtureControl(target, chain, curvature=True)(3, torch.zeros(1, 2, dtype=F64))
    net = Oracle(setup, target)
    net.log_s = torch.nn.Parameter(torch.zeros(5, dtype=F64))
    plain = net.forward

    def forward(features, x, g, std_left):
        b, _ = plain(features, x, g, std_left)
        return b, net.log_s[:, None, None].expand_as(b)

    net.forward = forward
    y = target.sample(8_000, generator=seeded(0))
    mixing, tables = torch.zeros(5, 2, dtype=F64), bridge_tables(setup, F64)
    optimiser = torch.optim.Adam([net.log_s], lr=0.05)
    for s in range(80):
        optimiser.zero_grad()
        bridged_loss(
            "mixed", setup, net, y, setup.ratio_score(y), mixing, tables, generator=seeded(s)
        ).backward()
        optimiser.step()
    assert abs(net.log_s[3] - expected[0, 0]) < 0.03
    assert abs(float(expected[0, 0])) > 0.1


# --- fitting --------------------------------------------------------------------------------


def test_a_short_fit_finds_the_constant_and_every_mode():
    # 400 iterations on nine modes, 60 steps: ESS above .5, log Z within 4 errors, nine modes.
    pis = PIS(grid9(), steps=60)
    pis.fit(400, particles=3000, optimiser=Optimiser(lr=5e-3), generator=seeded(0))
    x, w = pis.sample(4000, generator=seeded(1))
    assert w.ess > 0.5
    assert abs(w.log_z) < 4 * w.log_z_se
    share = torch.bincount(torch.cdist(x.double(), grid9().modes).argmin(1), minlength=9) / 4000
    assert (share > 1 / 27).all()
    bound, over = pis.elbo(2000), pis.eubo(grid9().sample(2000, generator=seeded(2)))
    assert bound.value < w.log_z + 0.02
    assert over.value > w.log_z - 0.02


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("mixed", {}),
        (("am", "lv"), {"batch": 16}),
        ("tb", {"batch": 16, "explore": 0.1}),
        ("kl", {"batch": 16}),
    ],
)
def test_a_killed_and_resumed_fit_is_the_uninterrupted_one_to_the_bit(loss, options, tmp_path):
    # killed after 10 of 20 iterations. Catches any part of the state left out of the checkpoint.
    class KilledError(Exception):
        pass

    def kill(row):
        if row["iteration"] >= 10:
            raise KilledError

    def fit(name, resume=False, **extra):
        pis = PIS(Funnel(3, 1.0), steps=6, network=Architecture(width=16))
        given = dict(
            check=False, objective=Objective(loss, points=64, **options), generator=seeded(0),
            buffer=Buffer(particles=400, refresh=5),
        )  # fmt: skip
        checkpoint = Checkpoint(tmp_path / name, resume)
        pis.fit(20, checkpoint=checkpoint, every=5, **(given | extra))
        return pis

    whole = fit("whole", callback=lambda row: None)
    with pytest.raises(KilledError):
        fit("cut", callback=kill)
    # another seed: all that is random, and the coordinates, come from the checkpoint
    rest = fit("cut", resume=True, callback=lambda row: None, generator=seeded(1))
    assert torch.equal(whole.scale, rest.scale)
    for a, b in zip(whole.net.parameters(), rest.net.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(bool((p != 0).any()) for p in whole.net.last.parameters())


def test_a_saved_sampler_draws_the_same_samples(tmp_path):
    pis = PIS(Funnel(3, 1.0), steps=6, network=Architecture(width=16))
    pis.fit(5, particles=300, check=False, objective=Objective(points=64), generator=seeded(0))
    pis.save(tmp_path / "pis.safetensors")
    again = PIS.load(tmp_path / "pis.safetensors", Funnel(3, 1.0).log_prob)
    (x, w), (y, v) = (p.sample(50, warn=False, generator=seeded(1)) for p in (pis, again))
    assert torch.equal(x, y)
    assert torch.equal(w.log_w, v.log_w)


def test_a_sample_and_its_weight_do_not_depend_on_the_batch_split():
    pis = PIS(
        Funnel(3, 1.0),
        reference=rd.OrnsteinUhlenbeck(),
        steps=6,
        network=Architecture(width=16, dtype=F64),
    )
    torch.nn.init.normal_(pis.net.last.weight, generator=seeded(0))
    whole, w = pis.sample(6, generator=[seeded(i) for i in range(6)])
    parts, v = pis.sample(6, batch_size=2, generator=[seeded(i) for i in range(6)])
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)
    torch.testing.assert_close(w.log_w, v.log_w, atol=1e-10, rtol=0)


def test_costs_of_a_learned_variance_are_its_divergence():
    # KL(N(u, S) || N(0, 1)) per step against torch.distributions
    setup = problem(steps=1)
    net = random_net(setup, spread=1.0)
    drift = CostDrift(setup, net)
    x = torch.zeros(3, 2, dtype=F64)
    b, log_s = drift(0, x)
    law = torch.distributions.Normal(float(setup.reference.gain[0]) * b, (log_s / 2).exp())
    base = torch.distributions.Normal(torch.zeros_like(b), torch.ones_like(b))
    expected = torch.distributions.kl_divergence(law, base).sum(-1)
    assert (drift.cost - expected).abs().max() < 1e-12


def test_draws_for_arviz_follow_the_weights(monkeypatch):
    import sys
    import types

    stub = types.ModuleType("arviz")
    stub.from_dict = lambda posterior: posterior
    monkeypatch.setitem(sys.modules, "arviz", stub)
    target = Mixture(torch.tensor([[-2.0], [2.0]]), 0.5, weights=torch.tensor([0.25, 0.75]))
    pis = PIS(target, reference=rd.Brownian(9.0), steps=30)  # untrained: its own draws are wrong
    g = torch.Generator().manual_seed(0)
    x = pis.to_arviz(40_000, generator=g)["x"]
    assert x.shape == (1, 40_000, 1)
    own, w = pis.sample(40_000, warn=False, generator=g)
    right = float((x > 0).mean())
    bound = 4 * (0.25 * 0.75 / (40_000 * float(w.ess))) ** 0.5
    assert abs(right - 0.75) < bound
    assert abs(float((own > 0).double().mean()) - 0.75) > bound
