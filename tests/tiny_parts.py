"""Small random text encoders and VAEs of the real classes, for the bases of `tests/tiny_families.py`."""

from typing import Any

from diffusers import AutoencoderDC, AutoencoderKLFlux2, AutoencoderKLQwenImage, AutoencoderKLWan
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Mistral3Model,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.tiny_tokenizers import VOCABULARY

LANGUAGE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
"""What the configurations of language models have in common."""

T5: dict[str, Any] = {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY}


def t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(T5Config(d_model=width, **T5))


def umt5(width: int) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(d_model=width, **T5))


def gemma2() -> Gemma2Model:
    return Gemma2Model(Gemma2Config(**LANGUAGE))


def glm() -> GlmModel:
    return GlmModel(GlmConfig(**LANGUAGE))


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**LANGUAGE))


def qwen3(layers: int = 2) -> Qwen3Model:
    return Qwen3Model(Qwen3Config(**LANGUAGE | {"num_hidden_layers": layers}))


def qwen3_causal(layers: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**LANGUAGE | {"num_hidden_layers": layers}))


def smollm3() -> SmolLM3ForCausalLM:
    """With as many embeddings as its pipeline's token for an empty prompt, 128000, asks for."""
    return SmolLM3ForCausalLM(SmolLM3Config(**LANGUAGE | {"vocab_size": 128_001}))


def qwen2_vl() -> Qwen2_5_VLForConditionalGeneration:
    text = LANGUAGE | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": LANGUAGE["hidden_size"],
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def qwen3_vl(layers: int = 2) -> Qwen3VLModel:
    text = LANGUAGE | {
        "num_hidden_layers": layers,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": LANGUAGE["hidden_size"],
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision))


def mistral3() -> Mistral3Model:
    return Mistral3Model(_mistral3_config(layers=2))


def mistral3_causal(layers: int) -> Mistral3ForConditionalGeneration:
    return Mistral3ForConditionalGeneration(_mistral3_config(layers))


def _mistral3_config(layers: int) -> Mistral3Config:
    vision = PixtralVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    text = MistralConfig(**LANGUAGE | {"num_hidden_layers": layers})
    return Mistral3Config(text_config=text, vision_config=vision)


def dc_vae() -> AutoencoderDC:
    """Sana's, of 32 pixels per latent."""
    widths = (8,) * 6
    ones = (1,) * 6
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=ones,
        decoder_layers_per_block=ones,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        scaling_factor=0.41407,
    )


def flux2_vae() -> AutoencoderKLFlux2:
    return AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def qwen_vae() -> AutoencoderKLQwenImage:
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return _with_contrast(vae)


def wan_vae() -> AutoencoderKLWan:
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True, False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_spatial=16,
    )
    return _with_contrast(vae)


def _with_contrast(vae: Any) -> Any:
    """The same VAE; its random weights alone give nearly grey pictures, which would prove little."""
    vae.decoder.conv_out.weight.data *= 8
    return vae
