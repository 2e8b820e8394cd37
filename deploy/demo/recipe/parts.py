"""The two bases' networks: SDXL's and Stable Diffusion's structure in small."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from deploy.demo.recipe.scenes import SIZE
from deploy.demo.recipe.tokenizer import MAX_LENGTH, new_tokenizer
from deploy.demo.recipe.vae import FACTOR, LATENT_CHANNELS

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline

CHANNELS: Final = (32, 48, 64)
HEADS: Final = (2, 3, 4)
GROUPS: Final = 8
NARROW: Final = 48
"""Width of the only (XL: the first) text encoder."""
WIDE: Final = 64
"""Width of the second text encoder and of its pooled projection."""
TIME_ID_WIDTH: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A base's trainable networks; `second` is None for the Stable Diffusion structure."""

    unet: UNet2DConditionModel
    first: CLIPTextModel
    second: CLIPTextModelWithProjection | None
    tokenizer: CLIPTokenizer

    def networks(self) -> dict[str, torch.nn.Module]:
        """The networks by the name of the folder in which a pipeline keeps them."""
        found: dict[str, torch.nn.Module] = {"unet": self.unet, "text_encoder": self.first}
        return found if self.second is None else {**found, "text_encoder_2": self.second}

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All weights, named as `<network>.<weight>`."""
        return {
            f"{part}.{name}": weight
            for part, network in self.networks().items()
            for name, weight in network.named_parameters()
        }

    def tokens(self, captions: list[str]) -> Tensor:
        """Token ids (n, MAX_LENGTH), padded as the pipelines pad them."""
        batch = self.tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_LENGTH)
        return torch.tensor(batch["input_ids"])


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 16,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=WIDE,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_xl() -> Parts:
    """SDXL's structure: no attention at the finest level, text also pooled, size as time ids."""
    tokenizer = new_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIZE // FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=CHANNELS,
        layers_per_block=2,
        transformer_layers_per_block=[1, 1, 1],
        attention_head_dim=list(HEADS),
        cross_attention_dim=NARROW + WIDE,
        norm_num_groups=GROUPS,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=WIDE + 6 * TIME_ID_WIDTH,
    )
    return Parts(
        unet=unet,
        first=CLIPTextModel(_text_config(tokenizer, NARROW)),
        second=CLIPTextModelWithProjection(_text_config(tokenizer, WIDE)),
        tokenizer=tokenizer,
    )


def new_sd() -> Parts:
    """Stable Diffusion's structure: one text encoder, attention at the two finest levels."""
    tokenizer = new_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIZE // FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        attention_head_dim=list(HEADS),
        cross_attention_dim=NARROW,
        norm_num_groups=GROUPS,
    )
    first = CLIPTextModel(_text_config(tokenizer, NARROW))
    return Parts(unet=unet, first=first, second=None, tokenizer=tokenizer)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, rescaled so that the last step is pure noise.

    Zero terminal SNR, v-prediction and trailing steps belong together: "Common Diffusion Noise
    Schedules and Sample Steps are Flawed" (Lin et al., 2023).
    """
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def conditions(parts: Parts, ids: Tensor) -> tuple[Tensor, dict[str, Tensor] | None]:
    """What the pipelines feed the UNet for token ids: context (n, 32, width) and extra inputs."""
    if parts.second is None:
        return parts.first(ids).last_hidden_state, None
    # SDXL reads the last layer but one of both encoders, and the pooled output of the second.
    first = parts.first(ids, output_hidden_states=True).hidden_states[-2]
    wide = parts.second(ids, output_hidden_states=True)
    sizes = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=first.dtype)
    extra = {"text_embeds": wide.text_embeds, "time_ids": sizes.expand(len(ids), -1)}
    return torch.cat([first, wide.hidden_states[-2]], -1), extra


def assemble(parts: Parts, vae: AutoencoderKL) -> Pipeline:
    """Puts the networks into the pipeline that diffusers loads for such a repository."""
    scheduler = new_scheduler()
    if parts.second is None:
        return StableDiffusionPipeline(
            vae=vae, text_encoder=parts.first, tokenizer=parts.tokenizer, unet=parts.unet,
            scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=vae, text_encoder=parts.first, text_encoder_2=parts.second, tokenizer=parts.tokenizer,
        tokenizer_2=new_tokenizer(), unet=parts.unet, scheduler=scheduler,
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip


def parts_of(pipeline: Pipeline) -> Parts:
    """A loaded pipeline's networks, to train adapters on them."""
    return Parts(
        unet=pipeline.unet,
        first=pipeline.text_encoder,
        second=getattr(pipeline, "text_encoder_2", None),
        tokenizer=pipeline.tokenizer,
    )


def load(folder: Path) -> Pipeline:
    """Loads an exported base in float32, as any user of it would."""
    kind = StableDiffusionXLPipeline if "xl" in folder.name else StableDiffusionPipeline
    pipeline: Pipeline = kind.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
