"""Turn a training run into a shipped model: python training/export.py digits."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

import redrift as rd
from redrift.nn import UNet

_SHAPES = {"digits": [1, 8, 8], "cifar10": [3, 32, 32]}


def main() -> None:
    """Write src/redrift/pretrained/<name>.safetensors in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(_SHAPES))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("src/redrift/pretrained"))
    options = parser.parse_args()
    run = options.runs / options.name
    card = json.loads((run / "card.json").read_text())
    net = UNet(**card.pop("config"))
    net.load_state_dict({k: v.float() for k, v in load_file(run / "ema.safetensors").items()})
    card.pop("process"), card.pop("predicts")
    card.update(shape=_SHAPES[options.name], range=[-1, 1], classes=10)
    model = rd.Denoiser(net.eval(), rd.VP(), predicts="v")
    path = options.out / f"{options.name}.safetensors"
    rd.save(model, path, card=card, dtype=torch.float16)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {card['images']} images seen")


if __name__ == "__main__":
    main()
