"""Weights of guidance: unbiased for every number of particles, and particles of the tilted law."""

import contextlib
import itertools
import math

import pytest
import torch

import redrift as rd
from problems import F64, generator
from redrift.guidance import (
    DPS,
    SVDD,
    BestOfN,
    Categorical,
    Draws,
    FKSteering,
    Particles,
    Potential,
    TreeG,
    TreeGSD,
    TwistedSMC,
    proposal,
)
from redrift.measure import resampling
from tilted import LOSS, MEAN, STD, VP, chain, chain_constant, rule, run, selected, toy


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
            proposal, "normal",
            lambda shape, g, **k: torch.tensor([next(signs) for _ in range(shape[0])], dtype=F64)[:, None],
        )  # fmt: skip

        class Enumerated(Categorical):
            def pick(self, potential, loss, run):
                j = next(picks)
                chance[0] *= float((-potential[0, 0]).softmax(0)[j])
                return torch.full((1, 1), j)

        guide = Particles(
            lambda x: 0.3 * rule(x), proposal=Draws(n), selection=Enumerated(),
            potential=Potential(form=potential),
        )  # fmt: skip
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
    guide = FKSteering(rule, particles=1, inverse_temperature=0.7, potential=potential)
    x, result = run(guide, 16, plan=plan)
    assert torch.allclose(result.loss, rule(x))
    assert torch.allclose(result.weights.log_w[:, 0], -0.7 * rule(x))


def test_the_maximum_potential_keeps_the_best_so_far():
    seen = []

    def see(run, law, candidates, move):
        seen.append((law.level.signal.flatten() ** 4, candidates.loss[:, 0], run.before[:, 0]))

    guide = FKSteering(rule, particles=1, potential="max", inverse_temperature=0.7)
    run(selected(guide, see), 32)
    trust, loss, held = (torch.stack(row) for row in zip(*seen[:-1]))
    best = loss.cummin(0).values
    assert torch.allclose(held, 0.7 * trust * best, rtol=1e-9)
    assert not torch.equal(best, loss)


def test_tempering_keeps_the_weights_even():
    # untempered potentials trust the blurry predictions at high noise, and resample on them
    first = []
    for tempering in (2.0, 0.0):
        _, result = run(FKSteering(rule, particles=16, tempering=tempering), 64)
        early = [ess for step, ess in result.ess if step < 15]
        first.append(min(early))
    assert first[0] > 0.9 > 0.7 > first[1]


def test_the_roots_of_the_particles_are_those_of_their_ancestors():
    for guide in (
        FKSteering(rule, particles=6, ess_threshold=0.99),
        TreeG(rule, beams=4, candidates=2),
        TreeGSD(rule, beams=4, candidates=2),
    ):
        seen = []

        class Spy:
            needs_noise, coupled, width, results = True, False, guide.width, guide.results

            @contextlib.contextmanager
            def begin(self):
                with guide.begin() as self.act:  # noqa: B023
                    yield self

            def finish(self, x):
                return self.act.finish(x)

            def __call__(self, law, model, wants, *, generator):
                move = self.act(law, model, wants, generator=generator)
                if move.ancestors is not None:
                    seen.append(move.ancestors)  # noqa: B023
                return move

        _, result = run(Spy(), 4, plan=chain(20))
        K = guide.width
        roots = torch.arange(K).repeat(4)
        for ancestors in seen:
            roots = roots[ancestors]
        assert torch.equal(result.roots.flatten(), roots)
        assert len(result.roots[0].unique()) < K


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


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
@pytest.mark.parametrize("threshold", [0.8, 1.0], ids=["at times", "always"])
def test_two_resampled_particles_are_unbiased_by_enumeration(monkeypatch, threshold, potential):
    # noise is one of two numbers; systematic resampling of two has two outcomes, each on an interval
    # of its uniform number, so a pair has finitely many courses of known chance: one row for each
    model, plan = toy(), rd.ddpm(VP, rd.timegrid(VP, 3, start=0.6, stop=0.05))
    courses = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3 * 2 + 2)), dtype=F64)
    noises = iter(courses[:, :6].reshape(-1, 3, 2).unbind(1))
    sides = iter((*(courses[:, 6:] > 0).unbind(1), None))
    chance = torch.full((len(courses),), 0.25**3, dtype=F64)

    def uniform(rows, n, w, generator):
        side, turn = next(sides), (2 * w[:, 0]) % 1
        if side is None:  # the last step only draws
            return torch.full((rows, 1), 0.5, dtype=F64)
        chance.mul_(torch.where(side, turn, 1 - turn))
        return torch.where(side, turn / 2, (1 + turn) / 2)[:, None]

    monkeypatch.setattr(resampling, "uniforms", uniform)
    monkeypatch.setattr(proposal, "normal", lambda *a, **k: next(noises).reshape(-1, 1))
    guide = FKSteering(
        lambda x: 0.3 * rule(x), particles=2, potential=potential, ess_threshold=threshold,
        final="best",
    )  # fmt: skip
    rd.sample(model, plan, x=torch.full((len(courses), 1), 0.3, dtype=F64), policy=guide)
    monkeypatch.undo()
    result = guide.results[-1]
    assert next(noises, None) is next(sides, None) is None
    assert float(chance.sum()) == pytest.approx(1, rel=1e-12)
    z = torch.full((8, 1), 0.3, dtype=F64)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=F64)
    for row, sign in zip(plan.rows, signs.T):
        e = model.ask(z, row.start, plan.wants)
        z = float(row.A[-1]) * z + float(row.C[-1][0]) * e + float(row.B) * sign[:, None]
    exact = float(torch.exp(-0.3 * rule(z)).mean())
    assert float((chance * result.weights.log_z.exp()).sum()) == pytest.approx(exact, rel=1e-12)
    often = sum(count for _, count in result.resampled)
    assert often == 2 * len(courses) if threshold == 1 else 0 < often < 2 * len(courses)


@pytest.mark.parametrize("count", [2, 4, 16])
def test_few_particles_are_unbiased_too_though_skewed(count):
    # 20000 runs: within 4 standard errors (two-sided 6e-5). The median run is low: a half of the mean
    # is carried by less than a third of the runs, so the error of a few hundred runs is too small.
    runs = 20_000
    guide = FKSteering(rule, particles=count)
    rd.sample(toy(), chain(), shape=(runs, 1), dtype=F64, policy=guide, generator=generator(count))
    z = guide.results[-1].weights.log_z.exp() / chain_constant(chain(), toy())
    error = float(z.std()) / math.sqrt(runs)
    assert error < 0.02
    assert abs(float(z.mean()) - 1) < 4 * error
    assert float(z.median()) < 0.9
    carried = z.sort(descending=True).values.cumsum(0) < z.sum() / 2
    assert float(carried.double().mean()) < 1 / 3
