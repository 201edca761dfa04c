"""The shipped textures model knows pieces of several sizes, and its collages have fewer seams."""

from pathlib import Path

import pytest
import torch

import redrift as rd
from redrift.collage import chain, seam_ratio

TRAINING = Path(__file__).parents[2] / "training"


def generators(n):
    return [torch.Generator().manual_seed(i) for i in range(n)]


@torch.no_grad()
def test_the_textures_model_denoises_narrow_crops_nearly_as_well_as_whole_pieces(monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.syspath_prepend(str(TRAINING))
    from common import to_floats
    from textures import Crops

    crops, model = Crops(), rd.pretrained("textures")
    index = torch.linspace(0, len(crops) - 1, 48).long()
    label = crops.labels[index]
    g = torch.Generator().manual_seed(0)
    error = {}
    for width in (16, 24, 32):
        x0 = to_floats(crops.cut(index, 32, width))
        total = 0.0
        for t in (0.1, 0.3, 0.6):
            level = model.process.level(torch.tensor(t, dtype=torch.float64))
            signal, root = float(level.signal), float(level.root)
            noise = torch.randn(x0.shape, generator=g)
            found = model.x0(signal * x0 + root * noise, t, label=label)
            total += float((found - x0).square().mean()) / root**2
        error[width] = total
    # less is seen of its surroundings, so a little more is left open
    assert error[16] < 1.3 * error[32]
    assert error[24] < 1.15 * error[32]
    with pytest.raises(ValueError, match="divisible by 4"):
        model.x0(torch.zeros(1, 3, 32, 18), 0.5)


def test_on_the_textures_model_seams_fall_from_independent_over_average_to_collage():
    model, n = rd.pretrained("textures"), 6
    graph = chain((3, 32, 32), 3, 16)
    plan, label = rd.plan_for(model.process, 10), torch.arange(n)
    found = {}
    for counting in ("independent", "average", "kikuchi"):
        collage = graph.recount(counting).denoiser(model, max_batch=16)
        x = rd.sample(collage, plan, shape=(n, *graph.shape), cond={"label": label},
                      generator=generators(n))  # fmt: skip
        found[counting] = float(seam_ratio(x, graph).log().mean().exp())
    assert found["kikuchi"] < 0.8 * found["average"]
    assert found["average"] < found["independent"]
