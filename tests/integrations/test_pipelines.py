"""Real pipelines with tiny random weights: every solver in each, and against rd.sample."""

import inspect

import diffusers as D
import pytest
import tiny
import torch
from PIL import Image

import redrift as rd
from redrift.integrations.diffusers import PlanScheduler, decode, denoiser, prompt
from redrift.solvers import UniC, layer

pytestmark = pytest.mark.filterwarnings("ignore")
SOLVERS = (
    *("best", "ddim", "deis", "gddim", "res", "dpmpp", "ipndm", "rho_rk", "heun", "ddpm"),
    "krogstad",
)


@pytest.fixture(scope="module", params=list(tiny.CALLS), ids=lambda make: make.__name__)
def pipeline(request):
    pipe = tiny.build(request.param)
    return pipe, tiny.CALLS[request.param], pipe.scheduler.config


def run(pipe, steps, seed=0, **call):
    generator = torch.Generator().manual_seed(seed)
    pipe.scheduler.generator = torch.Generator().manual_seed(seed)
    return tiny.first(
        pipe(num_inference_steps=steps, generator=generator, output_type="np", **call)
    )


def count(pipe):
    """Count the calls of the network, in a list of one."""
    net, calls = getattr(pipe, "unet", None) or pipe.transformer, [0]
    handle = net.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    calls.append(handle)
    return calls


def spied(scheduler):
    """Keep the first state and the last result of a run."""
    seen, step = [], scheduler.step

    def spy(output, t, sample, *args, **more):
        result = step(output, t, sample, *args, **more)
        last = result[0] if isinstance(result, tuple) else result.prev_sample
        seen[:] = [sample.clone() if scheduler.step_index == 1 else seen[0], last]
        return result

    scheduler.step = spy
    return seen


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_pipeline_spends_its_budget_and_gives_what_sample_gives(pipeline, solver):
    pipe, call, config = pipeline
    pipe.scheduler = PlanScheduler.from_config(config, solver=solver)
    calls = count(pipe)
    seen = spied(pipe.scheduler)
    first = run(pipe, 6, **call)
    calls[1].remove()
    assert 5 <= calls[0] == len(pipe.scheduler.timesteps) <= 6
    assert first.std() > 0
    if solver in ("deis", "ddpm"):
        assert torch.equal(first, run(pipe, 6, **call))
    if solver == "ddpm":
        return
    start, end = seen
    kind = type(pipe).__name__
    flux = kind == "FluxPipeline"
    size = {"max_sequence_length": 20} if "max_sequence_length" in call else {}
    model = denoiser(pipe, guidance=call.get("guidance_scale", 1.0), **size)
    if kind == "DDPMPipeline":
        cond = {}
    elif kind == "DiTPipeline":
        start, end, cond = start[:1], end[:1], {"class_labels": torch.tensor([1])}
    else:
        cond = prompt(pipe, [call["prompt"]], **size)
    if flux:
        start, end = (pipe._unpack_latents(z, 8, 8, pipe.vae_scale_factor) for z in (start, end))
    plan = pipe.scheduler.plan
    x = rd.sample(model, plan, x=start, cond=cond)
    # methods on the noise divide by a signal of a thousandth at the start of rectified flow
    amplified = "Flow" in type(plan.process).__name__ and plan.wants == "eps"
    assert (x - end).abs().max() < (2e-3 if amplified else 2e-5) * end.abs().max()


def test_the_corrected_default_plan_of_many_steps_runs_whole_and_from_its_middle():
    pipe = tiny.build(tiny.ddpm)
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, solver="best")
    seen, calls = spied(pipe.scheduler), count(pipe)
    run(pipe, 32, batch_size=2)
    assert layer(pipe.scheduler.plan.rule, UniC) is not None
    assert calls[0] == 32
    start, end = seen
    x = rd.sample(denoiser(pipe), pipe.scheduler.plan, x=start)
    assert (x - end).abs().max() < 2e-5 * end.abs().max()
    pipe = tiny.build(tiny.sd, D.StableDiffusionImg2ImgPipeline)
    call = dict(prompt="a b", image=Image.new("RGB", (16, 16), (90, 120, 30)), guidance_scale=1.0)
    counts = []
    for scheduler in (
        pipe.scheduler,
        PlanScheduler.from_config(pipe.scheduler.config, solver="best"),
    ):
        pipe.scheduler, calls = scheduler, count(pipe)
        x = run(pipe, 24, strength=0.5, **call)
        counts.append(calls[0])
        calls[1].remove()
        assert torch.isfinite(x).all()
    assert counts[0] == counts[1]


@pytest.mark.parametrize("solver", ["deis", "res", "heun", "best"])
@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_image_to_image_calls_the_network_as_often_as_with_diffusers_own(solver, strength):
    pipe = tiny.build(tiny.sd, D.StableDiffusionImg2ImgPipeline)
    picture = Image.new("RGB", (16, 16), (90, 120, 30))
    call = dict(prompt="a b", image=picture, strength=strength, guidance_scale=1.0)
    counts = []
    for scheduler in (
        pipe.scheduler,
        PlanScheduler.from_config(pipe.scheduler.config, solver=solver),
    ):
        pipe.scheduler = scheduler
        calls = count(pipe)
        x = run(pipe, 9 if solver != "heun" else 11, **call)
        counts.append(calls[0])
        calls[1].remove()
        assert torch.isfinite(x).all()
    own, mine = counts
    if solver == "heun":  # its budget leaves an evaluation over
        assert 0 <= own - mine <= 1
    else:
        assert own == mine


@pytest.mark.parametrize("solver", ["deis", "res", "best"])
@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_keeps_what_the_mask_protects(solver, channels):
    pipe = tiny.build(tiny.sd, D.StableDiffusionInpaintPipeline, channels)
    picture = Image.new("RGB", (16, 16), (200, 40, 60))
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 16, 8))
    call = dict(prompt="a b", image=picture, mask_image=mask, height=16, width=16,
                strength=0.6, guidance_scale=1.0)  # fmt: skip

    def run(pipe, steps, **call):
        generator = torch.Generator().manual_seed(0)
        return pipe(
            num_inference_steps=steps, generator=generator, output_type="latent", **call
        ).images

    calls = count(pipe)
    first = run(pipe, 10, **call)
    own = calls[0]
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, solver=solver)
    calls[0] = 0
    x = run(pipe, 10, **call)
    assert calls[0] == own
    assert torch.isfinite(x).all()
    if channels == 4:  # the protected latents are the picture's, whatever the sampler
        assert torch.equal(x[:, :, 4:], first[:, :, 4:])
        assert not torch.equal(x[:, :, :4], first[:, :, :4])


def test_two_schedulers_of_one_configuration_do_not_share_a_run():
    import threading

    pipes = [tiny.build(tiny.sd) for _ in range(2)]
    config = PlanScheduler.from_config(pipes[0].scheduler.config, solver="res", order=3).config
    call, out = tiny.CALLS[tiny.sd], {}
    for pipe in pipes:
        pipe.scheduler = PlanScheduler.from_config(config)
    alone = [run(pipes[0], 6, seed=s, **call) for s in range(2)]
    threads = [
        threading.Thread(target=lambda i=i: out.__setitem__(i, run(pipes[i], 6, seed=i, **call)))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(out[i], alone[i]) for i in range(2))


def test_a_circular_decode_commutes_with_turning_the_ring():
    pipe = tiny.build(tiny.sd)
    pipe.vae = tiny.vae(
        mid_block_add_attention=False
    ).eval()  # attention sees where the ring begins
    z = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))

    def gap(**options):
        turned = decode(pipe, z.roll(5, -1), **options)
        return (turned - decode(pipe, z, **options).roll(10, -1)).abs().max()

    # what is left is the group norm, which averages over the wrapped picture
    assert gap(circular=True, margin=16) < 0.05 * gap()


def test_pipelines_find_what_they_look_for_in_the_signatures():
    assert {"timesteps", "sigmas", "mu"} <= set(
        inspect.signature(PlanScheduler.set_timesteps).parameters
    )
    assert "generator" in inspect.signature(PlanScheduler.step).parameters
