"""Writes one trained adapter in the forms that are found on the Hub."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """One layer's low-rank change: scale alpha / rank times `up @ down`."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of `down`, columns of `up`."""
        return int(self.down.shape[0])


Updates = dict[str, dict[str, Update]]
"""Component (`unet`, `text_encoder`, `text_encoder_2`) -> module path -> change."""


class Form(StrEnum):
    """How the tensors of an adapter file are named."""

    PEFT = "peft"  # unet.<module>.lora_A.weight: diffusers since 0.23, PEFT
    DIFFUSERS = "diffusers"  # unet.<module>.lora.down.weight: diffusers 0.17 to 0.22
    KOHYA = "kohya"  # lora_unet_down_blocks_...: sd-scripts, names of diffusers
    KOHYA_SGM = "kohya-sgm"  # lora_unet_input_blocks_...: sd-scripts on SDXL


_RESNET: Final = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def _inner(rest: list[str]) -> str:
    return ".".join(_RESNET.get(part, part) for part in rest)


def sgm_name(module: str, layers_per_block: int = 2) -> str:
    """The name that Stability's own SDXL code gives to a module of diffusers' UNet.

    `down_blocks.1.attentions.0.proj_in` -> `input_blocks.4.1.proj_in`.
    """
    where, *rest = module.split(".")
    stride = layers_per_block + 1
    if where == "mid_block":
        kind, index, *rest = rest
        position = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{position}.{_inner(rest)}"
    if where not in {"down_blocks", "up_blocks"}:
        outer = {"conv_in": "input_blocks.0.0", "conv_out": "out.2"}
        return outer[module]
    block, kind, index, *rest = rest
    if kind == "downsamplers":
        return f"input_blocks.{stride * (int(block) + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{stride * int(block) + layers_per_block}.2.conv"
    position = stride * int(block) + int(index)
    inner = 1 if kind == "attentions" else 0
    if where == "down_blocks":
        return f"input_blocks.{position + 1}.{inner}.{_inner(rest)}"
    return f"output_blocks.{position}.{inner}.{_inner(rest)}"


def _kohya_prefix(component: str, *, two_encoders: bool) -> str:
    if component == "unet":
        return "lora_unet_"
    if component == "text_encoder_2":
        return "lora_te2_"
    return "lora_te1_" if two_encoders else "lora_te_"


def _encoder_module(module: str) -> str:
    # Transformers no longer has the `text_model` level that files keep to this day.
    outer = ("text_model.", "text_projection")
    return module if module.startswith(outer) else f"text_model.{module}"


def _kohya_module(component: str, module: str, form: Form) -> str:
    if component != "unet":
        name = _encoder_module(module)
    else:
        name = sgm_name(module) if form is Form.KOHYA_SGM else module
    return name.replace(".", "_")


def named(updates: Updates, form: Form, *, two_encoders: bool) -> dict[str, Tensor]:
    """All tensors of an adapter under their names in a form, in half precision."""
    tensors: dict[str, Tensor] = {}
    for component, modules in updates.items():
        for module, update in modules.items():
            down, up = update.down.half().contiguous(), update.up.half().contiguous()
            path = f"{component}.{module if component == 'unet' else _encoder_module(module)}"
            if form is Form.PEFT:
                tensors[f"{path}.lora_A.weight"] = down
                tensors[f"{path}.lora_B.weight"] = up
            elif form is Form.DIFFUSERS:
                tensors[f"{path}.lora.down.weight"] = down
                tensors[f"{path}.lora.up.weight"] = up
            else:
                prefix = _kohya_prefix(component, two_encoders=two_encoders)
                stem = f"{prefix}{_kohya_module(component, module, form)}"
                tensors[f"{stem}.lora_down.weight"] = down
                tensors[f"{stem}.lora_up.weight"] = up
                tensors[f"{stem}.alpha"] = torch.tensor(update.alpha).half()
    return tensors


def folded(updates: Updates) -> Updates:
    """The same change with alpha equal to the rank, for forms that cannot say alpha."""
    return {
        component: {
            module: Update(down=update.down, up=update.up * (update.alpha / update.rank), alpha=update.rank)
            for module, update in modules.items()
        }
        for component, modules in updates.items()
    }


def resized(updates: Updates, rank: int, strength: float) -> Updates:
    """The nearest changes of a smaller rank, at another strength.

    The singular values that are left out are the smallest, as in sd-scripts' `resize_lora.py`.
    """
    smaller: Updates = {}
    for component, modules in updates.items():
        smaller[component] = {}
        for module, update in modules.items():
            scale = strength * update.alpha / update.rank
            product = update.up.flatten(1) @ update.down.flatten(1) * scale
            left, values, right = torch.linalg.svd(product, full_matrices=False)
            root = values[:rank].sqrt()
            smaller[component][module] = Update(
                down=(root[:, None] * right[:rank]).view(rank, *update.down.shape[1:]),
                up=(left[:, :rank] * root).view(-1, rank, *update.up.shape[2:]),
                alpha=rank,
            )
    return smaller


def write(updates: Updates, form: Form, path: Path, header: dict[str, str], *, two_encoders: bool) -> None:
    """Writes an adapter file; forms without alpha get it folded in, unless the header says it."""
    carries_alpha = form in {Form.KOHYA, Form.KOHYA_SGM} or "lora_adapter_metadata" in header
    tensors = named(updates if carries_alpha else folded(updates), form, two_encoders=two_encoders)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"format": "pt"} | header)
