"""Pipelines of diffusers with random weights, a few thousand of them, made without any download."""

import json
import string
import tempfile
from pathlib import Path

import diffusers as D
import torch
import transformers as T

LETTERS = string.ascii_lowercase
SIZE = 16  # of the latents


def clip_tokenizer():
    """Return a CLIP tokenizer whose words are single letters."""
    words = ["<|startoftext|>", "<|endoftext|>", "!"]
    words += [letter + end for letter in LETTERS for end in ("", "</w>")] + ["ab</w>"]
    folder = Path(tempfile.mkdtemp())
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return T.CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def t5_tokenizer():
    """Return a tokenizer whose words are single letters, in the place of T5's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *LETTERS])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    marks = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return T.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=20, **marks)


def clip(kind=T.CLIPTextModel):
    return kind(
        T.CLIPTextConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=32,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def t5():
    config = dict(vocab_size=40, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    marks = dict(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    return T.T5EncoderModel(T.T5Config(**config, **marks))


def vae(channels=4, widths=(4, 8), groups=2, **more):
    count = len(widths)
    return D.AutoencoderKL(
        block_out_channels=widths, down_block_types=["DownEncoderBlock2D"] * count,
        up_block_types=["UpDecoderBlock2D"] * count, layers_per_block=1, latent_channels=channels,
        norm_num_groups=groups, sample_size=32, **more,
    )  # fmt: skip


def plain_unet(channels=3):
    return D.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
    )  # fmt: skip


def text_unet(channels=4, **more):
    options = dict(
        block_out_channels=(4, 8), layers_per_block=1, sample_size=SIZE, in_channels=channels,
        out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32,
        attention_head_dim=2, norm_num_groups=2,
    )  # fmt: skip
    return D.UNet2DConditionModel(**{**options, **more})


def scaled():
    return D.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip


def ddpm():
    return D.DDPMPipeline(plain_unet(), D.DDPMScheduler(clip_sample=False))


def sd(kind=None, channels=4):
    return (kind or D.StableDiffusionPipeline)(
        vae=vae(), text_encoder=clip(), tokenizer=clip_tokenizer(), unet=text_unet(channels),
        scheduler=scaled(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def sdxl():
    unet = text_unet(
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1), cross_attention_dim=64,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip
    tokenizer = clip_tokenizer()
    return D.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip(), text_encoder_2=clip(T.CLIPTextModelWithProjection),
        tokenizer=tokenizer, tokenizer_2=tokenizer, unet=unet, scheduler=scaled(),
        add_watermarker=False,
    )  # fmt: skip


def dit():
    net = D.DiTTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        in_channels=4, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_zero", norm_elementwise_affine=False,
    )  # fmt: skip
    return D.DiTPipeline(net, vae(), D.DDIMScheduler(clip_sample=False))


def pixart():
    net = D.PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        caption_channels=32, in_channels=4, cross_attention_dim=16, out_channels=8,
        attention_bias=True, activation_fn="gelu-approximate", norm_type="ada_norm_single",
        num_embeds_ada_norm=1000, norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    return D.PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5(), vae=vae(), transformer=net,
        scheduler=D.DDIMScheduler(clip_sample=False),
    )  # fmt: skip


FLOW_VAE = dict(widths=(4,), groups=1, use_quant_conv=False, use_post_quant_conv=False,
                shift_factor=0.06, scaling_factor=1.5)  # fmt: skip


def sd3():
    net = D.SD3Transformer2DModel(
        sample_size=SIZE, patch_size=1, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32,
        joint_attention_dim=32, pooled_projection_dim=64,
    )  # fmt: skip
    tokenizer, kind = clip_tokenizer(), T.CLIPTextModelWithProjection
    return D.StableDiffusion3Pipeline(
        transformer=net, vae=vae(**FLOW_VAE), text_encoder=clip(kind), tokenizer=tokenizer,
        text_encoder_2=clip(kind), tokenizer_2=tokenizer, text_encoder_3=t5(),
        tokenizer_3=t5_tokenizer(), scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def flux():
    net = D.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    return D.FluxPipeline(
        scheduler=D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), text_encoder=clip(),
        tokenizer=clip_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
        vae=vae(channels=1, **FLOW_VAE), transformer=net,
    )  # fmt: skip


TEXT = dict(prompt="a b", guidance_scale=4.0)
CALLS = {
    ddpm: {},
    sd: dict(TEXT, height=16, width=16),
    sdxl: dict(TEXT, height=16, width=16),
    dit: dict(class_labels=[1], guidance_scale=2.0),
    pixart: dict(TEXT, negative_prompt="", height=16, width=16, use_resolution_binning=False,
                 clean_caption=False),
    sd3: dict(TEXT, height=8, width=8, max_sequence_length=20),
    flux: dict(prompt="a b", height=8, width=8, max_sequence_length=20),
}  # fmt: skip


def build(make, *args):
    """Return a pipeline of the same random weights each time, silent and in evaluation mode."""
    torch.manual_seed(0)
    pipe = make(*args)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def first(output):
    return torch.as_tensor(output.images[0])
