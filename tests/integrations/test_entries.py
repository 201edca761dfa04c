"""Where a run begins: strength is a noise level, times fed back are the run, one step is one call."""

import copy

import diffusers
import pytest
import torch

from redrift.integrations.diffusers import PlanScheduler

pytestmark = pytest.mark.filterwarnings("ignore")
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
LATENT = diffusers.DDIMScheduler(
    clip_sample=False, set_alpha_to_one=False, steps_offset=1, **SD
).config
SOLVERS = [
    dict(solver=name) for name in ("best", "ddim", "deis", "dpmpp", "res", "heun", "ipndm", "rho_rk")
] + [dict(solver="res", order=3), dict(spacing="leading"), dict(spacing="logsnr"),
     dict(solver="deis", spacing="trailing")]  # fmt: skip
EVERY = pytest.mark.parametrize("words", SOLVERS, ids=lambda w: "-".join(map(str, w.values())))


def net(x, t):
    return torch.tanh(0.7 * x) * (0.5 + float(t) / 2000)


def begun(scheduler, i, how):
    """Return the times that an image-to-image pipeline gets of a run that begins at step i."""
    if how == "slice":
        return scheduler.timesteps[i:]
    times = scheduler.timesteps[i:]
    scheduler.set_begin_index(i)
    return times


@EVERY
@pytest.mark.parametrize("how", ["slice", "begin index"])
@pytest.mark.parametrize("steps", [4, 10, 20, 50])
def test_strength_is_the_noise_level_that_ddim_enters_at(words, how, steps):
    spacing = words["spacing"] if words.get("spacing") == "trailing" else "leading"
    theirs = diffusers.DDIMScheduler.from_config(LATENT, timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    for strength in (0.25, 0.4, 0.6, 0.75, 0.9):
        scheduler = PlanScheduler.from_config(LATENT, **words)
        scheduler.set_timesteps(steps)
        count = len(scheduler.timesteps)  # what pipelines take for the number of steps
        i, own = count - int(count * strength), steps - int(steps * strength)
        if i >= count or own >= steps:
            continue
        times = begun(scheduler, i, how)
        wanted = float(theirs.timesteps[own])
        grain = 0 if count == steps else 1000 / count  # a share of fewer steps is coarser
        assert abs(float(times[0]) - wanted) <= 0.1 * wanted + grain
        assert float(scheduler.timesteps[i]) == float(times[0])
        assert len(times) <= count - i
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
        for t in times:
            x = scheduler.step(net(x, t), t, x).prev_sample
        assert bool(x.isfinite().all())
        with pytest.raises(ValueError, match="the run has"):
            scheduler.step(x, times[-1], x)


@pytest.mark.parametrize("words", [dict(shift=3.0), dict()])
def test_strength_on_rectified_flow_is_that_of_the_shifted_even_grid(words):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(**words)
    theirs.set_timesteps(sigmas=torch.linspace(1, 1 / 20, 20).numpy())
    scheduler = PlanScheduler.from_config(theirs.config)
    scheduler.set_timesteps(20)
    for i in (4, 10, 16):
        assert float(scheduler.timesteps[i:][0]) == pytest.approx(
            float(theirs.timesteps[i]), rel=1e-4
        )


def test_a_run_that_has_begun_shows_its_own_times_alone():
    scheduler = PlanScheduler.from_config(LATENT)
    scheduler.set_timesteps(10)
    times = scheduler.timesteps.tolist()
    assert float(scheduler.timesteps[5]) != pytest.approx(times[5], abs=1.0)
    x = torch.randn(2, 3)
    scheduler.step(net(x, times[0]), scheduler.timesteps[0], x)
    assert scheduler.timesteps[5:].tolist() == times[5:]
    other = copy.deepcopy(scheduler)
    other.set_timesteps(10)
    assert other.timesteps.host is other
    assert other.timesteps.tolist() == times


@EVERY
def test_the_same_run_from_the_slice_and_from_the_index(words):
    out = []
    for how in ("slice", "begin index"):
        scheduler = PlanScheduler.from_config(LATENT, **words)
        scheduler.set_timesteps(12)
        times = begun(scheduler, 5, how)
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
        for t in times:
            x = scheduler.step(net(x, t), t.round().long(), x).prev_sample  # as SkyReels rounds
        out.append(x)
    assert torch.equal(*out)


@EVERY
@pytest.mark.parametrize("steps", [1, 2, 5, 9, 25])
def test_times_fed_back_are_the_same_run(words, steps):
    scheduler = PlanScheduler.from_config(LATENT, **words)
    try:
        scheduler.set_timesteps(steps)
    except ValueError:
        pytest.skip("too few for this order")
    again = PlanScheduler.from_config(LATENT, **words)
    again.set_timesteps(timesteps=scheduler.timesteps)
    assert torch.equal(again.plan.times, scheduler.plan.times)
    assert str(again.plan) == str(scheduler.plan)
    flow = PlanScheduler(prediction_type="flow_prediction", shift=3.0)
    flow.set_timesteps(steps)
    again = PlanScheduler(prediction_type="flow_prediction", shift=3.0)
    again.set_timesteps(sigmas=flow.sigmas)
    assert torch.equal(again.plan.times, flow.plan.times)


@pytest.mark.parametrize("config", [LATENT, diffusers.DDPMScheduler().config,
                                    diffusers.FlowMatchEulerDiscreteScheduler().config])  # fmt: skip
@pytest.mark.parametrize(
    "solver", ["best", "ddim", "deis", "res", "dpmpp", "heun", "ddpm", "ipndm"]
)
def test_one_step_is_one_evaluation_and_returns_the_predicted_clean_sample(config, solver):
    scheduler = PlanScheduler.from_config(config, solver=solver)
    scheduler.set_timesteps(1)
    assert len(scheduler.timesteps) == scheduler.plan.evaluations == 1
    x = torch.randn(2, 3)
    out = net(x, 900)
    found = scheduler.step(out, scheduler.timesteps[0], x).prev_sample
    level = scheduler.process.level(scheduler.plan.times[0])
    a, s = float(level.signal), float(level.root)
    clean = (x - s * out) if scheduler.predicts == "flow" else (x - s * out) / a
    if scheduler.config.clip_sample:
        clean = clean.clamp(-1, 1)
    assert torch.allclose(found, clean, rtol=1e-4, atol=1e-4 * float(clean.abs().max()))


def test_step_takes_what_pipelines_hand_over_by_position():
    scheduler = PlanScheduler.from_config(LATENT, solver="ddpm")
    x = torch.randn(2, 3)

    def stepped(*args, **kwargs):
        scheduler.set_timesteps(6)
        return scheduler.step(x, scheduler.timesteps[0], x, *args, **kwargs).prev_sample

    def generator():
        return torch.Generator().manual_seed(3)

    wanted = stepped(generator=generator())
    assert torch.equal(stepped(0.0, False, generator()), wanted)
    assert torch.equal(stepped(generator()), wanted)
    assert torch.equal(stepped(eta=0.0, variance_noise=None, generator=generator()), wanted)


def test_tokens_of_their_own_times_come_with_the_sign_turned():
    scheduler = PlanScheduler(prediction_type="flow_prediction")
    x, v = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    scheduler.set_timesteps(4)
    wanted = scheduler.step(v, scheduler.timesteps[0], x).prev_sample
    scheduler.set_timesteps(4)
    tokens = scheduler.timesteps[0].expand(2, 5)
    found = scheduler.step(-v, scheduler.timesteps[0], x, per_token_timesteps=tokens).prev_sample
    assert torch.equal(found, wanted)


@EVERY
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "how", [dict(clip_sample=True, clip_sample_range=0.5), dict(thresholding=True)]
)
def test_clipping_works_with_every_plan(words, prediction, how):
    scheduler = PlanScheduler(prediction_type=prediction, **words, **how)
    scheduler.set_timesteps(9)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        level = scheduler.process.level(float(t))
        a, s = float(level.signal), float(level.root)
        clean = torch.full_like(x, 3.0)  # far outside
        output = {
            "epsilon": (x - a * clean) / s,
            "v_prediction": (a * x - clean) / s,
            "sample": clean,
        }
        x = scheduler.step(output[prediction], t, x).prev_sample
    bound = 0.5 if "clip_sample" in how else 1.0
    residue = float(list(scheduler.plan.rows)[-1].end.sigma)
    assert float((x - bound).abs().max()) < 0.05 + 8 * residue
