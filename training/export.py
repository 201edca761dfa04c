"""Turn a training run into a shipped model: python training/export.py digits.

With --distances RESULT.json, of `python -m benchmarks frechet`, the card of the model as it is shipped
also states its Frechet distance.
"""

import argparse
import json
from pathlib import Path

import torch
from linear import DATA_STD
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import redrift as rd
from redrift._core.files import write_atomically
from redrift.denoise import Mixed
from redrift.nn import Classifier, UNet

# name: the data's shape, and the process and prediction it was trained on
_MODELS = {
    "digits": ([1, 8, 8], rd.VP(), "v"),
    "digits-cld": ([1, 8, 8], rd.CLD(), "mixed"),
    "digits-blur": ([1, 8, 8], rd.Blur((8, 8)), "mixed"),
    "cifar10": ([3, 32, 32], rd.VP(), "v"),
    "cifar10-cld": ([3, 32, 32], rd.CLD(), "mixed"),
    "textures": ([3, 32, 32], rd.VP(), "v"),
}
# weights of eight bits, which keep the file to its share of the wheel: queries, keys and values hardly
# notice (the loss of `textures` changes by less than a ten-thousandth of itself)
_EIGHT_BITS = {"textures": "qkv.weight"}
_CLASSIFIERS = ("digits-classifier", "cifar10-classifier", "textures-classifier")


def main() -> None:
    """Write src/redrift/pretrained/<name>.safetensors in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted([*_MODELS, *_CLASSIFIERS]))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("src/redrift/pretrained"))
    parser.add_argument("--distances", type=Path, help="result of the benchmark `frechet`")
    options = parser.parse_args()
    if options.distances:
        return measured(options.name, options.distances, options.out)
    run = options.runs / options.name
    card = json.loads((run / "card.json").read_text())
    write = classifier if options.name in _CLASSIFIERS else diffusion
    path = write(options.name, run, card, options.out)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {card['images']} images seen")


def diffusion(name: str, run: Path, card: dict, out: Path) -> Path:
    """Write a diffusion model as rd.load reads it."""
    net = UNet(**card.pop("config"))
    net.load_state_dict({k: v.float() for k, v in load_file(run / "ema.safetensors").items()})
    card.pop("process"), card.pop("predicts")
    shape, process, predicts = _MODELS[name]
    card.update(shape=shape, range=[-1, 1], classes=net.config["classes"])
    path = out / f"{name}.safetensors"
    if predicts == "mixed":
        model = Mixed(net.eval(), process, data_std=DATA_STD[name.partition("-")[0]])
    else:
        model = rd.Denoiser(net.eval(), process, predicts)
    short = _EIGHT_BITS.get(name)
    rd.save(
        model, path, card=card,
        dtype=lambda weight: torch.float8_e4m3fn if short and short in weight else torch.float16,
    )  # fmt: skip
    return path


def measured(name: str, result: Path, out: Path) -> None:
    """Write a shipped model's Frechet distances into its card."""
    found = json.loads(result.read_text())["result"][name]
    path = out / f"{name}.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    card = json.loads(metadata["card"])
    card["frechet"] = {
        "features": f"of the shipped classifier {name!r}, not Inception's: no FID",
        "samples": found["samples"],
        "best_plan": dict(zip(map(str, found["budgets"]), found["redrift"]["best_plan"])),
        "60 evaluations": found["converged"],
        "real to real": found["floor"],
        "Gaussian fit": found["gaussian"],
        "class means": found["means"],
    }
    metadata["card"] = json.dumps(card)
    weights = load_file(path)
    write_atomically(path, lambda target: save_file(weights, target, metadata))
    print(f"{path}: {card['frechet']}")


def classifier(name: str, run: Path, card: dict, out: Path) -> Path:
    """Write a classifier as redrift.pretrained.classifier reads it, named by its data."""
    weights = {k: v.half().contiguous() for k, v in load_file(run / "weights.safetensors").items()}
    config = card.pop("config")
    Classifier(**config).load_state_dict(weights)
    path = out / "classifiers" / f"{name.removesuffix('-classifier')}.safetensors"
    path.parent.mkdir(exist_ok=True)
    metadata = {"architecture": json.dumps(config), "card": json.dumps(card)}
    write_atomically(path, lambda target: save_file(weights, target, metadata))
    return path


if __name__ == "__main__":
    main()
