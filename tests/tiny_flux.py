"""Small random bases of FLUX.1, FLUX.2 and what was made after them."""

from diffusers import (
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextModel

from tests.tiny_bases import encoder_config, kl_vae
from tests.tiny_parts import flux2_vae, mistral3_causal, qwen3_causal, smollm3, t5, wan_vae
from tests.tiny_tokenizers import chat_tokenizer, clip_tokenizer, t5_tokenizer


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
        text_encoder_2=t5(32),
        tokenizer_2=t5_tokenizer(),
    )


def _flux2_transformer(**more: object) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 32,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **more,
    )


def flux2() -> DiffusionPipeline:
    return Flux2Pipeline(
        transformer=_flux2_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=mistral3_causal(layers=30),
        tokenizer=chat_tokenizer(),
    )


def flux2_klein() -> DiffusionPipeline:
    return Flux2KleinPipeline(
        transformer=_flux2_transformer(guidance_embeds=False),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=qwen3_causal(layers=27),
        tokenizer=chat_tokenizer(),
    )


def chroma() -> DiffusionPipeline:
    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=kl_vae(shift_factor=0.1),
        text_encoder=t5(32),
        tokenizer=t5_tokenizer(),
    )


def bria_fibo() -> DiffusionPipeline:
    return BriaFiboPipeline(
        transformer=BriaFiboTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            axes_dims_rope=[8, 4, 4],
            text_encoder_dim=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=wan_vae(),
        text_encoder=smollm3(),
        tokenizer=chat_tokenizer(),
    )
