"""A redrift plan in a diffusers pipeline: one line, and a calibrated plan for this very model."""

import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

import redrift as rd
from redrift.integrations.diffusers import PlanScheduler, denoiser

torch.set_num_threads(1)
torch.manual_seed(0)

# A pipeline as it comes from the hub; here with random weights, so that nothing is downloaded.
unet = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
    norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
)  # fmt: skip
pipe = DDPMPipeline(unet, DDIMScheduler(clip_sample=False))
pipe.set_progress_bar_config(disable=True)


def draw(steps):
    """Return pictures from the same noise each time."""
    generator = torch.Generator().manual_seed(1)
    out = pipe(batch_size=2, num_inference_steps=steps, generator=generator, output_type="np")
    return torch.as_tensor(out.images)


# The one line.
pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, solver="res", order=3)
pictures = draw(9)
print(pipe.scheduler.plan)
print("the network is asked at", [round(t) for t in pipe.scheduler.timesteps.tolist()])

# The same network as a denoiser: everything in redrift takes it.
model = denoiser(pipe)
x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
same = rd.sample(model, pipe.scheduler.plan, x=x).clamp(-1, 1) / 2 + 0.5
difference = float((same.permute(0, 2, 3, 1) - pictures).abs().max())
print(f"rd.sample on it differs from the pipeline by {difference:.1e}")

# A grid fitted to this model, in the pipeline.
found = rd.calibrate(
    model, rd.best_plan(model.process, 5), shape=(1, 8, 8), samples=16, budget=160, reference=60,
    generator=torch.Generator().manual_seed(2),
)  # fmt: skip
print(f"median error of 5 evaluations {found.before.median:.1e} -> {found.after.median:.1e}")
pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, plan=found.plan)
draw(5)
print(pipe.scheduler.plan)
