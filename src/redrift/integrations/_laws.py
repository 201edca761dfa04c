"""Which law a scheduler of diffusers stands for: the process, the prediction, what the network is told.

Every class of diffusers is known here or refused by name, and so is every word of a configuration: a word
that changes the law and is not understood would give samples of another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
_CONTINUOUS = 1000  # levels of a table that stands for a continuous range of noise

KNOWN = (
    *("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler"),
    *("DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "DEISMultistepScheduler"),
    *(
        "DPMSolverMultistepScheduler",
        "DPMSolverMultistepInverseScheduler",
        "DPMSolverSDEScheduler",
    ),
    *("DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"),
    *(
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "HeunDiscreteScheduler",
    ),
    *("KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler", "SASolverScheduler"),
    *("TCDScheduler", "UnCLIPScheduler", "UniPCMultistepScheduler", "PlanScheduler"),
)
_EDM = (
    "its network needs EDM's preconditioning: use rd.Denoiser(rd.denoise.Preconditioned(net, "
    "sigma_data=...), rd.EDM(), 'x0') and rd.sample"
)
_TOKENS = "it fills in tokens: there is no noise to step"
_OTHER = (
    "its law is not known here: describe it as an rd.Process and use rd.Denoiser and rd.sample"
)
_DISTILLED = "its network jumps by distillation and follows no flow that a solver could step"
# why, and the words by which a configuration without its class's name is known
REFUSED: dict[str, tuple[str, frozenset[str]]] = {
    "AmusedScheduler": (_TOKENS, frozenset({"mask_token_id", "masking_schedule"})),
    "BlockRefinementScheduler": (_TOKENS, frozenset({"block_length", "editing_threshold"})),
    "CMStochasticIterativeScheduler": (_DISTILLED, frozenset({"sigma_data", "clip_denoised"})),
    "ConsistencyDecoderScheduler": (_DISTILLED, frozenset()),
    "CosineDPMSolverMultistepScheduler": (_EDM, frozenset({"sigma_data", "solver_order"})),
    "DDPMWuerstchenScheduler": (_OTHER, frozenset({"scaler", "s"})),
    "DiscreteDDIMScheduler": (_TOKENS, frozenset({"corrector_k"})),
    "EDMDPMSolverMultistepScheduler": (_EDM, frozenset({"sigma_schedule", "solver_order"})),
    "EDMEulerScheduler": (_EDM, frozenset({"sigma_data", "sigma_schedule"})),
    "EntropyBoundScheduler": (_TOKENS, frozenset({"entropy_bound"})),
    "FlowMapEulerDiscreteScheduler": (_DISTILLED, frozenset()),
    "FlowMatchLCMScheduler": (_DISTILLED, frozenset({"upscale_mode", "scale_factors"})),
    "HeliosDMDScheduler": (_OTHER, frozenset({"stages", "stage_range"})),
    "HeliosScheduler": (_OTHER, frozenset({"stages", "stage_range", "solver_p"})),
    "IPNDMScheduler": (_OTHER, frozenset()),
    "KarrasVeScheduler": (_OTHER, frozenset({"s_churn", "s_min"})),
    "LTXEulerAncestralRFScheduler": (_OTHER, frozenset({"eta", "s_noise"})),
    "MiniMaxH3Scheduler": (_OTHER, frozenset()),
    "PiflowScheduler": (_DISTILLED, frozenset({"num_policy_substeps"})),
    "RFD4ProteinaScheduler": (_OTHER, frozenset({"schedule_mode"})),
    "SCMScheduler": (_DISTILLED, frozenset()),
    "ScoreSdeVeScheduler": (_OTHER, frozenset({"snr", "correct_steps"})),
    "ScoreSdeVpScheduler": (_OTHER, frozenset({"beta_min", "beta_max"})),
    "VQDiffusionScheduler": (_TOKENS, frozenset({"num_vec_classes"})),
}
# configurations that are known by all their words, or not at all
_BARE = {
    frozenset({"num_train_timesteps", "trained_betas"}): "IPNDMScheduler",
    frozenset({"shift"}): "MiniMaxH3Scheduler",
    frozenset({"num_train_timesteps", "sigma_data"}): "ConsistencyDecoderScheduler",
    frozenset({"num_train_timesteps", "prediction_type", "sigma_data"}): "SCMScheduler",
}


@dataclass(frozen=True)
class HostLaw:
    """A host's law.

    Attributes:
        process: of the noise.
        predicts: what the network predicts, in the words of `Denoiser`.
        told: from process times to the network's.
        asked: back.
        sign: factor that makes the network's output the prediction.
    """

    process: ScalarProcess
    predicts: str
    told: Callable[[Tensor], Tensor]
    asked: Callable[[Tensor], Tensor]
    sign: float = 1.0


def check_class(config: Mapping[str, Any], name: str | None = None) -> None:
    """Refuse a configuration of a scheduler whose law is not known.

    Args:
        config: its words.
        name: of its class, if it is known; else the configuration may hold it.

    Raises:
        ValueError: naming the class and what to do instead.
    """
    name = name or config.get("_class_name")
    words = {word for word in config if not word.startswith("_")}
    if name is None:
        name = _BARE.get(frozenset(words))
        marked = [n for n, (_, marks) in REFUSED.items() if marks and marks <= words]
        if name is None and "solver" not in words:
            name = max(marked, key=lambda n: len(REFUSED[n][1]), default=None)
        if name is None:
            return
    if name in REFUSED:
        raise ValueError(f"PlanScheduler cannot stand for {name}: {REFUSED[name][0]}.")
    if name not in KNOWN:
        raise ValueError(f"PlanScheduler cannot stand for {name}: {_OTHER}.")


def law_of(config: Mapping[str, Any]) -> HostLaw:
    """Return the law of a complete configuration.

    Raises:
        ValueError: if the beta schedule is unknown, or a network of the noise is asked to work at zero
            signal.
    """
    predicts = prediction_of(config)
    if predicts == "flow":
        count = float(config["num_train_timesteps"])
        if config.get("invert_sigmas"):
            return HostLaw(
                Flow(), "flow", lambda t: (1 - t) * count, lambda s: 1 - s / count, -1.0
            )
        return HostLaw(Flow(), "flow", lambda t: t * count, lambda s: s / count)
    if config.get("timestep_type") == "continuous" and predicts == "v":
        return _continuous(float(config["sigma_min"]), float(config["sigma_max"]))
    process = TableProcess(tuple(alpha_bar_of(config, predicts).tolist()))
    return HostLaw(process, predicts, lambda t: t, lambda s: s)


def _continuous(low: float, high: float) -> HostLaw:
    """Return the law of Stable Video Diffusion: a quarter of log sigma is told, v predicted."""
    sigma = torch.logspace(math.log10(low), math.log10(high), _CONTINUOUS, dtype=torch.float64)
    process = TableProcess(tuple((1 / (1 + sigma**2)).tolist()))
    return HostLaw(
        process, "v", lambda t: -process.clock(t) / 4, lambda s: process.unclock(-4 * s)
    )


def prediction_of(config: Mapping[str, Any]) -> str:
    """Return what the network predicts, in the words of `Denoiser`."""
    return PREDICTIONS[choose("prediction_type", config.get("prediction_type"), PREDICTIONS)]


def alpha_bar_of(config: Mapping[str, Any], predicts: str) -> Tensor:
    """Return the table of alpha-bar, float64."""
    alpha_bar = torch.cumprod(1 - _betas(config), 0)
    shift = config.get("snr_shift_scale")
    if shift is not None:  # CogVideoX divides the signal-to-noise ratio by it
        alpha_bar = alpha_bar / (shift + (1 - shift) * alpha_bar)
    if not config.get("rescale_betas_zero_snr"):
        return alpha_bar
    if predicts == "eps":
        raise ValueError(
            "rescale_betas_zero_snr=True leaves no signal at the first step, where a prediction of "
            "the noise says nothing about the sample: use a model with "
            "prediction_type='v_prediction' or 'sample', or set rescale_betas_zero_snr=False."
        )
    root = alpha_bar.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return torch.cat((root[:-1] ** 2, (root[-2:-1] ** 2 / 4).clamp(max=TERMINAL)))


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
