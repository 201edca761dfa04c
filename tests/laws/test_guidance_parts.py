"""Guidance by segment, by gradient and by constraint, and rules in other processes."""

import math

import pytest
import torch

import redrift as rd
from problems import F64, generator
from redrift.guidance import (
    DPS,
    SCG,
    ClassifierGuidance,
    MaskRule,
    Masks,
    Pooled,
    TreeG,
    TreeGSD,
    as_loss,
    equal_segments,
)
from tilted import VP, chain, rule, run, toy


def test_segments_choose_on_their_own_and_reach_what_one_choice_cannot():
    model = rd.denoise.Gaussian(torch.zeros(1, 1, 8, dtype=F64), 1.0, VP)
    target = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=F64).repeat_interleave(2)

    def whole(x):
        return (x[:, 0, 0] - target).square().mean(1)

    def part(x):  # of a segment of two sites, by what it should be is not known: near +-1
        return (x[:, 0, 0].abs() - 1).square().mean(1)

    plan = chain(30)
    options = dict(shape=(32, 1, 1, 8), dtype=F64, generator=generator(1))
    segments = equal_segments((1, 1, 8), 4)
    one = SCG(part, candidates=4)
    many = SCG(part, candidates=4, segments=segments)
    rd.sample(model, plan, policy=one, **options)
    rd.sample(model, plan, policy=many, **options)
    assert float(many.results[-1].loss.mean() / 4) < 0.5 * float(one.results[-1].loss.mean())
    assert segments.masks((1, 1, 8)).sum() == 8
    with pytest.raises(ValueError, match="do not divide"):
        equal_segments((1, 1, 8), 3)


def test_segments_by_mask_are_those_by_box():
    model = rd.denoise.Gaussian(torch.zeros(1, 1, 8, dtype=F64), 1.0, VP)
    boxes = equal_segments((1, 1, 8), 2)
    x = torch.randn(3, 1, 1, 8, generator=generator(3), dtype=F64)

    def total(x):  # what is 0 outside a segment adds nothing
        return x.flatten(1).square().sum(1)

    masks = Masks(boxes.masks((1, 1, 8)), background=0.0)
    by_box, by_mask = (s.submit(as_loss(total), x)() for s in (boxes, masks))
    assert torch.allclose(by_box, x.square().reshape(3, 2, 4).sum(2))
    assert torch.allclose(by_mask, by_box)
    found = [
        rd.sample(model, chain(10), shape=(4, 1, 1, 8), dtype=F64, generator=generator(4),
                  policy=SCG(total, candidates=3, segments=s))
        for s in (boxes, masks)
    ]  # fmt: skip
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("process", "make"),
    [
        (rd.CLD(), lambda loss: SCG(loss, candidates=8)),
        (rd.Blur((4, 4)), lambda loss: SCG(loss, candidates=8)),
        (rd.Blur((4, 4)), lambda loss: TreeGSD(loss, beams=2)),
    ],
    ids=["CLD", "Blur", "Blur-TreeGSD"],
)
def test_rules_guide_langevin_and_blurring_plans(process, make):
    model = rd.denoise.Gaussian(torch.zeros(1, 4, 4, dtype=F64), 0.5, process)
    plan = rd.gddim(process, rd.timegrid(process, 30), order=1, stochasticity=1.0)
    options = dict(shape=(64, 1, 4, 4), dtype=F64)

    def bright(x):
        return (x.flatten(1).mean(1) - 0.3).abs()

    guide = make(bright)
    x = rd.sample(model, plan, policy=guide, generator=generator(1), **options)
    plain = rd.sample(model, plan, generator=generator(1), **options)
    assert x.shape == (64, 1, 4, 4)
    assert float(bright(x).mean()) < 0.35 * float(bright(plain).mean())
    assert torch.allclose(guide.results[-1].loss, bright(x))


def test_destinations_are_refused_where_noise_does_not_drive_the_data():
    process = rd.CLD()
    model = rd.denoise.Gaussian(torch.zeros(4, dtype=F64), 0.5, process)
    plan = rd.gddim(process, rd.timegrid(process, 10), order=1, stochasticity=1.0)
    with pytest.raises(ValueError, match="CLD with k = 2 may not have: use TreeG"):
        rd.sample(model, plan, shape=(2, 4), dtype=F64, policy=TreeGSD(lambda x: x.mean(1)))


def test_a_ring_collage_is_guided_by_segment():
    graph = rd.collage.ring(piece=(1, 1, 8), count=4, overlap=4)
    piece = rd.denoise.Gaussian(torch.zeros(1, 1, 8, dtype=F64), 1.0, VP)
    half = rd.denoise.Gaussian(torch.zeros(1, 1, 4, dtype=F64), 1.0, VP)
    canvas = graph.denoiser(piece=piece, overlap=half)

    def near_one(x):
        return (x.flatten(1).mean(1) - 1).square()

    plan = chain(30)
    options = dict(shape=(16, *graph.shape), dtype=F64, generator=generator(2))
    guide = SCG(near_one, candidates=6, segments=equal_segments(graph.shape, 4))
    x = rd.sample(canvas, plan, policy=guide, **options)
    plain = rd.sample(canvas, plan, **options)
    for s in range(4):
        part = slice(4 * s, 4 * s + 4)
        assert near_one(x[..., part]).mean() < 0.5 * near_one(plain[..., part]).mean()


# ------------------------------------------------------------------ gradients and constraints


def test_the_gradient_of_a_gaussian_rule_gives_the_posterior_of_a_gaussian():
    # prior N(0, 1), rule (x - 1)^2 / (2 s^2); the classifier of the noisy state is known exactly
    s, n = 0.5, 4000
    model = rd.denoise.Gaussian(torch.zeros(1, dtype=F64), 1.0, VP)

    def log_prob(x, t):  # log p(y | x_t), y = 1: x0 | x_t is N(alpha x, sigma^2) for this prior
        alpha, sigma = VP.alpha(t[0]), VP.sigma(t[0])
        return -((alpha * x[:, 0] - 1) ** 2) / (2 * (sigma**2 + s**2))

    bent = ClassifierGuidance(model, log_prob)
    plan = rd.deis(VP, rd.timegrid(VP, 60), order=3)
    x = rd.sample(bent, plan, shape=(n, 1), dtype=F64, generator=generator(6))
    mean, std = 1 / (1 + s**2), math.sqrt(s**2 / (1 + s**2))
    # the run begins at N(0, 1), not at the bent marginal, whose mean there is 5e-3
    assert abs(float(x.mean()) - mean) < 4 * std / math.sqrt(n) + 0.01
    assert abs(float(x.std()) - std) < 4 * std / math.sqrt(2 * n) + 0.01


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score"])
def test_bending_is_the_same_in_every_reading(predicts):
    model = toy()
    own = rd.Denoiser(lambda x, t: getattr(model, predicts)(x, t[0]), VP, predicts)
    x = torch.randn(5, 1, generator=generator(7), dtype=F64)
    for wrap in (
        lambda m: DPS(m, rule, 0.3),
        lambda m: rd.denoise.Edited(m, rd.denoise.clip(0.2)),
    ):
        found, exact = (wrap(m).eps(x, 0.4) for m in (own, model))
        assert torch.allclose(found, exact, atol=1e-9)


def test_a_hard_rule_holds_to_rounding_and_leaves_the_rest():
    mask = torch.tensor([[[True, False, False, True]]])
    hard = MaskRule(mask, 0.25)
    model = rd.denoise.Gaussian(torch.zeros(1, 1, 4, dtype=F64), 1.0, VP)
    plan = rd.deis(VP, rd.timegrid(VP, 10), order=2, end="denoise")
    options = dict(shape=(8, 1, 1, 4), dtype=F64, generator=generator(8))
    x = rd.sample(hard.hard(model), plan, **options)
    options["generator"] = generator(8)
    free = rd.sample(model, plan, **options)
    assert (x[..., [0, 3]] - 0.25).abs().max() < 1e-12
    assert torch.allclose(x[..., 1:3], free[..., 1:3], atol=1e-12)
    assert float(hard(x).max()) < 1e-20


# ------------------------------------------------------------------ losses and other processes


def test_losses_add_and_scale():
    x = torch.randn(5, 3, generator=generator(9), dtype=F64)
    a, b = as_loss(lambda x: x.square().mean(1)), as_loss(lambda x: x.amax(1).abs())
    assert torch.allclose((a + 2 * b)(x), a(x) + 2 * b(x))
    assert torch.allclose(sum([a, b])(x), a(x) + b(x))


def test_a_rule_in_other_processes_guides_as_one_in_this_does():
    from slow_rules import spread

    def here(x):
        return torch.tensor([spread(row) for row in x.numpy()], dtype=F64)

    model = rd.denoise.Gaussian(torch.zeros(3, dtype=F64), 1.0, VP)
    pooled = Pooled(spread, workers=1)
    found = [
        rd.sample(model, chain(8), shape=(4, 3), dtype=F64, generator=generator(4),
                  policy=SCG(loss, candidates=6, max_batch=8))
        for loss in (here, pooled)
    ]  # fmt: skip
    pooled.close()
    assert torch.equal(*found)


def test_who_watches_sees_the_losses_of_what_is_kept():
    seen = []
    for guide in (SCG(rule, candidates=3, watch=lambda *a: seen.append(a)),
                  TreeG(rule, beams=2, candidates=3, watch=lambda *a: seen.append(a))):  # fmt: skip
        seen.clear()
        _, result = run(guide, 4, plan=chain(20))
        assert [step for step, _ in seen][-1] == 19
        assert torch.equal(seen[-1][1], result.particles)
        assert float(seen[-1][1].mean()) < float(seen[0][1].mean())


def test_a_slow_rule_in_other_processes_gives_the_same_numbers_and_survives_their_death():
    from slow_rules import dies, several, spread

    x = torch.randn(6, 3, generator=generator(9), dtype=F64)
    pooled = Pooled(spread, workers=2)
    assert torch.allclose(pooled(x), torch.tensor([spread(r) for r in x.numpy()], dtype=F64))
    pooled.close()
    with pytest.raises(ValueError, match="'several' returned ndarray for a sample, expected one"):
        Pooled(several, workers=1)(x)
    with pytest.raises(RuntimeError, match="died"):
        Pooled(dies, workers=1)(x)
