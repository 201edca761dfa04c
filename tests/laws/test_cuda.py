"""Laws of the device: what runs on a GPU is what runs on the CPU, from the same noise."""

import copy

import pytest
import torch

import redrift as rd
from redrift.collage import ring
from redrift.denoise import Empirical, GaussianMixture
from redrift.filters import PathIntegral
from redrift.filters.problems import PROBLEMS
from redrift.guidance import FKSteering
from redrift.likelihood import log_prob

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
F64, GPU = torch.float64, "cuda"


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def mixture(process):
    means = 0.5 * noise(5, 1, 4, 4, seed=1)
    return GaussianMixture(
        torch.ones(5, dtype=F64), means, torch.full((5,), 0.2, dtype=F64), process
    )


def first(process, n=6):
    blocks = (process.k,) if process.k > 1 else ()
    return noise(n, *blocks, 1, 4, 4)


def near(a, b, bound=1e-9):
    assert a.device.type == "cuda"
    assert float((a.cpu() - b).abs().max()) < bound


PROCESSES = (rd.VP(), rd.EDM(), rd.Flow(), rd.CLD(), rd.Blur((4, 4)))
PLANS = {
    "deis": lambda p, grid: rd.deis(p, grid, order=3, startup=False),
    "gddim": lambda p, grid: rd.gddim(p, grid, order=2),
    "res": lambda p, grid: rd.res(p, grid, order=3),
}


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", PLANS)
def test_a_plan_gives_the_same_samples_on_both_devices(process, name):
    grid = rd.timegrid(process, 8, start=min(process.interval[0], 0.99 * process.horizon))
    if name == "res" and process.k > 1:
        pytest.skip("res is for scalar and diagonal processes")
    plan, model, x = PLANS[name](process, grid), mixture(process), first(process)
    near(rd.sample(model, plan, x=x.to(GPU)), rd.sample(model, plan, x=x))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_a_density_is_the_same_on_both_devices(process):
    model, x = mixture(process), first(process, 3)
    near(log_prob(model, x.to(GPU), evaluations=12), log_prob(model, x, evaluations=12), 1e-7)


def test_one_generator_a_sample_gives_the_same_sample_whatever_the_split_on_a_gpu():
    process = rd.VP()
    plan, model = rd.ddpm(process, rd.timegrid(process, 6)), mixture(process)

    def run(size):
        own = [torch.Generator(GPU).manual_seed(i) for i in range(5)]
        x = first(process, 5).to(GPU)
        return rd.sample(model, plan, x=x, generator=own, batch_size=size)

    assert torch.equal(run(5).cpu(), run(2).cpu())


def test_steering_selects_by_the_rule_on_a_gpu():
    process = rd.VP()
    plan, model = rd.ddpm(process, rd.timegrid(process, 20)), mixture(process)

    def loss(x):
        return x.flatten(1).mean(1).square()

    policy = FKSteering(loss, particles=8, strength=200.0)
    x = first(process, 64).to(GPU)
    guided = rd.sample(
        model, plan, x=x, policy=policy, generator=torch.Generator(GPU).manual_seed(0)
    )
    plain = rd.sample(model, plan, x=x, generator=torch.Generator(GPU).manual_seed(1))
    assert guided.device.type == "cuda"
    assert float(loss(guided).mean()) < float(loss(plain).mean()) / 4


def test_a_ring_is_the_same_on_both_devices():
    process = rd.VP()
    data = noise(7, 1, 4, 4, seed=3)
    graph = ring((1, 4, 4), count=4, overlap=2)
    plan = rd.deis(process, rd.timegrid(process, 6), order=2)
    collage = graph.denoiser(Empirical(data, process), overlap=Empirical(data[..., :2], process))
    x = noise(2, *graph.shape, seed=4)
    near(rd.sample(collage, plan, x=x.to(GPU)), rd.sample(collage, plan, x=x))


def test_a_network_on_a_gpu_gives_the_samples_of_the_cpu():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = rd.pretrained("digits")
    plan = rd.best_plan(model.process, 10)
    x, label = noise(10, 1, 8, 8).float(), torch.arange(10)
    here = rd.sample(model, plan, x=x, cond={"label": label})
    there = copy.deepcopy(model).to(GPU)
    near(rd.sample(there, plan, x=x.to(GPU), cond={"label": label.to(GPU)}), here, 1e-3)


def test_calibration_on_a_gpu_lowers_the_held_out_error():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = rd.pretrained("digits").to(GPU)
    plan = rd.ddim(model.process, rd.timegrid(model.process, 6))
    found = rd.calibrate(
        model, plan, shape=(1, 8, 8), samples=64, budget=600, reference=60,
        cond={"label": torch.arange(64, device=GPU) % 10}, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert found.after.median < found.before.median


def test_one_window_of_a_linear_model_is_exact_on_a_gpu():
    problem = PROBLEMS["tracking"]()
    _, y = problem.model.simulate(
        problem.times, batch=4, generator=torch.Generator().manual_seed(0)
    )
    proposal = PathIntegral(float("inf"), float("inf"))
    post = rd.particle_filter(
        problem.model, y.to(GPU), times=problem.times, particles=7, proposal=proposal,
        generator=torch.Generator(GPU).manual_seed(1),
    )  # fmt: skip
    assert float((post.ess - 1).abs().max()) < 1e-8
