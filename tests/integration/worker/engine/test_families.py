"""Each family that is served, against diffusers' own `load_lora_weights` and `fuse_lora`, in float32."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import adapter_files as files
from tests.family_spellings import SPELLINGS
from tests.integration.worker.engine.conftest import activation, open_engine, params
from tests.tiny_families import BUILDERS, build
from worker.engine.contract import AdapterFault
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.families import FAMILIES

SIDE = 64
TOLERANCE = 2
"""Of 255: both merge in float32, in another order of operations."""


def test_every_family_that_is_served_has_a_base_here() -> None:
    assert BUILDERS.keys() == FAMILIES.keys()


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def saved(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        build(name).save_pretrained(folder)
        return folder

    return saved


@pytest.fixture(scope="session")
def opened(folder_of: Callable[[str], Path]) -> Callable[[str], DiffusersEngine]:
    return cache(lambda name: open_engine(folder_of(name)))


@pytest.fixture
def engine(opened: Callable[[str], DiffusersEngine], family: str) -> Iterator[DiffusersEngine]:
    """Whatever a test does to it, the base has to come out of it bit by bit."""
    engine = opened(family)
    before = everything(engine)
    yield engine
    engine.verify()
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(engine).items())


@pytest.fixture
def reference(folder_of: Callable[[str], Path], family: str) -> diffusers.DiffusionPipeline:
    """Plain diffusers on the same weights."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder_of(family))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def everything(engine: DiffusersEngine) -> dict[str, Tensor]:
    """Copies of all weights and buffers of the base."""
    return {
        f"{component}.{name}": tensor.clone()
        for component, part in engine._pipeline.components.items()
        if isinstance(part, nn.Module)
        for name, tensor in (*part.named_parameters(), *part.named_buffers())
    }


def all_linears(engine: DiffusersEngine) -> list[tuple[str, str]]:
    return [
        target
        for component in engine._targets.components
        for target in files.linears(engine._pipeline, component)
    ]


def fused(pipeline: diffusers.DiffusionPipeline, path: Path) -> None:
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(
        components=[name for name in pipeline._lora_loadable_modules if hasattr(pipeline, name)]
    )


def fused_weight(pipeline: diffusers.DiffusionPipeline, name: str) -> Tensor:
    component, _, path = name.partition(".")
    module = getattr(pipeline, component).get_submodule(path)
    return getattr(module, "base_layer", module).weight


def pixels(engine: DiffusersEngine) -> np.ndarray:
    request = params(width=SIDE, height=SIDE)
    return np.asarray(engine.generate(request, lambda *_: None).image).astype(int)


def reference_pixels(pipeline: diffusers.DiffusionPipeline) -> np.ndarray:
    family = type(pipeline).__name__
    image = pipeline(
        prompt=params().prompt,
        num_inference_steps=2,
        width=SIDE,
        height=SIDE,
        generator=torch.Generator("cpu").manual_seed(params().seed),
        **CALLS.get(family, {}),
    ).images[0]
    return np.asarray(image).astype(int)


CALLS: dict[str, dict[str, object]] = {}
"""What a plain call needs beside the prompt to be what the engine does."""


def assert_same_weights(engine: DiffusersEngine, reference: diffusers.DiffusionPipeline) -> None:
    for name, weight in engine._targets.weights.items():
        torch.testing.assert_close(weight, fused_weight(reference, name).data, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", BUILDERS)
def test_an_adapter_gives_the_weights_and_the_picture_that_diffusers_gives(
    engine: DiffusersEngine, reference: diffusers.DiffusionPipeline, tmp_path: Path
) -> None:
    layers = files.random_layers(engine._pipeline, all_linears(engine), rank=lambda n: 2 + n % 3, size=0.1)
    path = files.write(tmp_path / "adapter.safetensors", files.peft(layers))
    bare = pixels(engine)
    assert np.abs(bare - reference_pixels(reference)).max() <= TOLERANCE

    report = engine.activate([activation(engine.ingest(path))])
    assert report.written == len(layers)
    fused(reference, path)
    assert_same_weights(engine, reference)
    ours = pixels(engine)
    assert np.abs(ours - reference_pixels(reference)).max() <= TOLERANCE
    assert np.abs(ours - bare).max() > 10 * TOLERANCE, "an adapter that changes nothing proves nothing"

    engine.activate([])
    assert (pixels(engine) == bare).all()


@pytest.mark.parametrize(
    ("family", "spelling"),
    [(family, spelling) for family, spellings in SPELLINGS.items() for spelling in spellings],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_other_trainers_write_gives_the_weights_that_diffusers_gives(
    engine: DiffusersEngine,
    reference: diffusers.DiffusionPipeline,
    tmp_path: Path,
    spelling: Callable[[diffusers.DiffusionPipeline], dict[str, Tensor]],
) -> None:
    path = files.write(tmp_path / "adapter.safetensors", spelling(engine._pipeline))
    before = path.read_bytes()
    adapter = engine.ingest(path)
    assert adapter.digest == hashlib.sha256(before).hexdigest()
    assert engine.activate([activation(adapter)]).written
    fused(reference, path)
    assert_same_weights(engine, reference)


@pytest.mark.parametrize("family", ["FluxPipeline"])
def test_clips_attention_in_a_kohya_file_for_flux_is_applied_though_diffusers_loses_it(
    engine: DiffusersEngine, tmp_path: Path
) -> None:
    layers = files.random_layers(
        engine._pipeline, files.linears(engine._pipeline, "text_encoder"), alpha=lambda n: 1.0 + n
    )
    adapter = engine.ingest(files.write(tmp_path / "adapter.safetensors", files.kohya(layers)))
    before = {name: weight.clone() for name, weight in engine._targets.weights.items()}
    assert engine.activate([activation(adapter)]).written == len(layers)
    for each in layers:
        name = f"{each.component}.{each.module}"
        wanted = before[name].double() + each.delta()
        torch.testing.assert_close(engine._targets.weights[name].double(), wanted, rtol=2e-6, atol=2e-6)
    engine.activate([])


FLUX_REFUSALS = {
    "a Control LoRA with norms": (
        "transformer.transformer_blocks.0.attn.norm_q.weight",
        (16,),
        "Control LoRA",
    ),
    "one of Black Forest Labs": ("double_blocks.0.img_attn.norm.query_norm.scale", (16,), "Control LoRA"),
    "a Control LoRA that widens the input": ("transformer.x_embedder.lora_A.weight", (4, 32), "Control LoRA"),
    "a layer that the converter would drop": ("lora_te1_encoder_7.lora_up.weight", (4, 4), "format"),
    "a layer of T5": ("text_encoders.t5xxl.transformer.q.lora_up.weight", (4, 4), "dropped"),
}


@pytest.mark.parametrize("family", ["FluxPipeline"])
@pytest.mark.parametrize("name", FLUX_REFUSALS)
def test_what_flux_cannot_take_is_refused_by_name(engine: DiffusersEngine, tmp_path: Path, name: str) -> None:
    key, shape, message = FLUX_REFUSALS[name]
    tensors = SPELLINGS["FluxPipeline"][0](engine._pipeline)
    if key.startswith("transformer."):
        tensors = files.peft(
            files.random_layers(
                engine._pipeline, files.linears(engine._pipeline, "transformer"), rank=lambda _: 4
            )
        )
    path = files.write(tmp_path / "adapter.safetensors", tensors | {key: torch.ones(shape)})
    with pytest.raises(AdapterFault, match=message):
        engine.ingest(path)
