"""Guidance: plain sampling where there is no choice, unbiased weights, the tilted law, and its limits."""

import contextlib
import itertools
import math

import pytest
import torch

import redrift as rd
from problems import F64, generator
from redrift.guidance import (
    DPS,
    SCG,
    SVDD,
    BestOfN,
    Clamp,
    ClassifierGuidance,
    FKSteering,
    MaskRule,
    Masks,
    Particles,
    Pooled,
    TreeG,
    TwistedSMC,
    as_loss,
    particles,
    split,
)

VP = rd.VP()
MEAN, STD, LOSS = 0.790, 0.213, 0.489  # of the tilted toy, by Gauss's formulas


def generators(n, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(n)]


def toy():
    """Return the two-mode prior in one dimension; its rule wants x near .6."""
    return rd.denoise.GaussianMixture(
        torch.tensor([0.7, 0.3], dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64),
        torch.tensor([0.3, 0.3], dtype=F64), VP,
    )  # fmt: skip


def rule(x):
    return 6 * (x[:, 0] - 0.6) ** 2


def chain(steps=60):
    return rd.ddpm(VP, rd.timegrid(VP, steps))


def run(guide, n=256, model=None, plan=None, seed=0, **options):
    model, plan = model or toy(), plan or chain()
    x = rd.sample(
        model, plan, shape=(n, 1), dtype=F64, policy=guide, generator=generator(seed), **options
    )
    return x, guide.results[-1]


def chain_constant(plan, model, sites=600):
    """Return Z = E exp(-rule(x)) of the discrete chain itself, by a dense grid."""
    grid = torch.linspace(-7, 7, sites, dtype=F64)
    h = float(grid[1] - grid[0])
    value = torch.exp(-rule(grid[:, None]))
    for row in reversed(list(plan.rows)):
        e = model.ask(grid[:, None], row.start, plan.wants)[:, 0]
        mean = float(row.A[-1]) * grid + float(row.C[-1][0]) * e
        std = float(row.B)
        if std < 2 * h:  # a narrow step: five Gauss-Hermite nodes on the interpolated value
            nodes, weights = hermite()
            at = mean[:, None] + std * nodes
            value = (interpolate(value, at, grid, h) * weights).sum(1)
            continue
        density = torch.exp(-((grid[None] - mean[:, None]) ** 2) / (2 * std**2))
        value = (density * value[None]).sum(1) * h / (std * math.sqrt(2 * math.pi))
    start = float(plan.process.root(plan.times[0]))
    first = torch.exp(-(grid**2) / (2 * start**2)) / (start * math.sqrt(2 * math.pi))
    return float((first * value).sum() * h)


def hermite():
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


def interpolate(value, at, grid, h):
    place = ((at - grid[0]) / h).clamp(0, len(grid) - 1.001)
    i = place.floor().long()
    share = place - i
    return (1 - share) * value[i] + share * value[i + 1]


# ------------------------------------------------------------------ what must be equal


@pytest.mark.parametrize("make", [SCG, SVDD, TreeG, FKSteering])
def test_one_candidate_is_plain_sampling_bit_for_bit(make):
    options = {"candidates": 1} if make is not FKSteering else {}
    options |= {"beams": 1} if make is TreeG else {}
    options |= {"particles": 1} if make is FKSteering else {}
    guided, _ = run(make(rule, **options), 16)
    plain = rd.sample(toy(), chain(), shape=(16, 1), dtype=F64, generator=generator(0))
    assert torch.equal(guided, plain)


def test_a_sample_is_the_same_whatever_its_neighbours_and_the_batch_split():
    options = dict(shape=(6, 1), dtype=F64)
    for make in (
        lambda: SCG(rule, candidates=4),
        lambda: FKSteering(rule, particles=4, threshold=0.9),
        lambda: TreeG(rule, beams=2, candidates=2),
        lambda: SCG(rule, candidates=4, max_batch=8),
    ):
        whole = rd.sample(toy(), chain(20), policy=make(), generator=generators(6), **options)
        parts = rd.sample(
            toy(), chain(20), policy=make(), generator=generators(6), batch_size=2, **options
        )
        assert torch.allclose(whole, parts, rtol=1e-12, atol=1e-12)


def test_the_chosen_candidate_is_the_one_with_the_least_loss_at_the_next_level():
    seen = []

    class Spy(SCG):
        def _weigh(self, law, judged, generator):
            move = super()._weigh(law, judged, generator)
            seen.append((law, judged, move))
            return move

    model = toy()
    run(Spy(rule, candidates=5, active=(1.0, 0.0)), 8)
    for law, judged, move in seen[:-1]:
        level = float(law.level.signal), float(law.level.root)
        clean = (judged.x - level[1] * judged.prediction) / level[0]  # eps at the next level
        asked = model.ask(judged.x.flatten(0, 1), law.level, "eps").reshape(judged.x.shape)
        assert torch.allclose(judged.prediction, asked, atol=1e-12)
        assert torch.allclose(judged.loss, rule(clean.flatten(0, 1)).reshape(8, 5), rtol=1e-9)
        best = judged.loss.argmin(1)
        assert torch.equal(move.x, judged.x[torch.arange(8), best])
    law, judged, _ = seen[-1]
    assert law.last
    assert torch.allclose(judged.loss, rule(judged.x.flatten(0, 1)).reshape(8, 5))


@pytest.mark.parametrize(
    "guide",
    [
        SCG(rule, candidates=3),
        SVDD(rule, candidates=3, particles=4, weighted=True, threshold=0.9),
        FKSteering(rule, particles=6, threshold=0.99),
        TreeG(rule, beams=3, candidates=2),
    ],
    ids=["SCG", "weighted SVDD", "FK", "TreeG"],
)
def test_the_prediction_that_is_carried_along_is_the_models_own(guide):
    model, moved = toy(), []

    class Spy:
        needs_noise, coupled, width = True, False, guide.width

        @contextlib.contextmanager
        def begin(self):
            with guide.begin() as self.act:
                yield self

        def finish(self, x):
            return self.act.finish(x)

        def __call__(self, law, model, wants, *, generator):
            move = self.act(law, model, wants, generator=generator)
            if move.prediction is not None:
                own = model.ask(move.x, law.level, wants)
                assert torch.allclose(move.prediction, own, atol=1e-12)
                moved.append(move.ancestors)
            return move

    rd.sample(model, chain(20), shape=(8, 1), dtype=F64, policy=Spy(), generator=generator(1))
    assert moved
    assert guide.width == 1 or any(a is not None for a in moved)


def test_evaluations_are_those_of_the_formula():
    calls = []
    model = toy()
    counted = rd.Denoiser(lambda x, t: (calls.append(len(x)), model.eps(x, t[0]))[1], VP, "eps")
    plan = chain(20)
    for guide, rows in (
        (SCG(rule, candidates=4, active=(1.0, 0.0)), 1 + 19 * 4),
        (SCG(rule, candidates=4, active=(1.0, 0.0), every=2), 1 + 10 * 4 + 9),
        (SCG(rule, candidates=4, active=(1.0, 0.0), max_batch=2), 1 + 19 * 4),
        (FKSteering(rule, particles=3), 3 * 20),
        (TreeG(rule, beams=2, candidates=3, active=(1.0, 0.0)), 2 + 19 * 6),
        (BestOfN(rule, 5), 5 * 20),
    ):
        calls.clear()
        _, result = run(guide, 2, counted, plan)
        assert sum(calls) == 2 * rows
        assert result.evaluations == rows


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
@pytest.mark.parametrize("n", [1, 2])
def test_weights_are_unbiased_by_enumeration_of_a_finite_chain(monkeypatch, n, potential):
    # noise is one of two numbers, so a run has finitely many outcomes; choices are enumerated too
    model, plan = toy(), rd.ddpm(VP, rd.timegrid(VP, 2, start=0.6, stop=0.05))
    start = torch.tensor([[0.3]], dtype=F64)
    outcomes = []

    def outcome(signs, picks):
        signs, picks = iter(signs), iter(picks)
        chance = [1.0]
        monkeypatch.setattr(
            particles, "normal",
            lambda shape, g, **k: torch.tensor([next(signs) for _ in range(shape[0])], dtype=F64)[:, None],
        )  # fmt: skip

        class Enumerated(Particles):
            def _pick(self, score, generator):
                j = next(picks)
                chance[0] *= float((-score[0, 0]).softmax(0)[j])
                return torch.full((1, 1), j)

        guide = Enumerated(
            lambda x: 0.3 * rule(x), candidates=n, select="categorical", potential=potential
        )
        rd.sample(model, plan, x=start, policy=guide)
        return chance[0] * float(guide.results[-1].weights.log_w[0, 0].exp())

    for signs in itertools.product((-1.0, 1.0), repeat=2 * n):
        for picks in itertools.product(range(n), repeat=2):
            outcomes.append(outcome(signs, picks) / 2 ** (2 * n))
    monkeypatch.undo()
    exact = 0.0
    for signs in itertools.product((-1.0, 1.0), repeat=2):
        z = start
        for row, sign in zip(plan.rows, signs):
            e = model.ask(z, row.start, plan.wants)
            z = float(row.A[-1]) * z + float(row.C[-1][0]) * e + float(row.B) * sign
        exact += float(torch.exp(-0.3 * rule(z))) / 4
    assert sum(outcomes) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("end", ["min", "denoise", "zero"])
@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_potentials_of_one_path_multiply_to_the_tilt_of_its_sample(end, potential):
    plan = rd.ddpm(VP, rd.timegrid(VP, 12), end=end)
    guide = FKSteering(rule, particles=1, strength=0.7, potential=potential)
    x, result = run(guide, 16, plan=plan)
    assert torch.allclose(result.loss, rule(x))
    assert torch.allclose(result.weights.log_w[:, 0], -0.7 * rule(x))


def test_the_maximum_potential_keeps_the_best_so_far():
    seen = []

    class Spy(FKSteering):
        def _weigh(self, law, judged, generator):
            move = super()._weigh(law, judged, generator)
            seen.append((law.level.signal.flatten() ** 4, judged.loss[:, 0], self._before[:, 0]))
            return move

    run(Spy(rule, particles=1, potential="max", strength=0.7), 32)
    temper, loss, held = (torch.stack(row) for row in zip(*seen[:-1]))
    best = loss.cummin(0).values
    assert torch.allclose(held, 0.7 * temper * best, rtol=1e-9)
    assert not torch.equal(best, loss)


def test_the_temper_keeps_the_weights_even():
    # untempered potentials trust the blurry predictions at high noise, and resample on them
    first = []
    for temper in (2.0, 0.0):
        _, result = run(FKSteering(rule, particles=16, temper=temper), 64)
        early = [ess for step, ess in result.ess if step < 15]
        first.append(min(early))
    assert first[0] > 0.9 > 0.7 > first[1]


def test_the_roots_of_the_particles_are_those_of_their_ancestors():
    for guide in (
        FKSteering(rule, particles=6, threshold=0.99),
        TreeG(rule, beams=4, candidates=2),
    ):
        seen = []

        class Spy(type(guide)):
            def __call__(self, law, model, wants, *, generator):
                move = super().__call__(law, model, wants, generator=generator)
                if move.ancestors is not None:
                    seen.append(move.ancestors)  # noqa: B023
                return move

        guide.__class__ = Spy
        _, result = run(guide, 4, plan=chain(20))
        K = guide.width
        roots = torch.arange(K).repeat(4)
        for ancestors in seen:
            roots = roots[ancestors]
        assert torch.equal(result.roots.flatten(), roots)
        assert len(result.roots[0].unique()) < K


def test_beams_descend_from_the_candidates_they_are():
    # of K n candidates the K best are kept: each lies where its own parent's law put it
    seen = []

    class Spy(TreeG):
        def _top(self, law, judged, generator):
            move = super()._top(law, judged, generator)
            seen.append((judged, move))
            return move

    run(Spy(rule, beams=3, candidates=4, active=(1.0, 0.0)), 8)
    for judged, move in seen:
        B, K = 8, 3
        best = judged.loss.reshape(B, -1).sort(1).values[:, :K]
        kept = judged.loss[move.ancestors]  # the candidates of the parents
        found = (judged.x[move.ancestors] == move.x[:, None]).all(-1)  # which of them it is
        assert bool((found.sum(1) == 1).all())
        assert torch.equal(kept[found].reshape(B, K).sort(1).values, best)


@pytest.mark.parametrize("end", ["denoise", "zero"])
def test_plans_that_end_clean_are_guided_too(end):
    plan = rd.ddpm(VP, rd.timegrid(VP, 30), end=end)
    for guide in (SCG(rule, candidates=8), TreeG(rule, beams=2, candidates=4), BestOfN(rule, 8)):
        x, result = run(guide, 64, plan=plan)
        assert torch.allclose(result.loss, rule(x))
        assert float(result.loss.mean()) < 0.25 * float(rule(run(BestOfN(rule, 1), 64)[0]).mean())


@pytest.mark.parametrize(
    "make",
    [
        lambda: FKSteering(rule, particles=64),
        lambda: FKSteering(rule, particles=64, potential="max"),
        lambda: SVDD(rule, candidates=4, particles=16, weighted=True),
        lambda: BestOfN(rule, 64),
    ],
    ids=["Feynman-Kac", "its maximum", "weighted SVDD", "plain"],
)
def test_the_normalising_constant_is_that_of_the_chain(make):
    # 4 standard errors of the mean over 400 runs (two-sided 6e-5); a wrong last potential is off by
    # a factor
    _, result = run(make(), 400, seed=3)
    z = result.weights.log_z.exp() / chain_constant(chain(), toy())
    assert abs(float(z.mean()) - 1) < 4 * float(z.std()) / math.sqrt(400)
    assert float(z.std()) / math.sqrt(400) < 0.06


def test_twisted_proposals_are_weighted_back():
    bent = DPS(toy(), rule, 0.1, root=False)
    _, result = run(TwistedSMC(rule, particles=32), 400, bent, seed=4)
    z = result.weights.log_z.exp() / chain_constant(chain(), toy())
    assert abs(float(z.mean()) - 1) < 4 * float(z.std()) / math.sqrt(400)
    assert float(z.std()) / math.sqrt(400) < 0.08
    _, unweighted = run(FKSteering(rule, particles=32), 400, bent, seed=4)
    wrong = unweighted.weights.log_z.exp() / chain_constant(chain(), toy())
    assert abs(float(wrong.mean()) - 1) > 6 * float(wrong.std()) / math.sqrt(400)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FKSteering(rule, particles=64),
        lambda: SVDD(rule, candidates=16, particles=8, weighted=True),
    ],
    ids=["Feynman-Kac", "weighted SVDD"],
)
def test_weighted_particles_sample_the_tilted_law(make):
    x, _ = run(make(), 400, seed=5)
    assert abs(float(x.mean()) - MEAN) < 4 * STD / 20 + 0.02  # .02: 60 steps are not the exact law
    assert abs(float(x.std()) - STD) < 4 * STD / math.sqrt(800) + 0.01
    assert abs(float(rule(x).mean()) - LOSS) < 4 * float(rule(x).std()) / 20 + 0.03


# ------------------------------------------------------------------ what greedy choices do


def test_greedy_choices_collapse_to_the_minimum_of_the_rule():
    # a documented fact, not a virtue: SCG optimises, it does not sample the tilted law
    x, _ = run(SCG(rule, candidates=16, active=(1.0, 0.0)), 128)
    assert float(x.std()) < 0.02 < STD
    assert abs(float(x.mean()) - 0.6) < 0.01


def test_more_candidates_never_hurt_one_step_in_expectation():
    # E min of n draws falls in n; the losses of the first n of one set of draws, over 4000 states
    seen = {}

    class Spy(SCG):
        def _weigh(self, law, judged, generator):
            seen[law.step] = judged.loss
            return super()._weigh(law, judged, generator)

    run(Spy(rule, candidates=16, active=(1.0, 0.0)), 1000)
    for loss in seen.values():
        means = [float(loss[:, :n].amin(1).mean()) for n in (1, 2, 4, 8, 16)]
        assert all(a >= b for a, b in itertools.pairwise(means))


def test_ties_are_drawn_and_repeat_with_the_seed():
    flat = as_loss(lambda x: torch.zeros(len(x)))
    picks = []

    class Spy(SCG):
        def _pick(self, score, generator):
            pick = super()._pick(score, generator)
            picks.append(pick.flatten())
            return pick

    run(Spy(flat, candidates=4, active=(1.0, 0.0)), 200)
    counts = torch.bincount(torch.cat(picks), minlength=4).double()
    expected = counts.sum() / 4
    assert float(((counts - expected) ** 2 / expected).sum()) < 25  # chi-square, 3 degrees: 2e-5
    a, _ = run(SCG(flat, candidates=4), 4)
    b, _ = run(SCG(flat, candidates=4), 4)
    assert torch.equal(a, b)


# ------------------------------------------------------------------ segments, other processes


def test_segments_choose_on_their_own_and_reach_what_one_choice_cannot():
    model = rd.denoise.Gaussian(torch.zeros(1, 1, 8, dtype=F64), 1.0, VP)
    target = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=F64).repeat_interleave(2)

    def whole(x):
        return (x[:, 0, 0] - target).square().mean(1)

    def part(x):  # of a segment of two sites, by what it should be is not known: near +-1
        return (x[:, 0, 0].abs() - 1).square().mean(1)

    plan = chain(30)
    options = dict(shape=(32, 1, 1, 8), dtype=F64, generator=generator(1))
    segments = split((1, 1, 8), 4)
    one = SCG(part, candidates=4)
    many = SCG(part, candidates=4, segments=segments)
    rd.sample(model, plan, policy=one, **options)
    rd.sample(model, plan, policy=many, **options)
    assert float(many.results[-1].loss.mean() / 4) < 0.5 * float(one.results[-1].loss.mean())
    assert segments.masks((1, 1, 8)).sum() == 8
    with pytest.raises(ValueError, match="do not divide"):
        split((1, 1, 8), 3)


def test_segments_by_mask_are_those_by_box():
    model = rd.denoise.Gaussian(torch.zeros(1, 1, 8, dtype=F64), 1.0, VP)
    boxes = split((1, 1, 8), 2)
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


@pytest.mark.parametrize("process", [rd.CLD(), rd.Blur((4, 4))], ids=["CLD", "Blur"])
def test_rules_guide_langevin_and_blurring_plans(process):
    model = rd.denoise.Gaussian(torch.zeros(1, 4, 4, dtype=F64), 0.5, process)
    plan = rd.gddim(process, rd.timegrid(process, 30), order=1, stochasticity=1.0)
    options = dict(shape=(64, 1, 4, 4), dtype=F64)

    def bright(x):
        return (x.flatten(1).mean(1) - 0.3).abs()

    guide = SCG(bright, candidates=8)
    x = rd.sample(model, plan, policy=guide, generator=generator(1), **options)
    plain = rd.sample(model, plan, generator=generator(1), **options)
    assert x.shape == (64, 1, 4, 4)
    assert float(bright(x).mean()) < 0.35 * float(bright(plain).mean())
    assert torch.allclose(guide.results[-1].loss, bright(x))


def test_a_ring_collage_is_guided_by_segment():
    graph = rd.collage.ring(piece=(1, 1, 8), count=4, overlap=4)
    piece = rd.denoise.Gaussian(torch.zeros(1, 1, 8, dtype=F64), 1.0, VP)
    half = rd.denoise.Gaussian(torch.zeros(1, 1, 4, dtype=F64), 1.0, VP)
    canvas = graph.denoiser(piece=piece, overlap=half)

    def near_one(x):
        return (x.flatten(1).mean(1) - 1).square()

    plan = chain(30)
    options = dict(shape=(16, *graph.shape), dtype=F64, generator=generator(2))
    guide = SCG(near_one, candidates=6, segments=split(graph.shape, 4))
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
    for wrap in (lambda m: DPS(m, rule, 0.3), lambda m: Clamp(m, lambda a: a.clamp(-0.2, 0.2))):
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


# ------------------------------------------------------------------ bad input


def bad_shape(x):
    return x


def bad_value(x):
    return torch.full((len(x),), torch.nan)


def mutating(x):
    x += 1
    return torch.zeros(len(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SCG(rule, candidates=0), "candidates must be at least 1"),
        (lambda: FKSteering(rule, particles=0), "particles must be at least 1"),
        (lambda: SCG(rule, active=(0.2, 0.7)), "nothing would be guided"),
        (lambda: SCG(3), "a loss is a callable"),
        (lambda: FKSteering(rule, strength=0), "must be positive"),
        (lambda: FKSteering(rule, segments=split((1, 1, 8), 2)), "chosen one by one"),
        (lambda: run(SCG(bad_shape, candidates=2), 2), "returned shape"),
        (lambda: run(SCG(bad_value, candidates=2), 2), "is not finite"),
        (lambda: run(SCG(mutating, candidates=2), 2), "changed its input"),
        (lambda: run(SCG(rule), 2, plan=rd.ddim(VP, rd.timegrid(VP, 5))), "would do nothing"),
        (
            lambda: run(SCG(rule), 2, plan=rd.ddpm(VP, rd.timegrid(VP, 5), eta=0.0)),
            "would do nothing",
        ),
        (lambda: run(TwistedSMC(rule), 2), "use FKSteering"),
        (lambda: run(SCG(rule, active=(0.501, 0.5)), 2), "no step of the plan begins within"),
        (lambda: Masks(torch.ones(2, 4, dtype=torch.bool)), "exactly once"),
        (lambda: as_loss(rule) * -1.0, "a finite number >= 0"),
    ],
)
def test_what_cannot_work_is_refused_by_name(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


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
    from slow_rules import dies, spread

    x = torch.randn(6, 3, generator=generator(9), dtype=F64)
    pooled = Pooled(spread, workers=2)
    assert torch.allclose(pooled(x), torch.tensor([spread(r) for r in x.numpy()], dtype=F64))
    pooled.close()
    with pytest.raises(RuntimeError, match="died"):
        Pooled(dies, workers=1)(x)
