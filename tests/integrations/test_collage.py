"""A ring over Stable Diffusion: one prompt a piece, no seam in the pixels either."""

import pytest
import tiny
import torch

import redrift as rd
from redrift.integrations.diffusers import decode, denoiser, prompt

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_ring_with_a_prompt_for_each_piece_turns_with_its_prompts_and_its_noise():
    pipe = tiny.build(tiny.sd)
    model = rd.Guided(denoiser(pipe), 3.0, prompt(pipe, [""]))
    graph = rd.collage.ring(piece=(4, 8, 8), count=4, overlap=4)
    told = prompt(pipe, ["a a", "b", "c d", "e"])["encoder_hidden_states"]
    plan = rd.deis(model.process, rd.timegrid(model.process, 4), order=2, startup=False)
    x = torch.randn(1, *graph.shape, generator=torch.Generator().manual_seed(0))

    def run(told, x):
        canvas = graph.denoiser(piece=model, cond={"encoder_hidden_states": told})
        return rd.sample(canvas, plan, x=x)

    still, turned = run(told, x), run(told.roll(1, 0), x.roll(4, -1))
    assert (turned - still.roll(4, -1)).abs().max() < 1e-4 * still.abs().max()
    other = run(told[:1].expand_as(told).contiguous(), x)
    assert (other - still).abs().max() > 1e-2 * still.abs().max()
    picture = decode(pipe, still, circular=True)
    assert picture.shape[-1] == 2 * graph.shape[-1]
    assert torch.isfinite(picture).all()
