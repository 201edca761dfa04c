"""PlanScheduler by itself: equal to diffusers' schedulers where the mathematics is, and to rd.sample."""

import copy
import json
import subprocess
import sys

import diffusers as D
import pytest
import tiny
import torch

import redrift as rd
from redrift.integrations.diffusers import PlanScheduler

pytestmark = pytest.mark.filterwarnings("ignore")
F64 = torch.float64


def net(x, t):
    """Return a smooth made-up prediction."""
    ramp = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).reshape(x[0].shape)
    return torch.tanh(0.8 * x + 0.3 * ramp) * (0.5 + 0.4 * float(t) / 1000)


def noise(shape=(4, 3, 8, 8), dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def drive(scheduler, x, ask=net, **more):
    for t in scheduler.timesteps:
        x = scheduler.step(ask(x, t), t, x, **more).prev_sample
    return x


# ------------------------------------------------------------------ against diffusers' own

THEIRS = {
    "DDIM leading": (
        lambda: D.DDIMScheduler(set_alpha_to_one=False, clip_sample=False, steps_offset=1),
        dict(solver="ddim", spacing="leading", end="min"),
    ),
    "DDIM trailing": (
        lambda: D.DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
        dict(solver="ddim", spacing="trailing", end="zero"),
    ),
    "DDIM clipped": (
        lambda: D.DDIMScheduler(clip_sample=True, timestep_spacing="trailing"),
        dict(solver="ddim", spacing="trailing", end="zero"),
    ),
    "DDIM on v without signal": (
        lambda: D.DDIMScheduler(
            clip_sample=False,
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            prediction_type="v_prediction",
        ),
        dict(solver="dpmpp", order=1, spacing="trailing", end="zero"),
    ),
    "DPM++ 2M": (
        lambda: D.DPMSolverMultistepScheduler(),
        dict(solver="dpmpp", order=2, end="zero"),
    ),
    "DPM++ 2M cosine": (
        lambda: D.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2"),
        dict(solver="dpmpp", order=2, end="zero"),
    ),
    "DPM++ 2M of the sample": (
        lambda: D.DPMSolverMultistepScheduler(prediction_type="sample"),
        dict(solver="dpmpp", order=2, end="zero"),
    ),
}


@pytest.mark.parametrize("name", THEIRS)
def test_on_the_same_timesteps_it_reproduces_diffusers_own(name):
    make, mine = THEIRS[name]
    theirs = make()
    theirs.set_timesteps(10)
    clipped = theirs.config.get("clip_sample")
    # redrift steps with the noise that belongs to the clipped sample; theirs does so if told
    more = {"use_clipped_model_output": True} if clipped else {}
    exact = drive(theirs, noise(), **more)
    scheduler = PlanScheduler.from_config(theirs.config, **mine)
    if "spacing" in mine:
        scheduler.set_timesteps(10)
    else:
        scheduler.set_timesteps(timesteps=theirs.timesteps.tolist())
    assert scheduler.timesteps.tolist() == theirs.timesteps.tolist()
    x = drive(scheduler, noise())
    assert (x - exact).abs().max() < 1e-4 * exact.abs().max()


def test_ddim_on_rectified_flow_is_the_euler_method_with_the_same_shift():
    theirs = D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=torch.linspace(1, 1 / 8, 8).numpy())
    exact = drive(theirs, noise())
    scheduler = PlanScheduler.from_config(theirs.config, solver="ddim")
    scheduler.set_timesteps(8)
    assert torch.allclose(scheduler.timesteps, theirs.timesteps)
    x = drive(scheduler, noise())
    assert (x - exact).abs().max() < 1e-5 * exact.abs().max()


def test_dynamic_shifting_moves_the_grid_as_in_diffusers():
    theirs = D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=torch.linspace(1, 1 / 6, 6).numpy(), mu=0.8)
    scheduler = PlanScheduler.from_config(theirs.config, solver="ddim")
    scheduler.set_timesteps(6, mu=0.8)
    assert torch.allclose(scheduler.timesteps, theirs.timesteps)
    with pytest.raises(ValueError, match="needs mu"):
        scheduler.set_timesteps(6)


# ------------------------------------------------------------------ against rd.sample

MADE = [
    dict(solver="deis", order=3, options={"wants": "v", "corrector": True}),
    dict(solver="res", order=3),
    dict(solver="ddpm"),
]


def mixture(process, dim=4):
    g = torch.Generator().manual_seed(1)
    means = 0.5 * torch.randn(8, dim, generator=g, dtype=F64)
    return rd.denoise.GaussianMixture(
        torch.ones(8, dtype=F64), means, torch.full((8,), 0.2, dtype=F64), process
    )


@pytest.mark.parametrize("options", MADE, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize(("budget", "predicts"), [(10, "epsilon"), (25, "v_prediction")])
def test_its_steps_are_those_of_sample(options, budget, predicts):
    scheduler = PlanScheduler(prediction_type=predicts, **options)
    scheduler.set_timesteps(budget)
    assert len(scheduler.timesteps) == scheduler.plan.evaluations <= budget
    model, x = mixture(scheduler.process), noise((16, 4), F64)
    exact = rd.sample(model, scheduler.plan, x=x, generator=torch.Generator().manual_seed(5))
    levels = iter([row_level for row in scheduler.plan.rows for row_level in row.asks])
    name = {"epsilon": "eps", "v_prediction": "v"}[predicts]

    def ask(z, t):
        return getattr(model, name)(z, next(levels).t)

    found = drive(scheduler, x, ask, generator=torch.Generator().manual_seed(5))
    assert (found - exact).abs().max() < 1e-11


@pytest.mark.parametrize(
    ("solver", "order"), [("deis", 3), ("res", 2), ("res", 3), ("rho_rk", None)]
)
def test_a_plan_keeps_its_order_through_the_scheduler(solver, order):
    errors = []
    model = mixture(PlanScheduler().process, 3)
    x = noise((16, 3), F64)
    fine = rd.res(model.process, rd.timegrid(model.process, 300, "logsnr"), order=3)
    exact = rd.sample(model, fine, x=x)
    options = {"startup": True} if solver == "deis" else {}
    for steps in (20, 40, 80):
        budget = {("deis", 3): steps + 1, ("res", 2): 2 * steps}.get((solver, order), 3 * steps)
        scheduler = PlanScheduler(solver=solver, order=order, spacing="logsnr", options=options)
        scheduler.set_timesteps(budget)
        # the network's times are float32, as in a pipeline
        found = drive(scheduler, x, lambda z, t: model.eps(z, t.double()))
        errors.append((found - exact).abs().mean())
    slopes = [float((a / b).log2()) for a, b in zip(errors, errors[1:])]
    assert slopes[-1] > (order or 3) - 0.25, (slopes, errors)


# ------------------------------------------------------------------ grids and state


def test_given_sigmas_and_timesteps_are_the_step_boundaries():
    scheduler = PlanScheduler(solver="deis", order=2)
    scheduler.set_timesteps(timesteps=[900, 500, 200, 50])
    assert scheduler.timesteps.tolist() == [900, 500, 200, 50]
    sigmas = scheduler.sigmas.tolist()
    again = PlanScheduler(solver="deis", order=2)
    again.set_timesteps(sigmas=sigmas)
    assert torch.allclose(again.timesteps, scheduler.timesteps.float(), atol=1e-2)
    assert torch.equal(
        drive(scheduler, noise(), lambda x, t: 0 * x),
        drive(scheduler_copy(scheduler), noise(), lambda x, t: 0 * x),
    )


def scheduler_copy(scheduler):
    """Copy in the middle of nothing: state is plain data."""
    scheduler.set_begin_index(0)
    return copy.deepcopy(scheduler)


def test_a_copy_in_the_middle_of_a_run_continues_alike():
    scheduler = PlanScheduler(solver="res", order=3)
    scheduler.set_timesteps(9)
    x = noise()
    for t in scheduler.timesteps[:4]:
        x = scheduler.step(net(x, t), t, x).prev_sample
    other, y = copy.deepcopy(scheduler), x.clone()
    for t in scheduler.timesteps[4:]:
        x = scheduler.step(net(x, t), t, x).prev_sample
        y = other.step(net(y, t), t, y).prev_sample
    assert torch.equal(x, y)


def test_half_precision_is_cast_once_and_coefficients_stay_exact():
    scheduler = PlanScheduler(solver="deis", order=3)
    scheduler.set_timesteps(10)
    x = drive(scheduler, noise())
    scheduler.set_timesteps(10)
    half = drive(scheduler, noise().bfloat16(), lambda z, t: net(z.float(), t).bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - x).abs().mean() < 0.02 * x.abs().mean()


def test_noise_is_added_by_level_and_velocity_is_its_companion():
    scheduler = PlanScheduler()
    x, e = noise((3, 2, 4, 4)), noise((3, 2, 4, 4)).flip(0)
    t = torch.tensor([0, 400, 999])
    theirs = D.DDPMScheduler()
    assert torch.allclose(scheduler.add_noise(x, e, t), theirs.add_noise(x, e, t), atol=2e-6)
    assert torch.allclose(scheduler.get_velocity(x, e, t), theirs.get_velocity(x, e, t), atol=2e-6)
    flow = PlanScheduler(prediction_type="flow_prediction")
    assert torch.allclose(flow.scale_noise(x, torch.tensor([250.0]), e), 0.75 * x + 0.25 * e)


def test_noise_at_the_first_timestep_is_that_of_the_start_also_where_it_skips_start():
    options = {"first_sigma": 22.0, "wants": "v", "startup": False}
    scheduler = PlanScheduler(solver="deis", order=3, options=options)
    scheduler.set_timesteps(5)
    x, e = noise((1, 2, 4, 4)), noise((1, 2, 4, 4)).flip(-1)
    start = scheduler.process.level(scheduler.plan.times[0])
    assert float(scheduler.plan.rows[0].asks[0].t) < 0.9 * float(start.t)
    for t, level in (
        (scheduler.timesteps[:1], start),
        (scheduler.timesteps[1:2], scheduler.plan.rows[1].start),
    ):
        expected = float(level.signal) * x + float(level.root) * e
        assert torch.allclose(scheduler.add_noise(x, e, t), expected, atol=1e-6)


def test_it_takes_at_most_five_tensor_operations():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            Count.calls += 1
            return f(*args, **(kwargs or {}))

    for options in (dict(solver="deis", order=3), dict(solver="res", order=3), dict(solver="dpmpp"),
                    dict(solver="ddim")):  # fmt: skip
        scheduler = PlanScheduler(**options)
        scheduler.set_timesteps(12)
        x = noise()
        for i, t in enumerate(scheduler.timesteps):
            output = net(x, t)
            scheduler._enter(t)  # the first call makes the program of the run
            with Count():
                Count.calls = 0
                x = scheduler.step(output, float(t), x, return_dict=False)[0]
            assert Count.calls <= 5, (options, i, Count.calls)


# ------------------------------------------------------------------ files


def test_a_saved_pipeline_loads_in_a_fresh_process(tmp_path):
    pipe = tiny.build(tiny.ddpm)
    pipe.scheduler = PlanScheduler.from_config(
        pipe.scheduler.config, solver="res", order=3, end="zero"
    )
    pipe.save_pretrained(tmp_path)
    code = (
        "import torch, warnings; warnings.simplefilter('ignore')\n"
        "import redrift.integrations.diffusers\nfrom diffusers import DDPMPipeline\n"
        f"pipe = DDPMPipeline.from_pretrained({str(tmp_path)!r})\n"
        "pipe.scheduler.set_timesteps(7)\n"
        "print(type(pipe.scheduler).__name__, pipe.scheduler.plan)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pipe.scheduler.set_timesteps(7)
    assert done.stdout.splitlines()[-1] == f"PlanScheduler {pipe.scheduler.plan}"


def test_a_calibrated_plan_comes_from_its_file_and_only_fits_its_own_process(tmp_path):
    scheduler = PlanScheduler(solver="deis")
    scheduler.set_timesteps(6)
    plan = scheduler.plan
    plan.save(tmp_path / "plan.json")
    config = D.DDIMScheduler(clip_sample=False).config
    loaded = PlanScheduler.from_config(config, plan=tmp_path / "plan.json")
    again = PlanScheduler.from_config(json.loads(loaded.to_json_string()))
    for one in (loaded, again):
        one.set_timesteps(6)
        assert torch.equal(drive(one, noise()), drive(_fresh(scheduler), noise()))
    with pytest.raises(ValueError, match="6 evaluations"):
        loaded.set_timesteps(7)
    other = PlanScheduler.from_config(D.DDIMScheduler(beta_end=0.012).config, plan=plan)
    with pytest.raises(ValueError, match="calibrate one on this model"):
        other.set_timesteps(6)


def _fresh(scheduler):
    scheduler.set_timesteps(6)
    return scheduler


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlanScheduler(prediction_type="epsilonn"), "prediction_type='epsilonn'"),
        (lambda: PlanScheduler(beta_schedule="laplace"), "beta_schedule='laplace'"),
        (lambda: PlanScheduler(solver="euler"), "solver='euler'"),
        (lambda: PlanScheduler(spacing="quadratc"), "Did you mean 'quadratic'"),
        (lambda: PlanScheduler(rescale_betas_zero_snr=True), "leaves no signal"),
        (
            lambda: PlanScheduler(prediction_type="flow_prediction", thresholding=True),
            "thresholding",
        ),
        (lambda: PlanScheduler.from_config(D.EDMEulerScheduler().config), "EDM"),
        (lambda: PlanScheduler().set_timesteps(), "give one of"),
        (lambda: PlanScheduler().set_timesteps(5, timesteps=[3, 2]), "give one of"),
        (lambda: PlanScheduler().set_timesteps(timesteps=[10, 500]), "must decrease strictly"),
        (lambda: PlanScheduler().set_timesteps(sigmas=[1e4, 1]), "must lie within"),
        (lambda: PlanScheduler().set_timesteps(0), "at least 1"),
        (lambda: PlanScheduler().step(noise(), 0, noise()), "before set_timesteps"),
    ],
)
def test_what_it_cannot_read_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_out_of_order_or_of_another_shape_are_refused():
    scheduler, x = PlanScheduler(solver="ddim"), noise()
    scheduler.set_timesteps(4)
    first, second = scheduler.timesteps[:2]
    with pytest.raises(ValueError, match="set_begin_index"):
        scheduler.step(x, second, x)
    with pytest.raises(ValueError, match="learned_range"):
        scheduler.step(torch.cat((x, x), 1), first, x)
    learned = PlanScheduler(solver="ddim", variance_type="learned_range")
    learned.set_timesteps(4)
    scheduler.set_timesteps(4)
    both = learned.step(torch.cat((x, 0 * x), 1), first, x).prev_sample
    assert torch.equal(both, scheduler.step(x, first, x).prev_sample)
