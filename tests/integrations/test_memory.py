"""A host may hand its outputs over in memory that it fills again."""

import pytest
import torch

from redrift.integrations.diffusers import PlanScheduler

pytestmark = pytest.mark.filterwarnings("ignore")


def plain(x, t):
    return torch.tanh(x * (1 + t.reshape(-1, 1)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", ["best", "deis", "heun", "res", "ipndm", "dpmpp"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_host_may_hand_over_the_same_memory_again(solver, prediction, count):
    def run(buffers):
        scheduler = PlanScheduler(solver=solver, prediction_type=prediction)
        scheduler.set_timesteps(9)
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        latents = x.clone()
        for i, t in enumerate(scheduler.timesteps):
            out = plain(latents, t.reshape(1) / 1000)
            if buffers:
                out = buffers[i % len(buffers)].copy_(out)
            latents_next = scheduler.step(out, t, latents).prev_sample
            latents = latents.copy_(latents_next) if buffers else latents_next
        return latents

    assert torch.equal(run([]), run([torch.empty(4, 2) for _ in range(count)]))
