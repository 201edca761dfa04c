"""What a sampler must say about itself, and what it refuses."""

import math
import warnings

import pytest
import torch

import redrift as rd
from redrift.control import (
    PIS,
    Architecture,
    Buffer,
    Checkpoint,
    Objective,
    Optimiser,
    TrustWarning,
)
from redrift.targets import Funnel, Mixture, grid9

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def collapsed():
    """A sampler that keeps the middle one of nine modes, and is good at it."""
    one = Mixture(torch.zeros(1, 2), math.sqrt(0.3))
    pis = PIS(one, reference=rd.Brownian(25.0), steps=40, network=Architecture(gradient=False))
    buffer = one.sample(5000, generator=seeded(0))
    pis.fit(300, buffer=Buffer(buffer, on_policy=0.0), objective=Objective(points=800), check=False,
            generator=seeded(0))  # fmt: skip
    lost = PIS(
        grid9(), reference=rd.Brownian(25.0), steps=40, network=Architecture(gradient=False)
    )
    lost.net.load_state_dict(pis.net.state_dict())
    return lost


def test_a_collapsed_sampler_is_caught_though_its_weights_look_fine():
    # one of nine modes at an ESS that nothing shows wrong, log Z off by log 9: annealed chains, and
    # samples from anywhere, must flag it. Catches a check that looks at its own weights only.
    lost = collapsed()
    _, w = lost.sample(4000, generator=seeded(1))
    assert w.ess > 0.4
    assert abs(w.log_z + math.log(9)) < 0.15
    assert w.concern is None
    for verdict in (
        lost.check(generator=seeded(3)),
        lost.check(grid9().sample(1000, generator=seeded(2)), generator=seeded(3)),
    ):
        assert verdict.ess > 0.4
        assert verdict.forward_ess < 1e-3
        assert verdict.missed > 0.8
        assert "do not trust" in verdict.concern
        assert "modes" in str(verdict)


def test_a_fit_that_loses_modes_warns():
    # the KL loss without the gradient network goes on from one mode and cannot see the others
    with pytest.warns(TrustWarning, match="do not trust"):
        collapsed().fit(
            2,
            objective=Objective("kl", batch=64),
            optimiser=Optimiser(lr=1e-4),
            generator=seeded(0),
        )


def test_collapsed_weights_warn_with_a_way_out():
    pis = PIS(Funnel(), reference=rd.Brownian(1.0), steps=5)
    with pytest.warns(TrustWarning, match="Fit longer"):
        pis.sample(500, generator=seeded(0))


def test_a_good_sampler_does_not_warn():
    pis = PIS(Mixture(torch.ones(1, 2), 1.0), steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pis.fit(150, particles=1000, objective=Objective(points=512), generator=seeded(0))
        pis.sample(1000, generator=seeded(1))


def nan(x):
    return x.sum(-1) * math.nan


def inf(x):
    return x.sum(-1) * 0 + math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(lambda x: x.square()), r"returned \(\d+, 2\) .* expected"),
        (lambda: fit(nan), r"NaN or \+inf at .* points"),
        (lambda: fit(inf), r"NaN or \+inf"),
        (lambda: fit(lambda x: -x.detach().square().sum(-1)), "no gradient"),
        (lambda: PIS(Funnel(), 9), "dim=9, but funnel9 has dim 10"),
        (lambda: PIS(lambda x: x.sum(-1)), "dim is needed"),
        (lambda: PIS(Funnel(), reference=rd.CLD()), "no exact transition"),
        (lambda: PIS(Funnel(), steps=0), "steps must be at least 1"),
        (lambda: PIS(Funnel(), power=9.0), "power must be in"),
        (lambda: fit(Funnel(2), loss="lk"), "Did you mean"),
        (lambda: fit(Funnel(2), loss=(("lv", 0.3),)), "sum to 1"),
        (
            lambda: fit(Funnel(2), loss="bm", buffer=Buffer(torch.zeros(5, 3))),
            r"expected \(M, 2\)",
        ),
        (lambda: fit(Funnel(2), seconds=1.0), "either iterations or seconds"),
        (lambda: PIS(Funnel(2)).sample(0), "n must be at least 1"),
        (lambda: PIS(Funnel(2)).eubo(torch.zeros(3, 4)), r"expected \(M, 2\)"),
    ],
)
def test_bad_input_is_named_with_its_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def fit(log_prob, **options):
    dim = None if isinstance(log_prob, Funnel) else 2
    given = dict(particles=200, check=False, generator=seeded(0))
    PIS(log_prob, dim, steps=4).fit(2, **(given | options))


def test_a_file_for_another_dimension_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "pis.safetensors"
    PIS(Funnel(3), steps=4).save(path)
    with pytest.raises(ValueError, match="dim = 3, the density has 4"):
        PIS.load(path, Funnel(4))
    with pytest.raises(FileNotFoundError):
        PIS.load(tmp_path / "none", Funnel(3))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="truncated"):
        PIS.load(path, Funnel(3))
    with pytest.raises(FileNotFoundError, match="create it first"):
        PIS(Funnel(3), steps=4).save(tmp_path / "no" / "pis.safetensors")


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    given = dict(particles=200, check=False, objective=Objective(points=64), generator=seeded(0))
    PIS(Funnel(3, 1.0), steps=4).fit(3, checkpoint=Checkpoint(path), **given)
    with pytest.raises(ValueError, match="another total"):
        PIS(Funnel(3, 1.0), steps=4).fit(4, checkpoint=Checkpoint(path, resume=True), **given)
    with pytest.raises(ValueError, match="another net"):
        PIS(Funnel(3, 1.0), steps=5).fit(3, checkpoint=Checkpoint(path, resume=True), **given)


def test_fitting_leaves_the_global_generator_and_the_buffer_alone():
    buffer = grid9().sample(300, generator=seeded(0))
    copy, state = buffer.clone(), torch.get_rng_state()
    pis = PIS(grid9(), steps=4)
    pis.fit(3, buffer=Buffer(buffer), check=False, objective=Objective(points=64),
            generator=seeded(0))  # fmt: skip
    pis.check(generator=seeded(1))
    pis.sample(10, generator=seeded(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(buffer, copy)


def test_the_papers_configuration_is_one_call_away():
    pis = PIS.paper(grid9())
    assert (pis.chain.end, pis.chain.steps, pis.net.spread) == (1.0, 100, 0.0)
    assert (pis.chain.q - 0.01).abs().max() < 1e-12
    assert pis.objective.phases == (("kl", 1.0),)
    assert (pis.optimiser.lr, pis.objective.batch) == (5e-3, 300)


def test_a_whole_covariance_makes_a_correlated_gaussian_easy():
    # correlation .98 in 3 dimensions, 60 iterations: ESS above .5 with full coordinates. Catches a
    # scale applied transposed, and a volume left out.
    from redrift.targets import Affine

    turn = torch.tensor([[1.0, 0, 0], [1.0, 0.2, 0], [-1.0, 0.1, 0.2]], dtype=F64)
    target = Affine(
        Mixture(torch.zeros(1, 3), 1.0), torch.tensor([0.5, 0, -1]).double(), turn.inverse()
    )
    pis = PIS(target, steps=25, full=True)
    pis.fit(60, particles=1500, objective=Objective(points=500), optimiser=Optimiser(lr=5e-3),
            check=False, generator=seeded(0))  # fmt: skip
    _, w = pis.sample(3000, warn=False, generator=seeded(1))
    assert pis.scale.shape == (3, 3)
    assert w.ess > 0.5
    assert abs(w.log_z) < 4 * w.log_z_se
    with pytest.raises(ValueError, match="raise particles"):
        PIS(target, full=True).fit(1, particles=10, generator=seeded(0))
