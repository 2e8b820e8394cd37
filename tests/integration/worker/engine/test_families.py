"""Each family that is served, against diffusers' own `load_lora_weights` and `fuse_lora`, in float32."""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from shared.errors import InvalidRequest, UnsupportedModel
from tests import adapter_files as files
from tests.family_spellings import SPELLINGS
from tests.integration.worker.engine.conftest import activation, open_engine, params
from tests.tiny_families import BUILDERS, build
from worker.engine.contract import AdapterFault, Interrupted
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.families import FAMILIES, find_family
from worker.engine.slab import TENSOR_NBYTES, moved
from worker.engine.snapshot import choose_files

SIDE = 64
SMALL_AREA = 32
"""Latents per side; HiDream scales each picture to the area that this gives."""

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")

TOLERANCE = 2
"""Of 255: both merge in float32, in another order of operations."""


NOT_BUILT = {
    "QwenImage21Pipeline": "its processor needs torchvision",
    "BriaFibo2Pipeline": "its processor needs torchvision",
    "Kandinsky5T2IPipeline": "its processor needs torchvision",
    "Kandinsky3Pipeline": "nothing could be compared: diffusers' loader fails on its UNet",
}
"""Text-to-image families with a LoRA loader that are not served, and why no base of theirs is built here."""


def test_every_family_that_is_served_has_a_base_here() -> None:
    assert BUILDERS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("name", NOT_BUILT)
def test_families_that_cannot_be_tried_here_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"{name} is not served: it"):
        find_family(name)


def test_diffusers_still_cannot_load_a_lora_into_kandinsky_3() -> None:
    assert not hasattr(diffusers.Kandinsky3UNet, "load_lora_adapter")


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
    return cache(lambda name: at_a_small_area(open_engine(folder_of(name))))


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
    pipeline.default_sample_size = SMALL_AREA
    return pipeline


def at_a_small_area(engine: DiffusersEngine) -> DiffusersEngine:
    engine._pipeline.default_sample_size = SMALL_AREA
    return engine


def everything(engine: DiffusersEngine) -> dict[str, Tensor]:
    """Copies of all weights and buffers of the base."""
    return {
        f"{component}.{name}": tensor.clone()
        for component, part in engine._pipeline.components.items()
        if isinstance(part, nn.Module)
        for name, tensor in (*part.named_parameters(), *part.named_buffers())
    }


def all_linears(engine: DiffusersEngine) -> list[tuple[str, str]]:
    """All but a language model's output layer, which no picture depends on and which shares its weight."""
    return [
        (component, module)
        for component in engine._targets.components
        for _, module in files.linears(engine._pipeline, component)
        if module != "lm_head"
    ]


def random_layers(engine: DiffusersEngine) -> list[files.Layer]:
    """Of mixed ranks in the denoiser; diffusers loads none such into a text encoder that is not CLIP."""
    denoiser, *encoders = engine._targets.components
    if engine.info.pipeline_class in ("ChromaPipeline", "KolorsPipeline"):
        encoders = []  # diffusers' loader does not understand T5's names, nor ChatGLM's
    targets = all_linears(engine)
    return [
        layer
        for component in (denoiser, *encoders)
        for layer in files.random_layers(
            engine._pipeline,
            [target for target in targets if target[0] == component],
            rank=(lambda n: 2 + n % 3) if component == denoiser else (lambda _: 4),
            size=0.1,
        )
    ]


def fused(pipeline: diffusers.DiffusionPipeline, path: Path) -> None:
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(
        components=[name for name in pipeline._lora_loadable_modules if hasattr(pipeline, name)]
    )


def fused_weight(pipeline: diffusers.DiffusionPipeline, name: str) -> Tensor:
    component, _, path = name.partition(".")
    module = getattr(pipeline, component).get_submodule(path.removesuffix(".bias"))
    return getattr(getattr(module, "base_layer", module), "bias" if path.endswith(".bias") else "weight")


def pixels(engine: DiffusersEngine, **changes: object) -> np.ndarray:
    request = params(**{"width": SIDE, "height": SIDE} | changes)
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


CALLS: dict[str, dict[str, object]] = {
    "ErnieImagePipeline": {"use_pe": False},
    "Ideogram4Pipeline": {"guidance_scale": 7.0, "guidance_schedule": None},
    "QwenImagePipeline": {"negative_prompt": " "},
    "SanaPipeline": {"use_resolution_binning": False},
    "SanaSprintPipeline": {"use_resolution_binning": False},
}
"""What a plain call needs to be what the engine does, as the model cards have it."""


def assert_same_weights(engine: DiffusersEngine, reference: diffusers.DiffusionPipeline) -> None:
    for name, weight in engine._targets.weights.items():
        torch.testing.assert_close(weight, fused_weight(reference, name).data, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", BUILDERS)
def test_an_adapter_gives_the_weights_and_the_picture_that_diffusers_gives(
    engine: DiffusersEngine, reference: diffusers.DiffusionPipeline, tmp_path: Path
) -> None:
    layers = random_layers(engine)
    path = files.write(tmp_path / "adapter.safetensors", files.peft(layers))
    bare = pixels(engine)
    assert np.abs(bare - reference_pixels(reference)).max() <= TOLERANCE

    report = engine.activate([activation(engine.ingest(path))])
    assert report.written == len(layers)
    fused(reference, path)
    assert_same_weights(engine, reference)
    ours = pixels(engine)
    assert np.abs(ours - reference_pixels(reference)).max() <= TOLERANCE
    assert np.abs(ours - bare).max() > 2 * TOLERANCE, "an adapter that changes nothing proves nothing"

    engine.activate([])
    assert (pixels(engine) == bare).all()


@pytest.mark.parametrize("family", BUILDERS)
def test_every_file_that_the_base_is_loaded_from_is_downloaded(
    folder_of: Callable[[str], Path], family: str
) -> None:
    folder = folder_of(family)
    saved = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    index = json.loads((folder / "model_index.json").read_bytes())
    assert set(choose_files(index, saved, half=False)[0]) == saved


@pytest.mark.parametrize("family", [name for name in BUILDERS if not FAMILIES[name].any_scheduler])
def test_every_other_scheduler_that_is_offered_draws_the_same_picture_twice(engine: DiffusersEngine) -> None:
    for name in {*engine._drawing._schedulers.names} - {engine.info.default_scheduler}:
        first, second = (pixels(engine, scheduler=name) for _ in range(2))
        assert (first == second).all(), name


@pytest.mark.parametrize("family", [name for name in BUILDERS if not FAMILIES[name].takes_negative])
def test_a_negative_prompt_that_would_have_no_effect_is_refused(engine: DiffusersEngine) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        pixels(engine, negative_prompt="blue")
    assert refusal.value.field == "parameters.negative_prompt"


@pytest.mark.parametrize("family", [name for name in BUILDERS if FAMILIES[name].takes_negative])
def test_a_negative_prompt_and_the_guidance_have_an_effect_and_are_gone_for_the_next_job(
    engine: DiffusersEngine,
) -> None:
    before = pixels(engine)
    assert (pixels(engine, negative_prompt="blue") != before).any()
    assert (pixels(engine, guidance_scale=2.0) != before).any()
    with pytest.raises(Interrupted):
        engine.generate(params(width=SIDE, height=SIDE, negative_prompt="blue"), interrupt)
    assert (pixels(engine) == before).all()


def interrupt(done: int, total: int) -> None:
    raise Interrupted


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
    assert adapter.digest.result() == hashlib.sha256(before).hexdigest()
    buffers: list[Tensor] = []
    moved(adapter, lambda buffer: buffers.append(buffer) or buffer)
    (slab,) = buffers
    assert adapter.nbytes == slab.nbytes + TENSOR_NBYTES * len(list(adapter.tensors))
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


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("blocks", ["double_blocks", "single_blocks", "blocks", "layers"])
def test_a_block_of_a_huge_number_is_refused_at_once(
    engine: DiffusersEngine, tmp_path: Path, blocks: str
) -> None:
    key = f"diffusion_model.{blocks}.99999999999.attn.qkv"
    tensors = {f"{key}.lora_A.weight": torch.ones(1, 1), f"{key}.lora_B.weight": torch.ones(1, 1)}
    with pytest.raises(AdapterFault, match="four digits"):
        engine.ingest(files.write(tmp_path / "adapter.safetensors", tensors))


@pytest.mark.parametrize("family", ["QwenImagePipeline"])
def test_a_difference_of_a_norm_of_diffusers_own_class_is_applied(
    engine: DiffusersEngine, tmp_path: Path
) -> None:
    norms = [
        f"transformer.{path}"
        for path, module in engine._pipeline.transformer.named_modules()
        if type(module) is RMSNorm
    ]
    before = {name: engine._targets.weights[name].clone() for name in norms}
    tensors = {f"{name}.diff": torch.rand_like(weight) for name, weight in before.items()}
    path = files.write(tmp_path / "adapter.safetensors", tensors)
    assert engine.activate([activation(engine.ingest(path), 0.5)]).written == len(norms) > 1
    for name, weight in before.items():
        wanted = weight + 0.5 * tensors[f"{name}.diff"]
        torch.testing.assert_close(engine._targets.weights[name], wanted)
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
