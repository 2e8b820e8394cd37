"""Small random bases of the other families whose denoiser is a transformer."""

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.ideogram4.pipeline_ideogram4 import QWEN3_VL_ACTIVATION_LAYERS
from transformers import CLIPTextModelWithProjection

from tests.tiny_bases import encoder_config, kl_vae
from tests.tiny_parts import (
    dc_vae,
    flux2_vae,
    gemma2,
    glm,
    llama,
    mistral3,
    qwen2_vl,
    qwen3,
    qwen3_vl,
    qwen_vae,
    t5,
    umt5,
)
from tests.tiny_tokenizers import chat_tokenizer, clip_tokenizer, gemma_tokenizer, glm_tokenizer, t5_tokenizer


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
        text_encoder_3=t5(64),
        tokenizer_3=t5_tokenizer(),
    )


def aura_flow() -> DiffusionPipeline:
    return AuraFlowPipeline(
        transformer=AuraFlowTransformer2DModel(
            sample_size=32,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pos_embed_max_size=256,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=kl_vae(),
        text_encoder=umt5(32),
        tokenizer=t5_tokenizer(),
    )


def _sana_transformer(**more: object) -> SanaTransformer2DModel:
    return SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
        sample_size=32,
        **more,
    )


def sana() -> DiffusionPipeline:
    return SanaPipeline(
        transformer=_sana_transformer(),
        scheduler=DPMSolverMultistepScheduler(
            flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
        ),
        vae=dc_vae(),
        text_encoder=gemma2(),
        tokenizer=gemma_tokenizer(),
    )


def sana_sprint() -> DiffusionPipeline:
    return SanaSprintPipeline(
        transformer=_sana_transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads"),
        scheduler=SCMScheduler(),
        vae=dc_vae(),
        text_encoder=gemma2(),
        tokenizer=gemma_tokenizer(),
    )


def lumina2() -> DiffusionPipeline:
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=16,
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=4,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(512, 32, 32),
            cap_feat_dim=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=kl_vae(levels=4, shift_factor=0.1),
        text_encoder=gemma2(),
        tokenizer=gemma_tokenizer(),
    )


def cogview4() -> DiffusionPipeline:
    return CogView4Pipeline(
        transformer=CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
            pos_embed_max_size=32,
            sample_size=16,
            rope_axes_dim=(16, 16),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
        vae=kl_vae(),
        text_encoder=glm(),
        tokenizer=glm_tokenizer(),
    )


def hidream() -> DiffusionPipeline:
    encoder = encoder_config(projection_dim=32, max_position_embeddings=128)
    return HiDreamImagePipeline(
        transformer=HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=[32, 32],
            text_emb_dim=64,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(32, 32),
            llama_layers=[0, 1],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_vae(shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(encoder),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(encoder),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(32),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=llama(),
        tokenizer_4=chat_tokenizer(),
    )


def qwen_image() -> DiffusionPipeline:
    return QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(8, 4, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02
        ),
        vae=qwen_vae(),
        text_encoder=qwen2_vl(),
        tokenizer=chat_tokenizer(),
    )


def z_image() -> DiffusionPipeline:
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 128, 128],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl_vae(shift_factor=0.1),
        text_encoder=qwen3(),
        tokenizer=chat_tokenizer(),
    )


def krea2() -> DiffusionPipeline:
    return Krea2Pipeline(
        transformer=Krea2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=16,
            text_hidden_dim=32,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(8, 4, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=qwen3_vl(),
        tokenizer=chat_tokenizer(),
        text_encoder_select_layers=(1, 2),
    )


def ernie_image() -> DiffusionPipeline:
    return ErnieImagePipeline(
        transformer=ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=2,
            ffn_hidden_size=32,
            in_channels=16,
            out_channels=16,
            text_in_dim=32,
            rope_axes_dim=(8, 4, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flux2_vae(),
        text_encoder=mistral3(),
        tokenizer=chat_tokenizer(),
        pe=None,
        pe_tokenizer=None,
    )


def ideogram4() -> DiffusionPipeline:
    taps = len(QWEN3_VL_ACTIVATION_LAYERS)
    transformers = [
        Ideogram4Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=32 * taps,
            mrope_section=(4, 2, 2),
        )
        for _ in range(2)
    ]
    return Ideogram4Pipeline(
        transformer=transformers[0],
        unconditional_transformer=transformers[1],
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_vae(),
        text_encoder=qwen3_vl(layers=max(QWEN3_VL_ACTIVATION_LAYERS) + 1),
        tokenizer=chat_tokenizer(),
    )
