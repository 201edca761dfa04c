"""What a diffusers scheduler's configuration says of the noise: the process and the prediction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from redrift._core.errors import choose
from redrift.process import Flow, ScalarProcess, TableProcess

PREDICTIONS = {
    "epsilon": "eps",
    "sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
TERMINAL = 2.0**-24  # stands for an alpha-bar of zero, where the one before it is above


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in this library's words, whichever scheduler it comes from.

    Raises:
        ValueError: for EDM's preconditioned networks, which no scheduler of this kind serves.
    """
    found = dict(config)
    if "sigma_data" in found:
        raise ValueError(
            "the configuration is of an EDM scheduler, whose network needs preconditioning: use "
            "rd.Denoiser(rd.denoise.Preconditioned(net, sigma_data=...), rd.EDM(), 'x0') and "
            "rd.sample instead."
        )
    if "flow_shift" in found:
        found.setdefault("shift", found["flow_shift"])
    flow = found.get("prediction_type") == "flow_prediction" or found.get("use_flow_sigmas")
    if flow or ("shift" in found and "beta_schedule" not in found):
        found["prediction_type"] = "flow_prediction"
    return found


def process_of(config: Mapping[str, Any]) -> ScalarProcess:
    """Return the process of a configuration: a table of alpha-bar, or rectified flow.

    Raises:
        ValueError: if the beta schedule is unknown, or a network of the noise is asked to work at zero
            signal.
    """
    predicts = prediction_of(config)
    if predicts == "flow":
        return Flow()
    alpha_bar = torch.cumprod(1 - _betas(config), 0)
    if config.get("rescale_betas_zero_snr"):
        if predicts == "eps":
            raise ValueError(
                "rescale_betas_zero_snr=True leaves no signal at the first step, where a prediction of "
                "the noise says nothing about the sample: use a model with "
                "prediction_type='v_prediction' or 'sample', or set rescale_betas_zero_snr=False."
            )
        root = alpha_bar.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alpha_bar = torch.cat((root[:-1] ** 2, (root[-2:-1] ** 2 / 4).clamp(max=TERMINAL)))
    return TableProcess(tuple(alpha_bar.tolist()))


def prediction_of(config: Mapping[str, Any]) -> str:
    """Return what the network predicts, in the words of `Denoiser`."""
    return PREDICTIONS[choose("prediction_type", config.get("prediction_type"), PREDICTIONS)]


def net_time(config: Mapping[str, Any]) -> float:
    """Return the factor from process time to the network's time."""
    return float(config["num_train_timesteps"]) if prediction_of(config) == "flow" else 1.0


def _betas(config: Mapping[str, Any]) -> Tensor:
    """Return the betas, float64."""
    given = config.get("trained_betas")
    if given is not None:
        return torch.as_tensor(given, dtype=torch.float64)
    kind = choose("beta_schedule", config.get("beta_schedule"), BETAS)
    count = int(config["num_train_timesteps"])
    low, high = float(config["beta_start"]), float(config["beta_end"])
    if kind == "linear":
        return torch.linspace(low, high, count, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(low**0.5, high**0.5, count, dtype=torch.float64) ** 2
    if kind == "sigmoid":
        u = torch.linspace(-6, 6, count, dtype=torch.float64)
        return torch.sigmoid(u) * (high - low) + low
    u = torch.arange(count + 1, dtype=torch.float64) / count
    bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)


def shifted(config: Mapping[str, Any], times: Tensor, mu: float | None) -> Tensor:
    """Return flow times moved towards the noise, as larger pictures need.

    t -> s t / (1 + (s - 1) t) with s = `shift`, or s = exp(mu) ("exponential") or mu ("linear") under
    dynamic shifting.

    Raises:
        ValueError: if dynamic shifting is on and no mu is given.
    """
    shift = float(config.get("shift") or 1.0)
    if config.get("use_dynamic_shifting"):
        if mu is None:
            raise ValueError(
                "use_dynamic_shifting=True needs mu=, which the pipeline computes from the picture's "
                "size: pass it to set_timesteps, or set use_dynamic_shifting=False."
            )
        kind = choose("time_shift_type", config.get("time_shift_type"), ("exponential", "linear"))
        shift = math.exp(mu) if kind == "exponential" else float(mu)
    return shift * times / (1 + (shift - 1) * times)


def integer_grid(config: Mapping[str, Any], spacing: str, steps: int) -> list[float]:
    """Return diffusers' own integer timesteps: "leading", "trailing" or "linspace"."""
    count = int(config["num_train_timesteps"])
    if spacing == "linspace":
        found = torch.linspace(0, count - 1, steps, dtype=torch.float64).round().flip(0)
    elif spacing == "leading":
        found = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (count // steps)
        found += float(config.get("steps_offset") or 0)
    else:
        found = torch.arange(count, 0, -count / steps, dtype=torch.float64).round() - 1
    return found.tolist()


def decreasing(name: str, values: Sequence[float]) -> list[float]:
    """Return the values as floats.

    Raises:
        ValueError: if they are empty, not finite or not strictly decreasing.
    """
    found = [float(v) for v in values]
    for a, b in itertools.pairwise(found):
        if not b < a:
            raise ValueError(
                f"{name} must decrease strictly, but {a:g} is followed by {b:g}: sort them from noise "
                "to data and remove repeated ones."
            )
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"{name} must be a list of finite numbers, got {values!r}.")
    return found
