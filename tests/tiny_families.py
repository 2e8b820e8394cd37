"""A small random base of every family that is served, at a few channels, made of configurations only."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests.tiny_bases import encoder_config, kl_vae, tiny_sd, tiny_xl
from tests.tiny_tokenizers import VOCABULARY, clip_tokenizer, t5_tokenizer


def sd3() -> DiffusionPipeline:
    """Its newest form: 3.5, with a second attention in some blocks and normed queries."""
    encoder = encoder_config(projection_dim=32)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_vae(shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(encoder),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(encoder),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_t5(64),
        tokenizer_3=t5_tokenizer(),
    )


def flux() -> DiffusionPipeline:
    """FLUX.1 [dev]: with guidance embeddings, and a shift of the time that depends on the size."""
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
        vae=kl_vae(shift_factor=0.1),
        text_encoder=CLIPTextModel(encoder_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(32),
        tokenizer_2=t5_tokenizer(),
    )


def _t5(width: int) -> T5EncoderModel:
    config: dict[str, Any] = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=VOCABULARY, **config))


BUILDERS: Mapping[str, Callable[[], DiffusionPipeline]] = {
    "StableDiffusionPipeline": tiny_sd,
    "StableDiffusionXLPipeline": tiny_xl,
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
}
"""By class name."""


def build(name: str) -> DiffusionPipeline:
    """The base of a family; equal each time."""
    torch.manual_seed(0)
    return BUILDERS[name]()
