"""Processes as plain data, for model files and plans."""

from __future__ import annotations

import dataclasses
from typing import Any

from redrift._core.errors import choose
from redrift.process.base import Process
from redrift.process.blur import Blur
from redrift.process.cld import CLD
from redrift.process.exploding import EDM, VE, Brownian
from redrift.process.flow import Flow
from redrift.process.ornstein_uhlenbeck import OrnsteinUhlenbeck
from redrift.process.table import TableProcess
from redrift.process.vp import VP, SubVP

PROCESSES: dict[str, type[Process]] = {
    kind.__name__: kind
    for kind in (VP, SubVP, VE, EDM, Flow, OrnsteinUhlenbeck, Brownian, TableProcess, CLD, Blur)
}


def to_dict(process: Process) -> dict[str, Any]:
    """Return the process's kind and constants.

    Raises:
        ValueError: if it is not one of redrift's own.
    """
    kind = type(process).__name__
    if PROCESSES.get(kind) is not type(process) or not dataclasses.is_dataclass(process):
        raise ValueError(f"{kind} is not one of {', '.join(PROCESSES)}: it cannot be saved.")
    fields = [f.name for f in dataclasses.fields(process) if f.init]
    return {"kind": kind, **{name: getattr(process, name) for name in fields}}


def from_dict(data: dict[str, Any]) -> Process:
    """Rebuild a process from `to_dict`.

    Raises:
        ValueError: if the kind is unknown or the constants do not fit it.
    """
    constants = dict(data)
    kind = choose("process", constants.pop("kind", None), PROCESSES)
    constants = {k: tuple(v) if isinstance(v, list) else v for k, v in constants.items()}
    try:
        return PROCESSES[kind](**constants)
    except TypeError as error:
        raise ValueError(f"{kind} cannot be built from {constants}: {error}") from error
