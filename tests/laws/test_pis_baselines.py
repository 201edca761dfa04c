"""Laws of the baselines: annealed sampling, Hamiltonian moves, and PIS with resampling."""

import math

import pytest
import torch

import redrift as rd
from redrift.control import (
    PIS,
    Architecture,
    MixtureControl,
    Objective,
    anneal,
    dds,
    dis,
    hmc,
    reference_chain,
    sample_smc,
)
from redrift.control.hmc import ChainState, hmc_step
from redrift.control.problem import ControlProblem
from redrift.control.smc import simulate_resampled
from redrift.measure import Weights
from redrift.targets import Affine, Funnel, Mixture, grid9

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def skewed():
    """An asymmetric mixture with log Z = 2.5: an error of a sign shows in it."""
    means = torch.tensor([[-2.0, 0.5], [1.5, -1.0], [2.5, 2.0]], dtype=F64)
    mixture = Mixture(means, 0.7, torch.tensor([0.2, 0.5, 0.3]))
    return mixture, lambda x: mixture.log_prob(x) + 2.5


def density(target):
    return lambda x: (target.log_prob(x), target.score(x))


@pytest.mark.parametrize("leapfrog_steps", [1, 5])
def test_moves_leave_the_density_invariant(leapfrog_steps):
    # exact samples stay exact: means of three functions, n = 40 000, 4 errors, after 5 moves of a step
    # so long that a third is refused. Catches a refusal that is ignored, or momenta not refreshed.
    mixture, _ = skewed()
    x = mixture.sample(40_000, generator=seeded(0))
    chains, rate = ChainState(x, *density(mixture)(x)), 0.0
    for s in range(5):
        chains, took = hmc_step(
            density(mixture), chains, 0.8, leapfrog_steps=leapfrog_steps, generator=seeded(s)
        )
        rate += float(took.double().mean()) / 5
    assert 0.2 < rate < 0.9
    for f in (lambda v: v[:, 0], lambda v: v[:, 1] ** 2, lambda v: (v[:, 0] > 0).double()):
        fresh = f(mixture.sample(40_000, generator=seeded(9)))
        error = math.hypot(fresh.std(), f(chains.x).std()) / math.sqrt(40_000)
        assert abs(f(chains.x).mean() - fresh.mean()) < 4 * error
    assert (chains.log_prob - mixture.log_prob(chains.x)).abs().max() < 1e-12
    assert (chains.grad - mixture.score(chains.x)).abs().max() < 1e-12


def test_annealed_importance_sampling_is_unbiased():
    # 40 runs of 200 particles, 12 temperatures: the mean of Z is Z. Catches a weight taken after the
    # move in place of before it, and a start that is not normalised.
    mixture, log_prob = skewed()
    z = torch.stack(
        [
            anneal(
                log_prob, mixture.score, 2, 200, scale=2.5, temperatures=12, ess_threshold=0.0,
                leapfrog_steps=2, dtype=F64, generator=seeded(s),
            ).weights.log_z
            for s in range(40)
        ]
    )  # fmt: skip
    ratio = (z - 2.5).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(40)
    assert ratio.std() < 0.3


def test_annealed_smc_is_unbiased_at_fixed_temperatures():
    mixture, log_prob = skewed()
    runs = [
        anneal(
            log_prob, mixture.score, 2, 200, scale=6.0, temperatures=8, leapfrog_steps=2, dtype=F64,
            generator=seeded(s),
        )
        for s in range(40)
    ]  # fmt: skip
    ratio = torch.stack([run.weights.log_z - 2.5 for run in runs]).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(40)
    assert min(run.survivors for run in runs) < 200


def test_adaptive_smc_finds_shares_and_constant():
    # shares .2, .5, .3 within .03, log Z within .05: n = 10 000
    mixture, log_prob = skewed()
    run = anneal(log_prob, mixture.score, 2, 10_000, scale=3.0, dtype=F64, generator=seeded(0))
    assert abs(run.weights.log_z - 2.5) < 0.05
    near = torch.cdist(run.x, mixture.modes).argmin(1)
    for i, share in enumerate((0.2, 0.5, 0.3)):
        assert abs(run.weights.normalised[near == i].sum() - share) < 0.03
    assert 3 < run.temperatures < 40


def test_chains_reach_a_single_mode_and_keep_shares_between_modes():
    x = 2 + 0.1 * torch.randn(2000, 2, generator=seeded(0), dtype=F64)
    end, rate = hmc(density(Mixture(torch.zeros(1, 2), 1.0)), x, 40, generator=seeded(1))
    assert end.mean(0).abs().max() < 4 / math.sqrt(2000)
    assert abs(end.std() - 1) < 0.05
    assert 0.5 < rate <= 1


# --- resampling along the path --------------------------------------------------------------


@pytest.mark.parametrize("ess_threshold", [0.0, 0.5, 1.0])
def test_resampling_along_the_path_is_unbiased(ess_threshold):
    # a poor control (the oracle of another mixture), 60 runs of 300 paths. Catches potentials that
    # are not taken back, and ancestors that lose them.
    mixture, log_prob = skewed()
    chain = reference_chain(rd.Brownian(6.0), 20)
    setup = ControlProblem(log_prob, mixture.score, 2, chain)
    steer = MixtureControl(Mixture(mixture.means * 0.7, 0.9), chain)
    # coefficients that no fit would give: unbiased all the same
    potentials = {
        k: torch.tensor([3.0, 0.1 + 0.04 * k, 0.05, 0.2], dtype=F64) for k in (6, 12, 17)
    }
    z = torch.stack(
        [
            Weights(
                simulate_resampled(
                    setup,
                    steer,
                    300,
                    potentials,
                    ess_threshold=ess_threshold,
                    dtype=F64,
                    generator=seeded(s),
                )[1]
            ).log_z
            for s in range(60)
        ]
    )
    ratio = (z - 2.5).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(60)


def test_without_resampling_the_steered_walk_is_the_plain_one():
    pis = PIS(grid9(), reference=rd.Brownian(25.0), steps=10, network=Architecture(dtype=F64))
    x, w = pis.sample(50, warn=False, generator=seeded(0))
    y, v = sample_smc(pis, 50, ess_threshold=0.0, generator=seeded(0))
    assert torch.equal(x, y)
    assert (w.log_w - v.log_w).abs().max() < 1e-9


def test_resampling_lifts_a_half_trained_sampler():
    # the variance of log Z over 12 runs of 500 paths falls; moves at the end change no weight
    pis = PIS(Funnel(4, 1.0), steps=30)
    pis.fit(60, particles=500, check=False, generator=seeded(0))
    plain = [float(pis.sample(500, warn=False, generator=seeded(s))[1].ess) for s in range(5)]
    runs = [sample_smc(pis, 500, generator=seeded(s), moves=1) for s in range(5)]
    assert sum(float(w.ess) for _, w in runs) > 1.2 * sum(plain)
    again = sample_smc(pis, 500, generator=seeded(0))[1]
    assert torch.equal(again.log_w, runs[0][1].log_w)


# --- relatives ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [dds, dis])
def test_relatives_differ_in_the_reference_and_find_the_constant(make):
    # a shifted Gaussian, 200 iterations: log Z within 4 errors, ESS above .5
    target = Affine(
        Mixture(torch.zeros(1, 2), 1.0), torch.tensor([0.4, -0.3]).double(),
        torch.tensor([1.2, 0.8]).double(),
    )  # fmt: skip
    pis = make(target, steps=30)
    assert pis.chain.start > 0
    pis.fit(200, particles=1000, objective=Objective(points=512), generator=seeded(0))
    _, w = pis.sample(4000, generator=seeded(1))
    assert w.ess > 0.5
    assert abs(w.log_z) < 4 * w.log_z_se
