"""A small random base of every family that is served, made of configurations only."""

from collections.abc import Callable, Mapping

import torch
from diffusers import (
    DiffusionPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    UNet2DConditionModel,
)
from torch import nn

from tests.tiny_bases import tiny_sd, tiny_xl
from tests.tiny_flux import bria_fibo, chroma, flux, flux2, flux2_klein
from tests.tiny_kolors import kolors
from tests.tiny_transformers import (
    aura_flow,
    cogview4,
    ernie_image,
    hidream,
    ideogram4,
    krea2,
    lumina2,
    qwen_image,
    sana,
    sana_sprint,
    sd3,
    z_image,
)


def lcm() -> DiffusionPipeline:
    parts = tiny_sd().components
    unet = UNet2DConditionModel.from_config(parts["unet"].config, time_cond_proj_dim=16)
    scheduler = LCMScheduler.from_config(parts["scheduler"].config)
    return LatentConsistencyModelPipeline(
        **parts | {"unet": unet, "scheduler": scheduler}, requires_safety_checker=False
    )


BUILDERS: Mapping[str, Callable[[], DiffusionPipeline]] = {
    "StableDiffusionPipeline": tiny_sd,
    "StableDiffusionXLPipeline": tiny_xl,
    "KolorsPipeline": kolors,
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
    "ChromaPipeline": chroma,
    "AuraFlowPipeline": aura_flow,
    "SanaPipeline": sana,
    "SanaSprintPipeline": sana_sprint,
    "Lumina2Pipeline": lumina2,
    "CogView4Pipeline": cogview4,
    "HiDreamImagePipeline": hidream,
    "QwenImagePipeline": qwen_image,
    "ZImagePipeline": z_image,
    "Flux2KleinPipeline": flux2_klein,
    "Krea2Pipeline": krea2,
    "ErnieImagePipeline": ernie_image,
    "BriaFiboPipeline": bria_fibo,
    "Ideogram4Pipeline": ideogram4,
    "Flux2Pipeline": flux2,
    "LatentConsistencyModelPipeline": lcm,
}
"""By class name."""


def build(name: str) -> DiffusionPipeline:
    """The base of a family; equal each time. What its class begins with zeros is random, as if trained."""
    torch.manual_seed(0)
    pipeline = BUILDERS[name]()
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.eval()
            for parameter in part.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    nn.init.normal_(parameter, std=0.1)
    return pipeline
