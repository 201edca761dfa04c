"""Beam search: beams descend from what they are; destinations cost no evaluations and set the noise."""

import math

import pytest
import torch

import redrift as rd
from problems import F64, generator
from redrift.guidance import TreeG, TreeGSD
from redrift.process import convert
from tilted import VP, chain, rule, run, selected

D = 24  # coordinates of the data below


def test_beams_descend_from_the_candidates_they_are():
    # of K n candidates the K best are kept: each lies where its own parent's law put it
    seen = []

    guide = TreeG(rule, beams=3, candidates=4, active=(1.0, 0.0))
    run(selected(guide, lambda run, law, *step: seen.append(step)), 8)
    for judged, move in seen:
        B, K = 8, 3
        best = judged.loss.reshape(B, -1).sort(1).values[:, :K]
        kept = judged.loss[move.ancestors]  # the candidates of the parents
        found = (judged.x[move.ancestors] == move.x[:, None]).all(-1)  # which of them it is
        assert bool((found.sum(1) == 1).all())
        assert torch.equal(kept[found].reshape(B, K).sort(1).values, best)


def dark(x):
    return x.mean(1)


def spied(**options):
    """Return, for each guided step but the last, law, clean prediction, tries and move."""
    model = rd.denoise.Gaussian(torch.linspace(-1, 1, D, dtype=F64), 0.7, VP)
    tries, steps = [], []

    def kept(x):
        tries.append(x.clone())
        return dark(x)

    def see(run, law, candidates, move):
        if not law.last:
            P, Q = convert(VP, law.start, run.wants, "x0")
            steps.append((law, P * law.z + Q * law.prediction, list(tries), move))
        tries.clear()

    guide = selected(TreeGSD(kept, active=(1.0, 0.0), **options), see)
    rd.sample(model, chain(12), shape=(5, D), dtype=F64, policy=guide, generator=generator(1))
    assert len(steps) == 11
    return steps


def noise_of(law, move):
    """Return the noise that made the move."""
    mean = law.mean if move.ancestors is None else law.mean[move.ancestors]
    return (move.x - mean) / law.scale


def direction(x):
    return x * math.sqrt(D) / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("beams", [1, 3])
def test_the_noise_of_a_step_points_from_the_prediction_to_the_best_destination(beams, rounds):
    n, B = 6, 5
    for law, clean, tries, move in spied(beams=beams, candidates=n, rounds=rounds):
        owner = torch.arange(B * beams)
        for x in tries:  # the best of each round, over all beams of a sample
            loss = dark(x).reshape(B, beams * n)
            best = loss.argsort(1)[:, :beams]
            flat = (best + beams * n * torch.arange(B)[:, None]).reshape(-1)
            owner, x = owner[flat // n], x[flat]
        assert len(tries) == rounds
        assert torch.equal(move.ancestors, owner)
        assert torch.allclose(noise_of(law, move), direction(x - clean[owner]), atol=1e-9)


def test_destinations_spread_like_clean_samples_given_the_state():
    # s times the deviation of x0 given the state, for data of unit variance; a later round starts
    # from what the first one chose
    for law, clean, (first, second), _ in spied(beams=1, candidates=40, rounds=2, spread=0.3):
        signal, noise = float(law.start.signal), float(law.start.root)
        rho = 0.3 * noise / math.hypot(signal, noise)
        at = first.reshape(5, 40, D)[torch.arange(5), dark(first).reshape(5, 40).argmin(1)]
        for x, center in ((first, clean), (second, at)):
            gaps = (x - center.repeat_interleave(40, 0)) / rho
            count = gaps.numel()
            assert abs(float(gaps.mean())) < 4 / math.sqrt(count)
            assert abs(float(gaps.square().mean()) - 1) < 4 * math.sqrt(2 / count)


def test_mixing_turns_the_steps_own_noise_towards_the_destination_on_its_sphere():
    along = {}
    for mixing in (0.0, 0.3, 1.0):
        steps = spied(beams=1, candidates=8, rounds=1, mixing=mixing)
        cosines = []
        for law, clean, (x,), move in steps:
            best = x.reshape(5, 8, D)[torch.arange(5), dark(x).reshape(5, 8).argmin(1)]
            found, aim = noise_of(law, move), direction(best - clean)
            assert torch.allclose(found.square().sum(1), torch.full((5,), float(D), dtype=F64))
            cosines.append((found * aim).mean(1))
        along[mixing] = float(torch.cat(cosines).mean())
    # own noise and aim are all but orthogonal: the cosine of (1 - r) a + r b is r / |(1 - r, r)|
    expected = 0.3 / math.hypot(0.3, 0.7)
    error = 1 / math.sqrt(D * 55)
    assert abs(along[0.0]) < 4 * error
    assert abs(along[0.3] - expected) < 4 * error + 0.01  # .01: the norms are of finite D
    assert along[1.0] == pytest.approx(1, abs=1e-9)


def test_destinations_lower_the_loss_at_the_cost_of_plain_sampling():
    model = rd.denoise.Gaussian(torch.zeros(D, dtype=F64), 1.0, VP)

    def uneven(x):  # a rule without a gradient
        return ((x[:, : D // 2] > 0) != (x[:, D // 2 :] > 0)).double().mean(1)

    options = dict(shape=(200, D), dtype=F64)
    plain = rd.sample(model, chain(20), generator=generator(2), **options)
    losses = [uneven(plain)]
    for n in (4, 16):
        guide = TreeGSD(uneven, beams=1, candidates=n)
        x = rd.sample(model, chain(20), policy=guide, generator=generator(2), **options)
        assert guide.results[-1].evaluations == 20
        assert torch.equal(guide.results[-1].loss, uneven(x))
        losses.append(uneven(x))
    for before, after in zip(losses, losses[1:]):
        gap = before - after
        assert float(gap.mean()) > 4 * float(gap.std()) / math.sqrt(200)
