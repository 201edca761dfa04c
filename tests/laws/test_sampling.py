"""The loop: what a sample depends on, what it leaves alone, and what a policy may do."""

import contextlib
import inspect

import pytest
import torch

import redrift as rd
from problems import F64, Melt, Spring, generator, mixture
from redrift.denoise import Denoiser, Empirical, Guided, Shared
from redrift.sampling import Policy, draw
from redrift.solvers import NextState

VP = rd.VP()


def generators(n, seed=0):
    return [generator(seed + i) for i in range(n)]


def labelled(process=VP):
    """Return a denoiser whose prediction depends on a per-sample condition."""
    model = mixture(process)

    def net(x, t, shift, gain=1.0):
        return model(x, t) * gain + 0.1 * shift.reshape(-1, *[1] * (x.ndim - 1))

    return Denoiser(net, process, "x0")


@pytest.mark.parametrize(
    "plan",
    [
        rd.deis(VP, rd.timegrid(VP, 8)),
        rd.res(VP, rd.timegrid(VP, 5)),
        rd.ddpm(VP, rd.timegrid(VP, 8)),
    ],
    ids=["deis", "res", "ddpm"],
)
def test_a_sample_does_not_depend_on_the_batch_split(plan):
    model, shift = labelled(), torch.arange(7.0)
    options = {"shape": (7, 4), "cond": {"shift": shift}, "dtype": F64}
    whole = rd.sample(model, plan, generator=generators(7), **options)
    for size in (1, 2, 3):
        part = rd.sample(model, plan, generator=generators(7), batch_size=size, **options)
        assert torch.equal(part, whole)
    alone = rd.sample(
        model, plan, shape=(1, 4), cond={"shift": shift[3:4]}, dtype=F64, generator=[generator(3)]
    )
    assert torch.equal(alone[0], whole[3])


def test_inputs_stay_and_the_global_generator_is_untouched():
    model, plan = labelled(), rd.ddpm(VP, rd.timegrid(VP, 4))
    x, shift = torch.randn(3, 4, generator=generator()), torch.arange(3.0)
    kept, times = (x.clone(), shift.clone()), plan.times.clone()
    before = torch.get_rng_state()
    rd.sample(model, plan, x=x, cond={"shift": shift}, generator=generators(3))
    rd.sample(model, plan, shape=(3, 4), cond={"shift": shift}, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, kept[0])
    assert torch.equal(shift, kept[1])
    assert torch.equal(plan.times, times)


def test_a_step_whose_table_is_one_leaves_the_state_it_started_from():
    # EDM carries the state over unchanged: 1 z must be new memory before predictions are added
    process = rd.EDM()
    x = torch.randn(3, 4, generator=generator())
    kept = x.clone()
    rd.sample(mixture(process), rd.deis(process, rd.timegrid(process, 4)), x=x)
    assert torch.equal(x, kept)


def test_two_runs_of_one_model_may_interleave():
    model, plan = labelled(), rd.deis(VP, rd.timegrid(VP, 5))
    a, b = {"shift": torch.zeros(2)}, {"shift": torch.ones(2)}
    x = torch.randn(2, 4, generator=generator())
    with model.begin(**a) as first, model.begin(**b) as second:
        ask = (x, VP.level(torch.tensor(0.5, dtype=F64)), "x0")
        one, two = first.ask(*ask), second.ask(*ask)
        assert torch.equal(first.ask(*ask), one)
        assert not torch.allclose(one, two)
    apart = rd.sample(model, plan, x=x, cond=a)
    assert torch.equal(apart, rd.sample(model, plan, x=x, cond=a))


def test_shared_conditions_are_neither_split_nor_gathered():
    model, plan = labelled(), rd.ddim(VP, rd.timegrid(VP, 3))
    cond = {"shift": torch.arange(4.0), "gain": torch.tensor([[1.1], [0.9], [1.0]]).mean()}
    options = {"shape": (4, 4), "cond": cond}
    whole = rd.sample(model, plan, generator=generators(4), **options)
    assert torch.equal(
        whole, rd.sample(model, plan, generator=generators(4), batch_size=2, **options)
    )
    with model.begin(gain=Shared(torch.ones(4, 1))) as run:
        run.take(torch.tensor([0]))
        assert run._cond["gain"].value.shape == (4, 1)


def test_the_state_is_never_below_single_precision():
    model = mixture(VP)
    seen = []
    net = Denoiser(
        lambda x, t: (seen.append(x.dtype), model(x.float(), t.float()).to(x.dtype))[1],
        VP, "x0", dtype=torch.float16,
    )  # fmt: skip
    out = rd.sample(net, rd.ddim(VP, rd.timegrid(VP, 3)), x=torch.zeros(2, 4, dtype=torch.float16))
    assert out.dtype == torch.float32
    assert set(seen) == {torch.float16}
    with pytest.raises(ValueError, match="below float32"):
        rd.sample(net, rd.ddim(VP, rd.timegrid(VP, 3)), shape=(2, 4), dtype=torch.float16)
    torch.set_default_dtype(F64)
    try:
        same = rd.sample(model, rd.ddim(VP, rd.timegrid(VP, 3)), x=torch.zeros(2, 4).float())
    finally:
        torch.set_default_dtype(torch.float32)
    assert same.dtype == torch.float32


def test_samples_of_exact_data_are_the_data():
    data = torch.randn(5, 6, generator=generator(), dtype=F64)
    model = Empirical(data, VP)
    plan = rd.deis(VP, rd.timegrid(VP, 40, stop=1e-5))
    out = rd.sample(model, plan, shape=(20, 6), dtype=F64, generator=generators(20))
    assert float(torch.cdist(out, data).min(1).values.max()) < 0.02


def test_guidance_is_the_same_in_every_reading():
    model, shift = labelled(), torch.tensor([1.0, 2.0])
    plan = rd.deis(VP, rd.timegrid(VP, 5))
    x = torch.randn(2, 4, generator=generator(), dtype=F64)
    found = []
    for predicts in ("x0", "eps", "v"):
        own = Denoiser(
            lambda x, t, shift, p=predicts: model._at(x, t, p, {"shift": shift}), VP, predicts
        )
        guided = Guided(own, 2.5, null={"shift": 0.0})
        found.append(rd.sample(guided, plan, x=x, cond={"shift": shift}))
    plain = rd.sample(Guided(model, 1.0, null={"shift": 0.0}), plan, x=x, cond={"shift": shift})
    assert torch.allclose(found[0], found[1], rtol=1e-9, atol=1e-9)
    assert torch.allclose(found[0], found[2], rtol=1e-9, atol=1e-9)
    assert torch.allclose(plain, rd.sample(model, plan, x=x, cond={"shift": shift}))
    with pytest.raises(ValueError, match="guidance needs the condition 'shift'"):
        rd.sample(Guided(model, 2.0, null={"shift": 0.0}), plan, x=x)


# What policies may do, shown with policies written here.


class Keep:
    """A policy of `width` rows that keeps the row with the smallest norm of each sample."""

    coupled = False

    def __init__(self, width, *, reuse=False):
        self.width, self.reuse, self.asked = width, reuse, 0

    @contextlib.contextmanager
    def begin(self):
        yield self

    def __call__(self, law, model, wants, *, generator):
        x = draw(law, model.process, generator)
        blocks = x.flatten(1).norm(dim=1).reshape(-1, self.width)
        first = torch.arange(len(blocks)) * self.width
        ancestors = (first + blocks.argmin(1)).repeat_interleave(self.width)
        prediction = None
        if self.reuse:
            self.asked += 1
            prediction = model.ask(x, law.level, wants)[ancestors]
        return NextState(x[ancestors], ancestors, prediction)

    def finish(self, x):
        return x[:: self.width]


class Shuffle:
    """A coupled policy: row i continues what row i + 1 was."""

    width = 1
    coupled = True

    @contextlib.contextmanager
    def begin(self):
        yield self

    def __call__(self, law, model, wants, *, generator):
        index = torch.arange(len(law.mean)).roll(-1)
        return NextState(law.mean[index], index)

    def finish(self, x):
        return x


def noisy_deis(process, grid):
    """Return a second-order multistep plan with noise: history and a law in every step."""
    from redrift.solvers.multistep import Adams

    base = Adams("eps", "t", 2)

    def rule(process, past, t, next_t, *, left):
        import dataclasses

        (row,) = base(process, past, t, next_t, left=left)
        return (dataclasses.replace(row, B=0.1 * row.end.root),)

    return rd.Plan.build(process, grid, rule, wants="eps", order=2, stochastic=True)


def test_policies_meet_the_protocol():
    assert isinstance(Keep(2), Policy)
    assert isinstance(Shuffle(), Policy)


def test_ancestors_regather_history_and_conditions():
    # all rows move on deterministically and are rolled after every step: the samples must come out
    # as the unrolled run's, rolled as often as there were steps
    shift = torch.arange(5.0)
    plan = noisy_deis(VP, rd.timegrid(VP, 7))
    x = torch.randn(5, 4, generator=generator(), dtype=F64)

    class Mean(Shuffle):
        coupled = False

        def __call__(self, law, model, wants, *, generator):
            return NextState(law.mean)

    still = rd.sample(labelled(), plan, x=x, cond={"shift": shift}, policy=Mean())
    rolled = rd.sample(labelled(), plan, x=x, cond={"shift": shift}, policy=Shuffle())
    assert torch.allclose(rolled, still.roll(-7 % 5, 0), rtol=1e-12)


def test_selection_within_samples_does_not_depend_on_the_batch_split():
    plan, model, shift = noisy_deis(VP, rd.timegrid(VP, 6)), labelled(), torch.arange(4.0)
    options = {"shape": (4, 4), "cond": {"shift": shift}, "dtype": F64}
    whole = rd.sample(model, plan, policy=Keep(3), generator=generators(4), **options)
    for size in (1, 2):
        part = rd.sample(
            model, plan, policy=Keep(3), generator=generators(4), batch_size=size, **options
        )
        assert torch.equal(part, whole)
    assert whole.shape == (4, 4)


def test_a_policy_of_width_one_is_plain_sampling_bit_for_bit():
    plan, model = rd.ddpm(VP, rd.timegrid(VP, 6)), mixture(VP)
    options = {"shape": (4, 4), "dtype": F64}
    plain = rd.sample(model, plan, generator=generators(4), **options)
    kept = rd.sample(model, plan, policy=Keep(1), generator=generators(4), **options)
    assert torch.equal(plain, kept)


def test_a_known_prediction_saves_its_evaluation():
    plan, calls = rd.ddpm(VP, rd.timegrid(VP, 6)), []
    model = mixture(VP)
    counted = Denoiser(lambda x, t: (calls.append(1), model(x, t))[1], VP, "x0")
    policy = Keep(2, reuse=True)
    out = rd.sample(counted, plan, shape=(2, 4), policy=policy, dtype=F64, generator=generators(2))
    assert policy.asked == 6
    assert len(calls) == 1 + 6  # the first ask, then one per step, made by the policy
    calls.clear()
    slow = rd.sample(
        counted, plan, shape=(2, 4), policy=Keep(2), dtype=F64, generator=generators(2)
    )
    assert len(calls) == 6
    assert torch.allclose(out, slow, rtol=1e-12)


def test_a_known_prediction_does_not_answer_a_stage_elsewhere():
    # a step that asks at its middle only must ask there, whatever is known at its start
    from redrift.solvers.coefficients import constant, transfer
    from redrift.solvers.plan import Row

    def rule(process, past, t, next_t, *, left):
        start, middle, end = (process.level(s) for s in (t, (t + next_t) / 2, next_t))
        A, C = constant(process, "x0", start, end)
        into = transfer(process, "x0", start, middle)
        B = 0.1 * end.root
        return (Row(start, end, (middle,), (into, A), ((), (C,)), B=B, fresh=False),)

    plan = rd.Plan.build(VP, rd.timegrid(VP, 6), rule, wants="x0", order=1, stochastic=True)
    options = {"shape": (2, 4), "dtype": F64}
    known, asked = (
        rd.sample(mixture(VP), plan, policy=Keep(2, reuse=r), generator=generators(2), **options)
        for r in (True, False)
    )
    assert torch.equal(known, asked)


def test_a_coupled_policy_is_never_split():
    plan = rd.ddpm(VP, rd.timegrid(VP, 3))
    with pytest.raises(ValueError, match="couples"):
        rd.sample(mixture(VP), plan, shape=(4, 4), policy=Shuffle(), batch_size=2)


@pytest.mark.parametrize("process", [Spring(), Melt()], ids=["k = 2", "modes (4, 4)"])
@pytest.mark.parametrize("build", [rd.ddim, rd.deis, rd.res, rd.dpmpp, rd.ddpm])
def test_processes_to_come_run_through_every_builder_and_return_data(process, build):
    model = mixture(process)
    shape = (3, *model.means.shape[1:])
    plan = build(process, rd.timegrid(process, 12))
    out = rd.sample(model, plan, shape=shape, dtype=F64, generator=generators(3))
    assert out.shape == shape
    near = torch.cdist(out.flatten(1), model.means.flatten(1)).min(1).values
    assert float(near.max()) < 2.5  # the clean cloud is about .3 wide in 4 or 16 dimensions
    alone = rd.sample(model, plan, shape=(1, *shape[1:]), dtype=F64, generator=[generator(1)])
    assert torch.allclose(alone[0], out[1], rtol=1e-12, atol=1e-12)
    if process.k == 2:
        state = rd.sample(
            model, plan, shape=shape, dtype=F64, generator=generators(3), return_state=True
        )
        assert torch.equal(state[:, 0], out)


class Bad:
    """Networks that misbehave."""

    @staticmethod
    def shape(x, t):
        return x[:, :1]

    @staticmethod
    def dtype(x, t):
        return x.double()

    @staticmethod
    def nan(x, t):
        return torch.where(t[:, None] < 0.5, torch.nan, x)


@pytest.mark.parametrize(
    ("net", "kind", "message"),
    [
        (Bad.shape, ValueError, r"returned shape \(2, 1\)"),
        (Bad.dtype, TypeError, "float64"),
        (lambda x, t: None, TypeError, "NoneType"),
    ],
)
def test_a_network_that_returns_something_else_is_named(net, kind, message):
    with pytest.raises(kind, match=message):
        rd.sample(Denoiser(net, VP), rd.ddim(VP, rd.timegrid(VP, 3)), shape=(2, 4))


def test_a_network_that_returns_nan_is_stopped_at_its_step_and_time():
    plan = rd.deis(VP, rd.timegrid(VP, 6, "uniform"))
    with pytest.raises(rd.NumericalError, match="not finite after step 4") as caught:
        rd.sample(Denoiser(Bad.nan, VP), plan, shape=(2, 4), generator=generator())
    # the ask at .334 is the first below one half; its step ends at time[5]
    assert caught.value.step == 4
    assert caught.value.time == pytest.approx(float(plan.times[5]))


def test_a_large_but_finite_state_passes():
    # the sum of 4096 values of 1e38 overflows in float32; the state itself does not
    model = Denoiser(lambda x, t: torch.zeros_like(x), rd.EDM(), "eps")
    x = torch.full((2, 4096), 1e38)
    out = rd.sample(model, rd.ddim(rd.EDM(), rd.timegrid(rd.EDM(), 3)), x=x)
    assert bool(out.isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (4,)}, "expected .B, .data shape"),
        ({"shape": (0, 4)}, "B >= 1"),
        ({}, "give one of"),
        ({"shape": (2, 4), "x": torch.zeros(2, 4)}, "give one of"),
        ({"shape": (3, 4), "generator": generators(2)}, "generator is a list of 2"),
        ({"shape": (3, 4), "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        rd.sample(mixture(VP), rd.ddim(VP, rd.timegrid(VP, 3)), **options)


def test_a_plan_of_another_process_is_refused():
    plan = rd.ddim(rd.VP(beta_max=10.0), rd.timegrid(VP, 3))
    with pytest.raises(ValueError, match="build the plan with model.process"):
        rd.sample(mixture(VP), plan, shape=(2, 4))
    melt = Melt()
    with pytest.raises(ValueError, match=r"for data ending in \(4, 4\)"):
        rd.sample(mixture(melt), rd.ddim(melt, rd.timegrid(melt, 3)), shape=(2, 1, 5, 4))


def test_generator_is_the_last_argument_of_every_public_function():
    for name in rd.__all__:
        function = getattr(rd, name)
        if inspect.isfunction(function):
            names = list(inspect.signature(function).parameters)
            assert "generator" not in names or names[-1] == "generator", name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, p: dict(model=torch.nn.Linear(2, 2), plan=p), "wrap a network as rd.Denoiser"),
        (lambda m, p: dict(model=m, plan=p.times), "plan must be a Plan, got Tensor"),
        (lambda m, p: dict(model=m, plan=p, generator=0), "generator must be a torch.Generator"),
        (lambda m, p: dict(model=m, plan=p, generator=[1]), "generator must be a torch.Generator"),
    ],
)
def test_what_is_taken_for_something_else_is_refused_with_the_way_out(change, message):
    model = rd.denoise.Gaussian(torch.zeros(2), 1.0, rd.VP())
    with pytest.raises(TypeError, match=message):
        rd.sample(**change(model, rd.best_plan(rd.VP(), 4)), shape=(2, 2))


def test_heun_says_what_it_needs_for_a_budget_of_one():
    with pytest.raises(
        ValueError, match="heun needs at least 2 evaluations before its end, got 0"
    ):
        rd.plan_for(rd.VP(), 1, solver="heun")
