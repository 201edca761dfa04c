"""The small models that ship with the library, each with a card that says how it was trained.

`pretrained` gives diffusion models. `classifier` gives the classifiers on the same data, whose
features serve `redrift.metrics.frechet`; import it from here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from redrift._core.errors import choose
from redrift.denoise import Denoiser, load
from redrift.nn import Classifier

_FOLDER = Path(__file__).parent
_CLASSIFIERS = _FOLDER / "classifiers"


def names() -> list[str]:
    """Return the names of the shipped models."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def pretrained(name: str, *, dtype: torch.dtype = torch.float32) -> Denoiser:
    """Load a shipped model.

    Args:
        name: see `redrift models`.
        dtype: the network computes in.

    Raises:
        ValueError: if there is no such model; it lists the near ones.

    Example:
        >>> pretrained("digits").card["shape"]
        [1, 8, 8]
    """
    return load(_FOLDER / f"{choose('model', name, names())}.safetensors", dtype=dtype)


def classifier(name: str, *, dtype: torch.dtype = torch.float32) -> Classifier:
    """Load the small classifier that was trained on a shipped model's data.

    Args:
        name: of the data, "digits", "cifar10" or "textures".
        dtype: the network computes in.

    Returns:
        the network, in evaluation mode; `features` maps pictures in [-1, 1] to (B, 64). What it was
        trained on and how well it classifies says `classifier_card`.

    Raises:
        ValueError: if there is no such classifier; it lists the near ones.

    Example:
        >>> classifier("digits").features(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 64])
    """
    with safe_open(_classifier_file(name), framework="pt") as file:
        net = Classifier(**json.loads(file.metadata()["architecture"]))
        net.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    return net.to(dtype).eval()


def classifier_card(name: str) -> dict[str, Any]:
    """Return the card of a classifier: its data, licence and accuracy.

    Args:
        name: of the data, "digits", "cifar10" or "textures".

    Raises:
        ValueError: if there is no such classifier; it lists the near ones.
    """
    with safe_open(_classifier_file(name), framework="pt") as file:
        return json.loads(file.metadata()["card"])


def _classifier_file(name: str) -> str:
    known = sorted(path.stem for path in _CLASSIFIERS.glob("*.safetensors"))
    return str(_CLASSIFIERS / f"{choose('classifier', name, known)}.safetensors")
