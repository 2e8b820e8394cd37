"""Adapters as other trainers write them, for the families whose converter diffusers ships.

Each function returns a file's tensors for the tiny base of `tests/tiny_families.py`: random factors, with
fused projections and alphas where the trainer writes such.
"""

from collections.abc import Callable, Mapping

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from tests import adapter_files as files

Tensors = dict[str, Tensor]

FLUX_BLOCK = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
}
"""sd-scripts' names of a FLUX double block's modules, by diffusers' modules that they fuse."""


def factors(
    pipeline: DiffusionPipeline, modules: list[str], seed: int, rank: int = 3
) -> tuple[Tensor, Tensor]:
    """Up and down of the fused `modules` of the transformer: `[sum of out, rank]` and `[rank, in]`."""
    weights = [pipeline.transformer.get_submodule(module).weight for module in modules]
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(sum(weight.shape[0] for weight in weights), rank, generator=generator)
    return up * 0.1, torch.randn(rank, weights[0].shape[1], generator=generator) * 0.1


def flux_kohya(pipeline: DiffusionPipeline) -> Tensors:
    """sd-scripts: fused projections, an alpha for each, and layers of CLIP.

    Not CLIP's attention: diffusers 0.42 loses it on the way, with a warning in the log.
    """
    tensors = files.kohya(
        files.random_layers(
            pipeline, files.linears(pipeline, "text_encoder", "fc1", "fc2"), alpha=lambda _: 2
        )
    )
    for block in range(len(pipeline.transformer.transformer_blocks)):
        for number, (name, modules) in enumerate(FLUX_BLOCK.items()):
            paths = [f"transformer_blocks.{block}.{module}" for module in modules]
            up, down = factors(pipeline, paths, number)
            key = f"lora_unet_double_blocks_{block}_{name}"
            tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
            tensors[f"{key}.alpha"] = torch.tensor(1.0 + number)
    return tensors


def flux_comfy(pipeline: DiffusionPipeline) -> Tensors:
    """ComfyUI's prefix before Black Forest Labs' names."""
    tensors = {}
    for name, modules in FLUX_BLOCK.items():
        up, down = factors(pipeline, [f"transformer_blocks.1.{module}" for module in modules], len(tensors))
        key = f"diffusion_model.double_blocks.1.{dotted(name)}"
        tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
    return tensors


def flux_xlabs(pipeline: DiffusionPipeline) -> Tensors:
    """XLabs: processors with fused projections, without alpha."""
    places = {
        "double_blocks.0.processor.qkv_lora1": [f"transformer_blocks.0.attn.to_{name}" for name in "qkv"],
        "double_blocks.0.processor.qkv_lora2": [
            f"transformer_blocks.0.attn.add_{name}_proj" for name in "qkv"
        ],
        "double_blocks.1.processor.proj_lora1": ["transformer_blocks.1.attn.to_out.0"],
        "double_blocks.1.processor.proj_lora2": ["transformer_blocks.1.attn.to_add_out"],
        "single_blocks.0.processor.qkv_lora": [
            f"single_transformer_blocks.0.attn.to_{name}" for name in "qkv"
        ],
        "single_blocks.1.processor.proj_lora": ["single_transformer_blocks.1.proj_out"],
    }
    tensors = {}
    for key, modules in places.items():
        up, down = factors(pipeline, modules, len(tensors))
        tensors |= {f"{key}.up.weight": up, f"{key}.down.weight": down}
    return tensors


def flux_with_alphas(pipeline: DiffusionPipeline) -> Tensors:
    """PEFT's names with an alpha beside each layer, as some trainers leave them."""
    layers = files.random_layers(pipeline, files.linears(pipeline, "transformer"), size=0.1)
    alphas = {f"transformer.{each.module}.alpha": torch.tensor(2.0) for each in layers}
    return files.peft(layers) | alphas


def flat_kohya(pipeline: DiffusionPipeline) -> Tensors:
    """sd-scripts and musubi-tuner: diffusers' own paths with underscores, and an alpha for each layer."""
    tensors = {}
    for number, (_, module) in enumerate(files.linears(pipeline, "transformer")):
        up, down = factors(pipeline, [module], number)
        key = f"lora_unet_{module.replace('.', '_')}"
        tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
        tensors[f"{key}.alpha"] = torch.tensor(1.0 + number % 3)
    return tensors


def comfy(pipeline: DiffusionPipeline) -> Tensors:
    """ComfyUI's prefix before diffusers' own paths."""
    layers = files.random_layers(pipeline, files.linears(pipeline, "transformer"), size=0.1)
    return {
        key.replace("transformer.", "diffusion_model.", 1): tensor
        for key, tensor in files.peft(layers).items()
    }


def fused(pipeline: DiffusionPipeline, modules: Mapping[str, tuple[str, ...]], *, kohya: bool) -> Tensors:
    """Layers by the names of a model's authors, each with the modules of diffusers that it fuses."""
    up_name, down_name = ("lora_up", "lora_down") if kohya else ("lora_B", "lora_A")
    tensors = {}
    for number, (key, paths) in enumerate(modules.items()):
        up, down = factors(pipeline, list(paths), number)
        tensors |= {f"{key}.{up_name}.weight": up, f"{key}.{down_name}.weight": down}
        if kohya:
            tensors[f"{key}.alpha"] = torch.tensor(1.0 + number)
    return tensors


FLUX2_BLOCK = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.linear_in",),
    "img_mlp_2": ("ff.linear_out",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
}
FLUX2_SINGLE = "single_transformer_blocks.0.attn"


def flux2_kohya(pipeline: DiffusionPipeline) -> Tensors:
    modules = {
        f"lora_unet_double_blocks_0_{name}": tuple(f"transformer_blocks.0.{path}" for path in paths)
        for name, paths in FLUX2_BLOCK.items()
    }
    modules["lora_unet_single_blocks_0_linear1"] = (f"{FLUX2_SINGLE}.to_qkv_mlp_proj",)
    modules["lora_unet_single_blocks_0_linear2"] = (f"{FLUX2_SINGLE}.to_out",)
    return fused(pipeline, modules, kohya=True)


def flux2_comfy(pipeline: DiffusionPipeline) -> Tensors:
    modules = {
        f"diffusion_model.double_blocks.0.{dotted(name)}": tuple(
            f"transformer_blocks.0.{path}" for path in paths
        )
        for name, paths in FLUX2_BLOCK.items()
    }
    modules["diffusion_model.single_blocks.0.linear1"] = (f"{FLUX2_SINGLE}.to_qkv_mlp_proj",)
    modules["diffusion_model.img_in"] = ("x_embedder",)
    return fused(pipeline, modules, kohya=False)


def krea2_toolkit(pipeline: DiffusionPipeline) -> Tensors:
    """AI-Toolkit: PEFT's prefix before Krea's names."""
    modules = {
        "base_model.model.blocks.0.attn.wq": ("transformer_blocks.0.attn.to_q",),
        "base_model.model.blocks.1.attn.wo": ("transformer_blocks.1.attn.to_out.0",),
        "base_model.model.blocks.1.mlp.up": ("transformer_blocks.1.ff.up",),
        "base_model.model.txtfusion.refiner_blocks.0.attn.gate": (
            "text_fusion.refiner_blocks.0.attn.to_gate",
        ),
        "base_model.model.last.linear": ("final_layer.linear",),
    }
    return fused(pipeline, modules, kohya=False)


def ideogram4_kohya(pipeline: DiffusionPipeline) -> Tensors:
    modules = {
        "diffusion_model.layers.0.attention.qkv": tuple(f"layers.0.attention.to_{name}" for name in "qkv"),
        "diffusion_model.layers.0.attention.o": ("layers.0.attention.to_out.0",),
        "diffusion_model.layers.0.feed_forward.w2": ("layers.0.feed_forward.w2",),
    }
    return fused(pipeline, modules, kohya=True)


def dotted(name: str) -> str:
    """ComfyUI's spelling of sd-scripts' names."""
    return (
        name.replace("_qkv", ".qkv").replace("_proj", ".proj").replace("mlp_", "mlp.").replace("_lin", ".lin")
    )


SPELLINGS: Mapping[str, tuple[Callable[[DiffusionPipeline], Tensors], ...]] = {
    "FluxPipeline": (flux_kohya, flux_comfy, flux_xlabs, flux_with_alphas),
    "Flux2Pipeline": (flux2_kohya, flux2_comfy),
    "HiDreamImagePipeline": (comfy,),
    "QwenImagePipeline": (flat_kohya, comfy),
    "ZImagePipeline": (flat_kohya, comfy),
    "Krea2Pipeline": (krea2_toolkit,),
    "Ideogram4Pipeline": (ideogram4_kohya,),
}
"""By class name of the family. Lumina2's converter has the sizes of its one real model in it."""
