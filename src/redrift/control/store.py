"""Samplers as safetensors files."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from redrift._core.files import read_safetensors, write_atomically
from redrift.control.nets import Control
from redrift.control.options import Architecture
from redrift.process import Process, from_dict, to_dict

_FORMAT = "redrift-pis-1"


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def save_sampler(
    path: str | os.PathLike[str],
    net: Control,
    loc: Tensor,
    scale: Tensor,
    process: Process,
    options: dict[str, Any],
) -> None:
    """Write a sampler: its network, coordinates, reference and options (power, clip, dim)."""
    tensors = {f"net.{k}": v.contiguous() for k, v in net.state_dict().items()}
    tensors |= {"loc": loc.contiguous(), "scale": scale.contiguous()}
    metadata = {
        "format": _FORMAT,
        "net": json.dumps(net.config),
        "process": json.dumps(to_dict(process)),
        "options": json.dumps(options),
    }
    write_atomically(path, lambda target: save_file(tensors, target, metadata))


def load_sampler(path: str | os.PathLike[str]) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """Return the dimension, the arguments of the sampler and the network's weights.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged or of another format.
    """
    metadata, tensors = read_safetensors(path, _FORMAT, "sampler")
    options, net = json.loads(metadata["options"]), json.loads(metadata["net"])
    weights = part(tensors, "net.")
    arguments: dict[str, Any] = {
        "reference": from_dict(json.loads(metadata["process"])),
        "loc": tensors["loc"],
        "scale": tensors["scale"],
        "power": options["power"],
        "steps": net["steps"],
        "network": Architecture(
            **{name: net[name] for name in ("width", "depth", "gradient", "spread")},
            clip=options["clip"], dtype=weights["last.weight"].dtype,
        ),
    }  # fmt: skip
    return options["dim"], arguments, weights
