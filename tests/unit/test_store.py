"""Model files hold the whole model, and only a whole one."""

import importlib
from pathlib import Path

import pytest
import torch

import redrift as rd
from redrift.nn import MLP, UNet


def unet():
    torch.manual_seed(0)
    net = UNet(1, width=8, multipliers=(1, 2), classes=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize("process", [rd.VP(), rd.EDM(), rd.TableProcess((0.99, 0.9, 0.5))])
def test_a_loaded_model_predicts_what_the_saved_one_did(process, tmp_path):
    model = rd.Denoiser(unet().eval(), process, "v")
    model.card = {"shape": [1, 8, 8], "classes": 3, "data": "none"}
    path = tmp_path / "model.safetensors"
    rd.save(model, path)
    other = rd.load(path)
    assert other.process == process
    assert other.predicts == "v"
    assert other.card == model.card
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([0, 3])
    t = process.horizon / 2
    assert torch.equal(other(x, t, label=label), model(x, t, label=label))


def test_half_precision_on_disk_is_single_in_memory(tmp_path):
    model = rd.Denoiser(MLP(3), rd.VP(), "eps")
    rd.save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    rd.save(model, tmp_path / "full.safetensors")
    small, full = (tmp_path / f"{n}.safetensors" for n in ("half", "full"))
    assert small.stat().st_size < 0.6 * full.stat().st_size
    x = torch.randn(4, 3)
    found = rd.load(small)(x, 0.5)
    assert found.dtype == torch.float32
    assert torch.allclose(found, model(x, 0.5), atol=2e-3)


def test_what_a_file_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for model in (
        rd.Denoiser(lambda x, t: x, rd.VP()),
        rd.Denoiser(MLP(3), rd.VP(), time=lambda t: 999 * t),
    ):
        with pytest.raises(ValueError, match="can be saved"):
            rd.save(model, path)
    with pytest.raises(FileNotFoundError):
        rd.save(rd.Denoiser(MLP(3), rd.VP()), tmp_path / "no" / "folder.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_are_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    rd.save(rd.Denoiser(MLP(3), rd.VP()), path)
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights.pop(sorted(weights)[0])
    save_file(weights, path, metadata)
    with pytest.raises(ValueError, match="does not fit its own architecture"):
        rd.load(path)
    save_file(weights, path)
    with pytest.raises(ValueError, match="not a model saved by redrift"):
        rd.load(path)


def test_the_shipped_models_keep_their_budget():
    # the function rd.pretrained hides the package of the same name
    folder = Path(importlib.import_module("redrift.pretrained").__file__).parent
    budget = {"cifar10": 10, "cifar10-cld": 6, "textures": 2}
    for path in folder.glob("*.safetensors"):
        megabytes = path.stat().st_size / 1e6
        assert megabytes <= budget.get(path.stem, 1), path.name
        assert rd.pretrained(path.stem).card["licence"]
