"""Models as safetensors files: weights, architecture, process, prediction and card in one file.

Nothing is pickled. Weights may be stored in half precision and are widened when loaded. The card
says what the model was trained on and holds what a user needs to sample it: the data's `shape`, its
`range`, and the number of `classes`, whose value is also the null label.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import save_file

from redrift._core.errors import choose
from redrift._core.files import read_safetensors, write_atomically
from redrift.denoise.denoiser import Denoiser
from redrift.denoise.mixed import Mixed
from redrift.nn import MLP, UNet
from redrift.process import from_dict, to_dict

ARCHITECTURES: dict[str, Any] = {"UNet": UNet, "MLP": MLP}
_FORMAT = "redrift-model-1"


def save(
    model: Denoiser,
    path: str | os.PathLike[str],
    *,
    card: Mapping[str, Any] | None = None,
    dtype: torch.dtype | Callable[[str], torch.dtype] | None = None,
) -> None:
    """Write a denoiser to a safetensors file, whole or not at all.

    Args:
        model: whose network is one of redrift.nn's (UNet, MLP).
        path: of the file; its folder must exist.
        card: JSON-able facts about the model, replacing model.card.
        dtype: of the stored weights, such as torch.float16, or a function of a weight's name; None
            keeps them.

    Raises:
        ValueError: if the network, its time or the process is the user's own.
        OSError: if the path cannot be written.
    """
    kind = type(model.net).__name__
    if ARCHITECTURES.get(kind) is not type(model.net) or model.time is not None:
        raise ValueError(
            f"only the networks {', '.join(ARCHITECTURES)} on process time can be saved, got {kind}"
            f"{' with a time of its own' if model.time is not None else ''}."
        )
    assert isinstance(model.net, torch.nn.Module)
    chosen = dtype if callable(dtype) else lambda _: dtype
    weights = {
        name: value.detach()
        .to("cpu", chosen(name) if value.is_floating_point() else None)
        .contiguous()
        for name, value in model.net.state_dict().items()
    }
    metadata = {
        "format": _FORMAT,
        "architecture": json.dumps({"kind": kind, **model.net.config}),  # pyright: ignore
        "process": json.dumps(to_dict(model.process)),
        "predicts": model.predicts,
        **({"data_std": repr(model.data_std)} if isinstance(model, Mixed) else {}),
        "card": json.dumps(dict(model.card if card is None else card)),
    }
    write_atomically(path, lambda target: save_file(weights, target, metadata))


def load(path: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Read a denoiser from a file of `save`.

    Args:
        path: of the file.
        dtype: the network computes in.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, no model of this format, or its weights do not fit its
            architecture.
    """
    metadata, weights = read_safetensors(path, _FORMAT, "model")
    weights = {name: value.to(dtype) for name, value in weights.items()}
    try:
        config = json.loads(metadata["architecture"])
        net = ARCHITECTURES[choose("architecture", config.pop("kind"), ARCHITECTURES)](**config)
        net.load_state_dict(weights)
        process = from_dict(json.loads(metadata["process"]))
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} does not fit its own architecture: {reason}.") from error
    net = net.to(dtype).eval()
    if "data_std" in metadata:
        model = Mixed(net, process, data_std=float(metadata["data_std"]))
    else:
        model = Denoiser(net, process, metadata["predicts"])
    model.card = json.loads(metadata["card"])
    return model
