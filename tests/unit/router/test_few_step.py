import pytest

from router.few_step import few_step_defaults
from router.hub_metadata import CardDefaults
from shared.refs import RepoId

STANDARD = "pytorch_lora_weights.safetensors"
EULER = {"guidance_scale": 0.0, "scheduler": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
DDIM = {"scheduler": "DDIMScheduler", "timestep_spacing": "trailing"}
LCM = CardDefaults(steps=4, guidance_scale=1.0, scheduler="LCMScheduler")
FLASH = CardDefaults(steps=4, guidance_scale=0.0, scheduler="LCMScheduler", timestep_spacing="trailing")
TCD = {"guidance_scale": 0.0, "scheduler": "TCDScheduler"}


@pytest.mark.parametrize(
    ("repo", "weight_name", "needs"),
    [
        ("latent-consistency/lcm-lora-sdxl", STANDARD, LCM),
        ("some/collection", "LCM_LoRA_Weights_SD15.safetensors", LCM),
        ("some/collection", "lcm-lora-2000-steps.safetensors", LCM),
        ("some/collection", "lcm_1250steps.safetensors", LCM),
        ("h1t/TCD-SDXL-LoRA", STANDARD, CardDefaults(steps=4, **TCD)),
        ("ByteDance/SDXL-Lightning", "sdxl_lightning_8step_lora.safetensors", CardDefaults(steps=8, **EULER)),
        ("some/mirror", "sdxl_lightning_2step_lora.safetensors", CardDefaults(steps=2, **EULER)),
        (
            "ByteDance/Hyper-SD",
            "Hyper-SDXL-2steps-lora.safetensors",
            CardDefaults(steps=2, guidance_scale=0.0, **DDIM),
        ),
        ("ByteDance/Hyper-SD", "Hyper-SD15-1step-lora.safetensors", CardDefaults(steps=1, **TCD)),
        (
            "ByteDance/Hyper-SD",
            "Hyper-SDXL-12steps-CFG-lora.safetensors",
            CardDefaults(steps=12, guidance_scale=5.0, **DDIM),
        ),
        (
            "ByteDance/Hyper-SD",
            "Hyper-SD3-4steps-CFG-lora.safetensors",
            CardDefaults(steps=4, guidance_scale=5.0, scale=0.125),
        ),
        (
            "ByteDance/Hyper-SD",
            "Hyper-FLUX.1-dev-16steps-lora.safetensors",
            CardDefaults(steps=16, guidance_scale=3.5, scale=0.125),
        ),
        ("openskyml/lcm-lora-sdxl-turbo", STANDARD, LCM),
        ("wangfuyun/PCM_Weights", "sdxl/pcm_sdxl_lcmlike_lora_converted.safetensors", LCM),
        (
            "wangfuyun/PCM_Weights",
            "sdxl/pcm_sdxl_smallcfg_2step_converted.safetensors",
            CardDefaults(steps=2, guidance_scale=1.0, **DDIM),
        ),
        (
            "wangfuyun/PCM_Weights",
            "sd15/pcm_sd15_normalcfg_16step_converted.safetensors",
            CardDefaults(steps=16, guidance_scale=3.0, **DDIM),
        ),
        (
            "tianweiy/DMD2",
            "dmd2_sdxl_4step_lora_fp16.safetensors",
            CardDefaults(steps=4, guidance_scale=0.0, scheduler="LCMScheduler"),
        ),
        ("jasperai/flash-sdxl", STANDARD, FLASH),
        ("jasperai/flash-sd", STANDARD, FLASH),
        (
            "shiroppo/sd_xl_turbo_lora",
            "sd_xl_turbo_lora_v1-128dim.safetensors",
            CardDefaults(steps=4, **(EULER | {"scheduler": "EulerAncestralDiscreteScheduler"})),
        ),
        (
            "alimama-creative/FLUX.1-Turbo-Alpha",
            "diffusion_pytorch_model.safetensors",
            CardDefaults(steps=8, guidance_scale=3.5),
        ),
        ("some/mirror", "flux1-dev-turbo_alpha.safetensors", CardDefaults(steps=8, guidance_scale=3.5)),
        (
            "lightx2v/Qwen-Image-Lightning",
            "Qwen-Image-Lightning-4steps-V1.0.safetensors",
            CardDefaults(steps=4, guidance_scale=1.0),
        ),
    ],
)
def test_a_few_step_adapter_is_known_by_its_name(repo, weight_name, needs):
    assert few_step_defaults(RepoId(repo), weight_name) == needs


@pytest.mark.parametrize(
    ("repo", "weight_name"),
    [
        ("nerijs/pixel-art-xl", "pixel-art-xl.safetensors"),
        ("some/lightning-strikes", STANDARD),
        ("some/lightning-style", "lightning_strikes_2000steps.safetensors"),
        ("some/lightning-style-1500-steps", STANDARD),
        ("some/flux-porsche-911-turbo", STANDARD),
        ("some/hyperrealism", STANDARD),
        ("some/turbo-cars", STANDARD),
        ("some/calculcm", STANDARD),
        ("some/camera-flash-sdxl-style", "flashes.safetensors"),
        ("sd-community/sdxl-flash-lora", STANDARD),
        ("some/pcmag-covers", STANDARD),
    ],
)
def test_no_other_adapter_is_taken_for_one(repo, weight_name):
    assert few_step_defaults(RepoId(repo), weight_name) is None
