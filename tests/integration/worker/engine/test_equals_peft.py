"""Each kind that PEFT has, made and merged by PEFT: the weights are the same."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model_state_dict
from peft import inject_adapter_in_model as inject
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tests import adapter_files as files
from tests.integration.worker.engine.conftest import activation
from worker.engine.diffusers_engine import DiffusersEngine

TARGETS = ["to_q", "to_out.0", "proj_in", "conv1", "conv_shortcut", "time_emb_proj", "fc1", "out_proj"]
"""Linear layers, convolutions of 1x1 and 3x3; those of the UNet and of the text encoders."""

CONFIGS: dict[str, PeftConfig] = {
    "LoRA": LoraConfig(r=3, lora_alpha=2, target_modules=TARGETS),
    "LoRA, rank-stabilised": LoraConfig(r=3, lora_alpha=2, use_rslora=True, target_modules=TARGETS),
    "LoRA with a bias": LoraConfig(r=3, lora_alpha=2, lora_bias=True, target_modules=["proj_in", "conv1"]),
    "DoRA": LoraConfig(r=3, lora_alpha=2, use_dora=True, target_modules=TARGETS),
    "DoRA, rank-stabilised": LoraConfig(
        r=4, lora_alpha=2, use_dora=True, use_rslora=True, target_modules=TARGETS
    ),
    "LoHa": LoHaConfig(r=3, alpha=2, target_modules=TARGETS),
    "LoHa, Tucker": LoHaConfig(r=3, alpha=2, use_effective_conv2d=True, target_modules=TARGETS),
    "LoKr": LoKrConfig(r=2, alpha=3, target_modules=TARGETS),
    "LoKr, both in factors": LoKrConfig(r=1, alpha=3, decompose_both=True, target_modules=TARGETS),
    "LoKr, Tucker": LoKrConfig(
        r=1, alpha=3, use_effective_conv2d=True, decompose_factor=4, target_modules=TARGETS
    ),
    "LoKr, both whole": LoKrConfig(r=64, alpha=3, target_modules=TARGETS),
}

Spelling = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """All that PEFT initialises, at a size that matters; magnitudes away from the weight's own norms."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand(parameter.shape, generator=generator)
        elif any(part in name for part in ("lora_", "hada_", "lokr_")):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def adapted(engine: DiffusersEngine, component: str, config: PeftConfig, seed: int = 0) -> nn.Module:
    model = copy.deepcopy(engine._pipeline.components[component])
    return randomised(inject(copy.deepcopy(config), model), seed).eval()


def merged(model: nn.Module, strength: float) -> Iterator[tuple[str, Tensor]]:
    """Weights and biases of the adapted layers, merged by PEFT."""
    for path, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_scale("default", strength)
            layer.merge(safe_merge=True)
            yield path, layer.get_base_layer().weight.detach()
            if layer.get_base_layer().bias is not None:
                yield f"{path}.bias", layer.get_base_layer().bias.detach()


def spelled(component: str, model: nn.Module) -> dict[str, Tensor]:
    return {f"{component}.{key}": tensor for key, tensor in get_peft_model_state_dict(model).items()}


def header(configs: dict[str, PeftConfig]) -> dict[str, str]:
    fields = {
        f"{component}.{name}": sorted(value) if isinstance(value, set) else value
        for component, config in configs.items()
        for name, value in config.to_dict().items()
    }
    return {"lora_adapter_metadata": json.dumps(fields, default=str)}


@pytest.mark.filterwarnings("ignore:.*invalid shape")  # of every bias of its own
@pytest.mark.parametrize(("kind", "strength"), [(kind, (1.0, 0.6)[n % 2]) for n, kind in enumerate(CONFIGS)])
def test_the_weights_that_peft_merges(
    xl: DiffusersEngine, tmp_path: Path, kind: str, strength: float
) -> None:
    parts = {"unet": CONFIGS[kind]}
    if "bias" not in kind:
        parts["text_encoder_2"] = CONFIGS[kind]
    models = {component: adapted(xl, component, config) for component, config in parts.items()}
    tensors = {}
    for component, model in models.items():
        tensors |= spelled(component, model)
    path = files.write(tmp_path / "a.safetensors", tensors, header(parts))

    adapter = xl.ingest(path)
    xl.activate([activation(adapter, strength)])
    changed = set()
    for component, model in models.items():
        ours = xl._pipeline.components[component]
        for name, weight in merged(model, strength):
            module, _, _ = name.partition(".bias")
            layer = ours.get_submodule(module)
            actual = layer.bias if name.endswith(".bias") else layer.weight
            torch.testing.assert_close(
                actual, weight, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
            changed.add(f"{component}.{name}")
    assert adapter.changes.keys() <= changed
    assert not adapter.warnings
    xl.activate([])


@pytest.mark.parametrize("kind", ["DoRA", "LoHa", "LoKr"])
def test_a_file_of_the_unet_alone_without_its_name(xl: DiffusersEngine, tmp_path: Path, kind: str) -> None:
    """As `unet.save_lora_adapter` and PEFT's `save_pretrained` write it, with and without PEFT's root."""
    model = adapted(xl, "unet", CONFIGS[kind])
    plain: dict[str, Tensor] = get_peft_model_state_dict(model)
    config = {"lora_adapter_metadata": json.dumps(CONFIGS[kind].to_dict(), default=str)}
    spellings = {
        "named": ({f"unet.{key}": tensor for key, tensor in plain.items()}, header({"unet": CONFIGS[kind]})),
        "bare": (plain, config),
        "rooted": ({f"base_model.model.{key}": tensor for key, tensor in plain.items()}, config),
    }
    weights = {}
    for name, (tensors, head) in spellings.items():
        xl.activate([activation(xl.ingest(files.write(tmp_path / f"{name}.safetensors", tensors, head)))])
        weights[name] = [each.detach().clone() for each in xl._pipeline.unet.parameters()]
    xl.activate([])
    for name in ("bare", "rooted"):
        assert all(torch.equal(*pair) for pair in zip(weights[name], weights["named"], strict=True))
