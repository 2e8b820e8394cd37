"""The reference arm of the swap's benches: what the original did with plain diffusers and PEFT."""

from pathlib import Path
from typing import Any

from tests.bench.swap_bases import activation
from worker.engine.adapter import CanonicalAdapter
from worker.engine.diffusers_engine import DiffusersEngine

PARTS = ["unet", "text_encoder", "text_encoder_2"]


def cycle(pipeline: Any, path: Path) -> None:
    """What the original did for every request with another adapter."""
    load(pipeline, path)
    unload(pipeline)


def load(pipeline: Any, path: Path) -> None:
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(components=parts(pipeline))


def unload(pipeline: Any) -> None:
    pipeline.unfuse_lora(components=parts(pipeline))
    pipeline.unload_lora_weights()


def parts(pipeline: Any) -> list[str]:
    return [name for name in PARTS if name in pipeline.components]


def difference(engine: DiffusersEngine, reference: Any, adapter: CanonicalAdapter, path: Path) -> float:
    """Return by how much our weights differ from fused ones: both arms did the same work."""
    pristine = {name: weight.clone() for name, weight in reference.unet.state_dict().items()}
    engine.activate([activation(adapter, path)])
    load(reference, path)
    fused = {
        name.replace(".base_layer", ""): weight
        for name, weight in reference.unet.state_dict().items()
        if "lora_" not in name
    }
    largest = max(
        (weight.float() - fused[name].float()).abs().max().item()
        for name, weight in engine._pipeline.unet.state_dict().items()
    )
    reference.unload_lora_weights()
    reference.unet.load_state_dict(pristine)
    return largest
