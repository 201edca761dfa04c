"""Networks and pipelines of diffusers as denoisers, so that collages, guidance and likelihood take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from redrift.denoise import Denoiser, Guided
from redrift.integrations._laws import HostLaw, check_class, law_of
from redrift.integrations._words import complete

Call = Callable[..., Tensor]
_KINDS = (
    "UNet2DModel",
    "UNet2DConditionModel",
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
)


class Network(nn.Module):
    """A diffusers network behind the call `net(x, t, **cond)` of `Denoiser`.

    Conditions are tensors with a leading B: `class_labels` for UNet2DModel and DiT;
    `encoder_hidden_states` for those conditioned on text, with `encoder_attention_mask` (PixArt),
    `text_embeds` (SDXL), `pooled_projections` (SD3, Flux) and `guidance` (Flux). Networks that also
    return variances lose them here.

    Args:
        net: one of the kinds named in the error below.
        pixels: pixels per latent, which SDXL is told the picture's size in.
        sign: factor that makes the output the prediction.

    Raises:
        ValueError: for another kind of network.
    """

    def __init__(self, net: nn.Module, pixels: int = 8, sign: float = 1.0) -> None:
        super().__init__()
        kind = next((c.__name__ for c in type(net).__mro__ if c.__name__ in _KINDS), None)
        if kind is None:
            raise ValueError(
                f"{type(net).__name__} is not one of {', '.join(_KINDS)}: wrap it yourself in a function "
                "net(x, t, **cond) and give it to rd.Denoiser."
            )
        self.net, self.kind, self.pixels, self.sign = net, kind, pixels, sign

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return the network's prediction, of x's shape."""
        out = self._ask(x, t, **cond)
        return out if self.sign == 1 else self.sign * out

    def _ask(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:  # noqa: ANN401
        if self.kind == "FluxTransformer2DModel":
            return self._flux(x, t, **cond)
        if self.kind == "UNet2DConditionModel" and "text_embeds" in cond:
            cond["added_cond_kwargs"] = self._sizes(x, cond.pop("text_embeds"))
        if self.kind == "PixArtTransformer2DModel":
            cond.setdefault("added_cond_kwargs", {"resolution": None, "aspect_ratio": None})
        out = self.net(x, timestep=t, return_dict=False, **cond)[0]
        return out[:, : x.shape[1]]

    def _sizes(self, x: Tensor, text_embeds: Tensor) -> dict[str, Tensor]:
        """Return SDXL's further conditions: pooled text, and sizes without a crop."""
        high, wide = (side * self.pixels for side in x.shape[-2:])
        ids = x.new_tensor([high, wide, 0, 0, high, wide]).expand(len(x), -1)
        return {"text_embeds": text_embeds, "time_ids": ids}

    def _flux(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:  # noqa: ANN401
        """Return Flux's prediction: 2 x 2 patches become tokens, time runs from 0 to 1."""
        b, c, h, w = x.shape
        if h % 2 or w % 2:
            raise ValueError(f"Flux packs latents two by two, got an odd size {h} x {w}.")
        patches = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
        tokens = patches.reshape(b, h * w // 4, 4 * c)
        rows, columns = (torch.arange(n // 2, device=x.device) for n in (h, w))
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        ids = torch.cat((torch.zeros_like(places[:, :1]), places), 1).to(x)
        text_ids = x.new_zeros(cond["encoder_hidden_states"].shape[1], 3)
        out = self.net(
            tokens, timestep=t / 1000, img_ids=ids, txt_ids=text_ids, return_dict=False, **cond
        )[0]
        out = out.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(b, c, h, w)


def denoiser(
    source: Any,  # noqa: ANN401
    scheduler: Any = None,  # noqa: ANN401
    *,
    guidance: float = 1.0,
    negative_prompt: str = "",
    **options: Any,  # noqa: ANN401
) -> Denoiser:
    """Turn a pipeline, or a network and its scheduler, into a `Denoiser`.

    Args:
        source: a pipeline (DDPM, DiT, PixArt, Stable Diffusion, SDXL, SD3, Flux), or its network.
        scheduler: a scheduler, or its configuration, that says the noise schedule and the prediction;
            None takes the pipeline's.
        guidance: classifier-free guidance towards the prompt; 1 is none. For a pipeline with a text
            encoder, or DiT, whose null class is the last.
        negative_prompt: what guidance leads away from.
        options: for its encoding, as in `prompt`.

    Returns:
        a denoiser of latents (B, C, H, W); conditions for a prompt come from `prompt`, pictures from
        `decode`.

    Raises:
        ValueError: for an unknown network, a missing scheduler, or guidance without a condition.

    Cost: one call of the network per evaluation, two (in one batch) with guidance.
    """
    pipe = None if isinstance(source, nn.Module) else source
    net = source if pipe is None else _network(pipe)
    scheduler = scheduler if scheduler is not None or pipe is None else pipe.scheduler
    if scheduler is None:
        raise ValueError(
            "a network alone does not say its noise schedule: give scheduler=, such as the "
            "pipeline's scheduler or its config."
        )
    law = _law(scheduler)
    model = Denoiser(
        Network(net, _pixels(pipe), law.sign).eval(), law.process, law.predicts, time=law.told,
    )  # fmt: skip
    if guidance == 1:
        return model
    return Guided(model, guidance, _null(pipe, net, negative_prompt, options))


def _law(scheduler: Any) -> HostLaw:  # noqa: ANN401
    """Return the law of a scheduler or its configuration."""
    given = isinstance(scheduler, Mapping)
    config = scheduler if given else scheduler.config
    check_class(config, None if given else type(scheduler).__name__)
    return law_of({"prediction_type": "epsilon", **complete(config)})


def _null(
    pipe: Any,  # noqa: ANN401
    net: nn.Module,
    negative_prompt: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return the conditions of the unconditional call."""
    if type(net).__name__ == "DiTTransformer2DModel":
        return {"class_labels": net.config.num_embeds_ada_norm}  # pyright: ignore
    if pipe is None or not hasattr(pipe, "encode_prompt"):
        raise ValueError(
            "guidance needs the conditions of the unconditional call: give the whole pipeline, or use "
            "rd.Guided(model, scale, null={...})."
        )
    found = prompt(pipe, [negative_prompt], **options)
    if not negative_prompt and getattr(pipe.config, "force_zeros_for_empty_prompt", False):
        return {name: torch.zeros_like(value) for name, value in found.items()}  # SDXL's rule
    return found


def _network(pipe: Any) -> nn.Module:  # noqa: ANN401
    net = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if net is None:
        raise ValueError(f"{type(pipe).__name__} has neither a unet nor a transformer.")
    return net


def _pixels(pipe: Any) -> int:  # noqa: ANN401
    return int(getattr(pipe, "vae_scale_factor", 8) or 8)


def prompt(pipe: Any, prompts: Sequence[str], **options: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """Encode prompts with the pipeline's own text encoders.

    Args:
        pipe: a pipeline with `encode_prompt`.
        prompts: one for each sample.
        options: further arguments of the pipeline's `encode_prompt`, such as max_sequence_length.

    Returns:
        conditions with a leading axis of len(prompts), for `rd.sample(cond=...)`.

    Raises:
        ValueError: if the pipeline takes no text.
    """
    if not hasattr(pipe, "encode_prompt"):
        raise ValueError(f"{type(pipe).__name__} takes no text: give class_labels instead.")
    net, texts = _network(pipe), list(prompts)
    kind, options = type(net).__name__, {"device": net.device, **options}
    if kind != "FluxTransformer2DModel":
        options["do_classifier_free_guidance"] = False
    if kind == "PixArtTransformer2DModel":
        options.setdefault("clean_caption", False)
    if kind in ("SD3Transformer2DModel", "FluxTransformer2DModel"):
        options |= dict.fromkeys(["prompt_2", "prompt_3"][: 2 if kind[0] == "S" else 1])
    if kind == "UNet2DConditionModel":
        options.setdefault("num_images_per_prompt", 1)
    with torch.no_grad():
        text, *rest = pipe.encode_prompt(texts, **options)
    return _named(net, text, rest)


def _named(net: Any, text: Tensor, rest: list[Any]) -> dict[str, Tensor]:  # noqa: ANN401
    """Return what a pipeline's `encode_prompt` gave under the network's names."""
    kind, found = type(net).__name__, {"encoder_hidden_states": text}
    if kind == "FluxTransformer2DModel":
        found["pooled_projections"] = rest[0]
        if net.config.guidance_embeds:
            found["guidance"] = torch.full((len(text),), 3.5, device=text.device)
    elif kind == "SD3Transformer2DModel":
        found["pooled_projections"] = rest[1]
    elif kind == "PixArtTransformer2DModel":
        found["encoder_attention_mask"] = rest[0]
    elif len(rest) > 1 and rest[1] is not None:
        found["text_embeds"] = rest[1]  # SDXL
    return found


@torch.no_grad()
def decode(pipe: Any, z: Tensor, *, circular: bool = False, margin: int = 8) -> Tensor:  # noqa: ANN401
    """Decode latents to pictures in [-1, 1].

    Args:
        pipe: a pipeline with a VAE.
        z: (B, C, H, W) latents.
        circular: the right edge continues at the left, as on a ring: the latents are wrapped around
            before they are decoded, so that the VAE leaves no seam.
        margin: latents on each side that are wrapped around, at most W.

    Returns:
        (B, channels, H * f, W * f), not clipped.
    """
    vae = pipe.vae
    z = z.to(next(vae.parameters()).dtype)
    wide = z.shape[-1]
    if circular:
        margin = min(margin, wide)
        z = torch.cat((z[..., wide - margin :], z, z[..., :margin]), -1)
    x = vae.decode(z / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample
    if circular:
        side = x.shape[-1] // z.shape[-1] * margin
        x = x[..., side : x.shape[-1] - side]
    return x
