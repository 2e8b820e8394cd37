"""JSON as the Hub gives it, for repositories as they are found there."""

from typing import Any

SHA = "9f4a2b1c0d3e5f60718293a4b5c6d7e8f9012345"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def document(repo: str, files: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """The keys that every answer has."""
    return {
        "_id": "6540f0a1",
        "id": repo,
        "sha": SHA,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "siblings": [{"rfilename": name} for name in (".gitattributes", "README.md", *files)],
        **changes,
    }


PIXEL_ART = document(
    "nerijs/pixel-art-xl",
    ("pixel-art-xl.safetensors",),
    library_name="diffusers",
    pipeline_tag="text-to-image",
    tags=["diffusers", "text-to-image", "lora", f"base_model:{SDXL}", f"base_model:adapter:{SDXL}"],
    baseModels={"relation": "adapter", "models": [{"_id": "64b", "id": SDXL}]},
    cardData={"base_model": SDXL, "instance_prompt": "pixel art", "tags": ["lora"]},
)

LCM = document(
    "latent-consistency/lcm-lora-sdxl",
    ("pytorch_lora_weights.safetensors",),
    library_name="diffusers",
    tags=["diffusers", "lora", f"base_model:adapter:{SDXL}"],
    cardData={
        "base_model": SDXL,
        "inference": {
            "parameters": {"num_inference_steps": 4, "guidance_scale": 1.0, "scheduler": "LCMScheduler"}
        },
    },
)

BASE = document(
    SDXL,
    ("model_index.json", "unet/diffusion_pytorch_model.safetensors"),
    library_name="diffusers",
    tags=["diffusers", "diffusers:StableDiffusionXLPipeline"],
    config={"diffusers": {"_class_name": "StableDiffusionXLPipeline"}},
)
