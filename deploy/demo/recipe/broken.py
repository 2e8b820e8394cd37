"""Small repositories that a service must refuse, each for one reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from deploy.demo.recipe.formats import Form, Update, Updates, named
from deploy.demo.recipe.parts import CHANNELS, NARROW, WIDE

ATTENTION: Final = "mid_block.attentions.0.transformer_blocks.0"
FILE: Final = "pytorch_lora_weights.safetensors"
RANK: Final = 4


def _update(width_in: int, width_out: int, seed: int) -> Update:
    generator = torch.Generator().manual_seed(seed)
    return Update(
        down=torch.randn(RANK, width_in, generator=generator) * 0.1,
        up=torch.randn(width_out, RANK, generator=generator) * 0.1,
        alpha=RANK,
    )


def _small_updates(module: str = ATTENTION, width: int = CHANNELS[-1]) -> Updates:
    """Low-rank changes of one attention block, of the XL base's widths unless told otherwise."""
    context = NARROW + WIDE if width == CHANNELS[-1] else 768
    layers = {
        "attn1.to_q": (width, width),
        "attn1.to_v": (width, width),
        "attn2.to_k": (context, width),
        "attn2.to_v": (context, width),
    }
    return {
        "unet": {
            f"{module}.{name}": _update(*widths, seed) for seed, (name, widths) in enumerate(layers.items())
        }
    }


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, {"format": "pt"})


def _peft(updates: Updates) -> dict[str, Tensor]:
    return named(updates, Form.PEFT, two_encoders=True)


def _llm_adapter(folder: Path) -> None:
    config = {
        "base_model_name_or_path": "meta-llama/Llama-3.2-1B",
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors: dict[str, Tensor] = {}
    for layer in range(2):
        for name in ("q_proj", "v_proj"):
            update = _update(64, 64, layer)
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = update.down.half()
            tensors[f"{stem}.lora_B.weight"] = update.up.half()
    _save(tensors, folder / "adapter_model.safetensors")


def _wrong_shapes(folder: Path) -> None:
    _save(_peft(_small_updates(width=320)), folder / FILE)


def _nan_weights(folder: Path) -> None:
    tensors = _peft(_small_updates())
    tensors[f"unet.{ATTENTION}.attn1.to_q.lora_B.weight"][3, 1] = torch.nan
    _save(tensors, folder / FILE)


def _truncated(folder: Path) -> None:
    path = folder / FILE
    _save(_peft(_small_updates()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 5])


def _pickle_only(folder: Path) -> None:
    # The one pickle of the project, made to be refused: plain tensors, nothing that runs.
    torch.save(_peft(_small_updates()), folder / "pytorch_lora_weights.bin")


def _valid(folder: Path) -> None:
    _save(_peft(_small_updates()), folder / FILE)


def _unserved_base(folder: Path) -> None:
    module = "down_blocks.1.attentions.0.transformer_blocks.0"
    updates = {
        "unet": {
            f"{module}.attn1.to_q": _update(640, 640, 1),
            f"{module}.attn2.to_k": _update(2048, 640, 2),
        }
    }
    _save(_peft(updates), folder / FILE)


def _wrong_keys(folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for block in range(2):
        for name in ("to_q", "to_k", "to_v"):
            update = _update(64, 64, block)
            stem = f"transformer.single_transformer_blocks.{block}.attn.{name}"
            tensors[f"{stem}.lora_A.weight"] = update.down.half()
            tensors[f"{stem}.lora_B.weight"] = update.up.half()
    _save(tensors, folder / FILE)


def _no_such_layer(folder: Path) -> None:
    _save(_peft(_small_updates("down_blocks.7.attentions.4.blocks.0")), folder / FILE)


BROKEN: Final[dict[str, Callable[[Path], None]]] = {
    "llm-adapter": _llm_adapter,
    "wrong-shapes": _wrong_shapes,
    "nan-weights": _nan_weights,
    "truncated": _truncated,
    "pickle-only": _pickle_only,
    "no-base-model": _valid,
    "unserved-base": _unserved_base,
    "wrong-keys": _wrong_keys,
    "no-such-layer": _no_such_layer,
    "disabled": _valid,
}


def write_broken(hub: Path) -> None:
    """Writes the weights of every repository under `broken/`; cards come from another stage."""
    for name, make in BROKEN.items():
        folder = hub / "broken" / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        make(folder)
