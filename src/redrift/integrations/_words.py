"""The words of diffusers' configurations: which are honoured, which say nothing here, which are refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# words of the law and of what is done with a prediction
LAW = frozenset({
    *("base_image_seq_len", "base_shift", "beta_end", "beta_schedule", "beta_start", "clip_sample"),
    *("clip_sample_range", "dynamic_thresholding_ratio", "end", "invert_sigmas", "max_image_seq_len"),
    *("max_shift", "num_train_timesteps", "options", "order", "plan", "prediction_type"),
    *("rescale_betas_zero_snr", "sample_max_value", "shift", "shift_terminal", "sigma_max", "sigma_min"),
    *("snr_shift_scale", "solver", "spacing", "steps_offset", "thresholding", "time_shift_type"),
    *("timestep_type", "trained_betas", "use_dynamic_shifting", "use_flow_sigmas", "variance_type"),
})  # fmt: skip
# words of other methods and grids: a configuration may carry them, since a plan has its own
IGNORED = frozenset({
    *("algorithm_type", "corrector_order", "disable_corrector", "eta"),
    *("euler_at_final", "final_sigmas_type", "interpolation_type", "kwargs", "lambda_min_clipped"),
    *("lower_order_final", "noise_sampler_seed", "original_inference_steps", "predict_x0"),
    *("predictor_order", "set_alpha_to_one", "skip_prk_steps", "solver_order", "solver_p"),
    *("solver_type", "stochastic_sampling", "tau_func", "timestep_scaling", "timestep_spacing"),
    *("use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas"),
})  # fmt: skip
_GRIDS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "logsnr"}
_METHODS = {"deis": "deis", "dpmsolver++": "dpmpp"}
_ENDS = {"zero": "zero", "sigma_min": "min"}


def complete(config: Mapping[str, Any], known: Iterable[str] = LAW) -> dict[str, Any]:
    """Return a configuration in this library's words, its class's own defaults included.

    Args:
        config: of any scheduler.
        known: the words of `PlanScheduler`.

    Raises:
        ValueError: for a word that may change the law and is not understood.
    """
    found = {word: value for word, value in config.items() if not word.startswith("_")}
    found = _flow(found)
    for word in [w for w in found if w not in known]:
        value = found.pop(word)
        if word not in IGNORED:
            raise ValueError(
                f"{word}={value!r} of the configuration is not understood, and may change the law: "
                f"remove it if it does not.{_near(word, known)}"
            )
    return found


def translate(given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return keyword arguments with diffusers' words for what there is here in this library's.

    Raises:
        ValueError: for a word without effect here, or a misspelt one.
    """
    found = dict(given)
    for word in [w for w in found if w not in known]:
        found.update(_translated(word, found.pop(word), known))
    return _flow(found) if "flow_shift" in found else found


def _translated(word: str, value: Any, known: Iterable[str]) -> dict[str, Any]:  # noqa: ANN401
    if word == "flow_shift":
        return {"shift": value}
    if word == "solver_order":
        return {"order": value}
    if word == "timestep_spacing":
        return {"spacing": value}
    if word in _GRIDS:
        return {"spacing": _GRIDS[word]} if value else {}
    if word == "algorithm_type" and value in _METHODS:
        return {"solver": _METHODS[value]}
    if word == "final_sigmas_type" and value in _ENDS:
        return {"end": _ENDS[value]}
    if word in IGNORED:
        raise ValueError(
            f"{word}={value!r} has no effect on a plan: choose with solver=, order=, spacing=, end= and "
            "options=."
        )
    raise ValueError(f"PlanScheduler has no {word!r}.{_near(word, [*known, *IGNORED])}")


def _flow(found: dict[str, Any]) -> dict[str, Any]:
    """Return the words with rectified flow's in one form."""
    if "flow_shift" in found:
        found["shift"] = found.pop("flow_shift")
    flow = found.get("prediction_type") == "flow_prediction" or found.get("use_flow_sigmas")
    if flow or ("shift" in found and "beta_schedule" not in found):
        found["prediction_type"] = "flow_prediction"
    return found


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=2)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
