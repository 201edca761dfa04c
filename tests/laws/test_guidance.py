"""Guidance: plain sampling where there is no choice, choices as told, their cost, and what is refused."""

import contextlib
import itertools
import math

import pytest
import torch

import redrift as rd
from problems import F64, generator
from redrift.guidance import (
    SCG,
    SVDD,
    BestOfN,
    BySegment,
    Destinations,
    Draws,
    FKSteering,
    Masks,
    Particles,
    Resampling,
    TreeG,
    TreeGSD,
    TwistedSMC,
    as_loss,
    equal_segments,
)
from tilted import STD, VP, chain, generators, rule, run, selected, toy

# ------------------------------------------------------------------ what must be equal


@pytest.mark.parametrize("make", [SCG, SVDD, TreeG, TreeGSD, FKSteering])
def test_one_candidate_is_plain_sampling_bit_for_bit(make):
    options = {"candidates": 1} if make is not FKSteering else {}
    options |= {"beams": 1} if make in (TreeG, TreeGSD) else {}
    options |= {"particles": 1} if make is FKSteering else {}
    guided, _ = run(make(rule, **options), 16)
    plain = rd.sample(toy(), chain(), shape=(16, 1), dtype=F64, generator=generator(0))
    assert torch.equal(guided, plain)


def test_a_sample_is_the_same_whatever_its_neighbours_and_the_batch_split():
    options = dict(shape=(6, 1), dtype=F64)
    for make in (
        lambda: SCG(rule, candidates=4),
        lambda: FKSteering(rule, particles=4, ess_threshold=0.9),
        lambda: TreeG(rule, beams=2, candidates=2),
        lambda: TreeGSD(rule, beams=2, candidates=3),
        lambda: SCG(rule, candidates=4, max_batch=8),
    ):
        whole = rd.sample(toy(), chain(20), policy=make(), generator=generators(6), **options)
        parts = rd.sample(
            toy(), chain(20), policy=make(), generator=generators(6), batch_size=2, **options
        )
        assert torch.allclose(whole, parts, rtol=1e-12, atol=1e-12)


def test_the_chosen_candidate_is_the_one_with_the_least_loss_at_the_next_level():
    seen = []

    model = toy()
    guide = SCG(rule, candidates=5, active=(1.0, 0.0))
    run(selected(guide, lambda _, *step: seen.append(step)), 8)
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
        SVDD(rule, candidates=3, particles=4, weighted=True, ess_threshold=0.9),
        FKSteering(rule, particles=6, ess_threshold=0.99),
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
        (TreeGSD(rule, beams=3, candidates=5, active=(1.0, 0.0)), 3 * 20),
        (BestOfN(rule, 5), 5 * 20),
    ):
        calls.clear()
        _, result = run(guide, 2, counted, plan)
        assert sum(calls) == 2 * rows
        assert result.evaluations == rows


@pytest.mark.parametrize("end", ["denoise", "zero"])
def test_plans_that_end_clean_are_guided_too(end):
    plan = rd.ddpm(VP, rd.timegrid(VP, 30), end=end)
    for guide in (SCG(rule, candidates=8), TreeG(rule, beams=2, candidates=4), BestOfN(rule, 8)):
        x, result = run(guide, 64, plan=plan)
        assert torch.allclose(result.loss, rule(x))
        assert float(result.loss.mean()) < 0.25 * float(rule(run(BestOfN(rule, 1), 64)[0]).mean())


def test_steps_outside_the_active_range_are_plain_and_those_within_are_guided():
    guided, states = [], {}

    spied = selected(
        SCG(rule, candidates=3, active=(0.7, 0.3)), lambda _, law, *rest: guided.append(law.step)
    )
    for name, policy in (("plain", None), ("guided", spied)):
        states[name] = path = []
        rd.sample(toy(), chain(20), shape=(4, 1), dtype=F64, policy=policy, generator=generator(0),
                  callback=lambda i, t, z: path.append(z.clone()))  # noqa: B023  # fmt: skip
    share = chain(20).times[:-1] / VP.horizon
    within = [i for i in range(19) if 0.3 < share[i] <= 0.7]
    assert guided == [*within, 19]  # the last step costs nothing
    same = [torch.equal(a, b) for a, b in zip(states["plain"], states["guided"])]
    assert same == [i < within[0] for i in range(20)]


def test_a_loss_of_decoded_samples_is_the_loss_of_the_samples_after_decoding():
    def decode(x):
        return torch.cat((x - 1, 2 * x), 1)

    def decoded(x):
        assert x.shape[1] == 2
        return x.square().mean(1)

    found = [
        run(guide, 8)[0]
        for guide in (
            SCG(lambda x: decoded(decode(x)), candidates=4),
            SCG(decoded, candidates=4, decode=decode),
            SCG(as_loss(decoded, decode), candidates=4),
        )
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# ------------------------------------------------------------------ what greedy choices do


def test_greedy_choices_collapse_to_the_minimum_of_the_rule():
    # a documented fact, not a virtue: SCG optimises, it does not sample the tilted law
    x, _ = run(SCG(rule, candidates=16, active=(1.0, 0.0)), 128)
    assert float(x.std()) < 0.02 < STD
    assert abs(float(x.mean()) - 0.6) < 0.01


def test_more_candidates_never_hurt_one_step_in_expectation():
    # E min of n draws falls in n; the losses of the first n of one set of draws, over 4000 states
    seen = {}

    def see(_, law, candidates, move):
        seen[law.step] = candidates.loss

    run(selected(SCG(rule, candidates=16, active=(1.0, 0.0)), see), 1000)
    for loss in seen.values():
        means = [float(loss[:, :n].amin(1).mean()) for n in (1, 2, 4, 8, 16)]
        assert all(a >= b for a, b in itertools.pairwise(means))


def test_ties_are_drawn_and_repeat_with_the_seed():
    flat = as_loss(lambda x: torch.zeros(len(x)))
    picks = []

    def see(run, law, candidates, move):
        chosen = (candidates.x == move.x[:, None]).all(-1)
        picks.append(chosen.double().argmax(1))

    run(selected(SCG(flat, candidates=4, active=(1.0, 0.0)), see), 200)
    counts = torch.bincount(torch.cat(picks), minlength=4).double()
    expected = counts.sum() / 4
    assert float(((counts - expected) ** 2 / expected).sum()) < 25  # chi-square, 3 degrees: 2e-5
    a, _ = run(SCG(flat, candidates=4), 4)
    b, _ = run(SCG(flat, candidates=4), 4)
    assert torch.equal(a, b)


# ------------------------------------------------------------------ bad input


def bad_shape(x):
    return x


def bad_value(x):
    return torch.full((len(x),), torch.nan)


def mutating(x):
    x += 1
    return torch.zeros(len(x))


PARTS = BySegment(equal_segments((1, 1, 8), 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SCG(rule, candidates=0), "candidates must be at least 1"),
        (lambda: FKSteering(rule, particles=0), "particles must be at least 1"),
        (lambda: SCG(rule, active=(0.2, 0.7)), "nothing would be guided"),
        (lambda: SCG(3), "a loss is a callable"),
        (lambda: FKSteering(rule, inverse_temperature=0), "must be positive"),
        (lambda: FKSteering(rule, inverse_temperature=math.inf), "positive and finite"),
        (lambda: FKSteering(rule, tempering=-1.0), "tempering must be at least 0"),
        (lambda: FKSteering(rule, ess_threshold=-0.1), r"ess_threshold must be .* \[0, 1\]"),
        (lambda: FKSteering(rule, ess_threshold=1.1), r"ess_threshold must be .* \[0, 1\]"),
        (lambda: FKSteering(rule, method="sorted"), "method='sorted' is not known"),
        (lambda: FKSteering(rule, potential="least"), "potential='least' is not known"),
        (lambda: SCG(rule, noise_scale=0.0), "noise_scale must be positive"),
        (
            lambda: Particles(rule, proposal=Draws(1, noise_scale=1.5), resampling=Resampling()),
            "leaves the law that weights are for",
        ),
        (lambda: SCG(rule, max_batch=0), "max_batch must be at least 1"),
        (lambda: Particles(rule, particles=2, selection=PARTS), "chosen one by one"),
        (lambda: Particles(rule, proposal=Destinations(), selection=PARTS), "SCG for segments"),
        (lambda: TreeGSD(rule, spread=0.0), "spread must be positive"),
        (lambda: TreeGSD(rule, mixing=1.5), r"mixing in \[0, 1\]"),
        (lambda: TreeGSD(rule, rounds=0), "rounds must be at least 1"),
        (lambda: run(SCG(bad_shape, candidates=2), 2), "returned shape"),
        (lambda: run(SCG(bad_value, candidates=2), 2), "is not finite"),
        (lambda: run(SCG(mutating, candidates=2), 2), "changed its input"),
        (lambda: run(SCG(rule), 2, plan=rd.ddim(VP, rd.timegrid(VP, 5))), "nothing; use rd.ddpm"),
        (
            lambda: run(SCG(rule), 2, plan=rd.ddpm(VP, rd.timegrid(VP, 5), eta=0.0)),
            "nothing; use rd.ddpm",
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
