"""Adapters with random factors, written in the spellings found in the wild, and what they should do."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Layer:
    component: str
    module: str
    up: Tensor
    down: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> Tensor:
        """The change at strength 1, in float64: a convolution of convolutions for kernels."""
        up, down = self.up.double(), self.down.double()
        product = torch.einsum("or...,ri...->oi...", up, down)
        return product * self.alpha / self.rank


def random_layers(
    pipeline: object,
    modules: Iterable[tuple[str, str]],
    *,
    rank: Callable[[int], int] = lambda _: 4,
    alpha: Callable[[int], float] | None = None,
    seed: int = 0,
    size: float = 0.2,
    dtype: torch.dtype = torch.float32,
) -> list[Layer]:
    """Random factors for `modules`, given as component and path; rank and alpha by their number."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for number, (component, path) in enumerate(modules):
        weight = getattr(pipeline, component).get_submodule(path).weight
        inner = rank(number)
        ones = (1,) * (weight.ndim - 2)
        up = torch.randn(weight.shape[0], inner, *ones, generator=generator) * size
        down = torch.randn(inner, *weight.shape[1:], generator=generator) * size
        layers.append(
            Layer(
                component=component,
                module=path,
                up=up.to(dtype),
                down=down.to(dtype),
                alpha=alpha(number) if alpha else inner,
            )
        )
    return layers


def linears(pipeline: object, component: str, *ends: str) -> list[tuple[str, str]]:
    """All linear modules of a component, or those whose path ends so."""
    return [
        (component, path)
        for path, module in getattr(pipeline, component).named_modules()
        if isinstance(module, nn.Linear) and (not ends or path.endswith(ends))
    ]


def convolutions(pipeline: object) -> list[tuple[str, str]]:
    return [("unet", path) for path, module in pipeline.unet.named_modules() if isinstance(module, nn.Conv2d)]


def peft(layers: Iterable[Layer]) -> dict[str, Tensor]:
    """What diffusers and PEFT write today; without a config, alpha is the rank."""
    return {
        f"{each.component}.{each.module}.lora_{letter}.weight": tensor
        for each in layers
        for letter, tensor in (("A", each.down), ("B", each.up))
    }


def old_diffusers(layers: Iterable[Layer]) -> dict[str, Tensor]:
    """What diffusers wrote before PEFT: attention processors in the UNet, `lora_linear_layer` in CLIP."""
    tensors = {}
    for each in layers:
        name = f"{each.component}.{each.module}"
        if each.component != "unet":
            name = f"{each.component}.text_model.{each.module.removeprefix('text_model.')}.lora_linear_layer"
        elif ".attn" in name:
            block, _, projection = name.partition(".to_")
            name = f"{block}.processor.to_{projection.removesuffix('.0')}_lora"
        else:
            name = f"{name}.lora"
        tensors |= {f"{name}.down.weight": each.down, f"{name}.up.weight": each.up}
    return tensors


def kohya(layers: Iterable[Layer], names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """What sd-scripts writes: alpha in a key of its own; `names` gives other names for UNet modules."""
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    tensors = {}
    for each in layers:
        module = each.module
        if each.component != "unet":
            module = f"text_model.{module.removeprefix('text_model.')}"
        elif names:
            module = names[module]
        name = prefixes[each.component] + module.replace(".", "_")
        tensors |= {
            f"{name}.lora_down.weight": each.down,
            f"{name}.lora_up.weight": each.up,
            f"{name}.alpha": torch.tensor(float(each.alpha)),
        }
    return tensors


def peft_config(layers: Iterable[Layer], **more: object) -> dict[str, str]:
    """The header that diffusers writes beside PEFT's keys: ranks and alphas of each component."""
    fields: dict[str, object] = {}
    for each in layers:
        component = each.component
        fields.setdefault(f"{component}.r", 8)
        fields.setdefault(f"{component}.lora_alpha", 8)
        for pattern, value in (("rank_pattern", each.rank), ("alpha_pattern", each.alpha)):
            fields.setdefault(f"{component}.{pattern}", {})[each.module] = value
        modules = fields.setdefault(f"{component}.target_modules", [])
        modules.append(each.module)
        fields |= {f"{component}.{name}": value for name, value in more.items()}
    return {"lora_adapter_metadata": json.dumps(fields)}


def write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> Path:
    save_file(
        {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()},
        path,
        {"format": "pt", **(header or {})},
    )
    return path


def with_factor(layers: list[Layer], number: int, **changes: Tensor) -> list[Layer]:
    """The same layers with a factor of one of them replaced."""
    return [replace(each, **changes) if index == number else each for index, each in enumerate(layers)]
