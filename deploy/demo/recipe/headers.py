"""File headers of adapters, as the training tools of the wild write them."""

import json
from typing import Final

from deploy.demo.recipe.adapters import ENCODER, Adapter
from deploy.demo.recipe.formats import Updates

MADE: Final = "1700000000.0"
"""A fixed time stamp, so that a file made twice is the same file."""


def peft_header(adapter: Adapter, updates: Updates) -> dict[str, str]:
    """The `lora_adapter_metadata` of diffusers (since 0.34): the PEFT configuration as JSON."""
    config: dict[str, object] = {}
    for component, modules in updates.items():
        settings = {
            "peft_type": "LORA",
            "r": adapter.rank,
            "lora_alpha": adapter.alpha,
            "target_modules": sorted(modules) if component == "unet" else ENCODER,
            "rank_pattern": dict(adapter.ranks),
            "alpha_pattern": {},
            "bias": "none",
            "lora_dropout": 0.0,
            "init_lora_weights": "gaussian",
            "use_dora": False,
            "use_rslora": False,
        }
        config |= {f"{component}.{key}": value for key, value in settings.items()}
    return {"lora_adapter_metadata": json.dumps(config, indent=2, sort_keys=True)}


def kohya_header(adapter: Adapter, pictures: int) -> dict[str, str]:
    """What sd-scripts writes: `ss_*` keys and Stability's modelspec."""
    xl = adapter.base == "shapes-xl"
    family = "stable-diffusion-xl-v1-base" if xl else "stable-diffusion-v1"
    tags = {f"10_{adapter.trigger}": {adapter.trigger: pictures}}
    convolution = json.dumps({"conv_dim": str(adapter.rank), "conv_alpha": str(adapter.alpha)})
    return {
        "ss_base_model_version": "sdxl_base_v1-0" if xl else "sd_v1",
        "ss_sd_model_name": f"{adapter.base}.safetensors",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(adapter.rank),
        "ss_network_alpha": str(adapter.alpha),
        "ss_network_args": convolution if "resnets" in adapter.targets else "{}",
        "ss_output_name": adapter.file.removesuffix(".safetensors"),
        "ss_v2": "False",
        "ss_v_parameterization": "True",
        "ss_zero_terminal_snr": "True",
        "ss_resolution": "(64, 64)",
        "ss_mixed_precision": "no",
        "ss_optimizer": "torch.optim.adamw.AdamW",
        "ss_learning_rate": str(adapter.rate),
        "ss_lr_scheduler": "cosine",
        "ss_steps": str(adapter.steps),
        "ss_num_train_images": str(pictures),
        "ss_seed": "3",
        "ss_training_started_at": MADE,
        "ss_tag_frequency": json.dumps(tags),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{family}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": adapter.repo,
        "modelspec.resolution": "64x64",
        "modelspec.prediction_type": "v",
        "modelspec.trigger_phrase": adapter.trigger,
    }
