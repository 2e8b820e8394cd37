"""Bases that are stored quantised, from their files to pictures, against diffusers' unmerged layers."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from diffusers import BitsAndBytesConfig, TorchAoConfig
from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer, BnB8BitDiffusersQuantizer
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig
from transformers import BitsAndBytesConfig as EncoderConfig
from transformers import T5EncoderModel

from shared.errors import UnsupportedModel
from tests import adapter_files as files
from tests.integration.worker.engine.conftest import activation, open_engine, params
from tests.tiny_families import build
from worker.engine.contract import BaseDamaged, SwapReport
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.families import denoiser_name
from worker.engine.snapshot import choose_files

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    # PEFT says of torchao's layers that it could not merge into them, which is not asked of it
    pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without:UserWarning"),
]

TOLERANCE = 1
"""Of 255."""

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
CONFIGS: dict[str, Callable[[], object]] = {
    "nf4": lambda: BitsAndBytesConfig(**NF4),
    "int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "torchao": lambda: TorchAoConfig(Int8WeightOnlyConfig()),
}
STORED = [
    ("FluxPipeline", "nf4"),
    ("FluxPipeline", "int8"),
    ("FluxPipeline", "torchao"),
    ("StableDiffusionXLPipeline", "nf4"),
]
"""Families, and the quantiser of the denoiser."""


@pytest.fixture(scope="module", autouse=True)
def cpu_in_a_gpus_place() -> Iterator[None]:
    """Have the CPU read what bitsandbytes wrote: it can, and diffusers does not let it.

    And as on a GPU, weights stay as they are stored: some CPUs have them packed anew for themselves.
    """
    with ExitStack() as patches:
        for kind in (BnB4BitDiffusersQuantizer, BnB8BitDiffusersQuantizer):
            patches.enter_context(mock.patch.object(kind, "validate_environment"))
            patches.enter_context(mock.patch.object(kind, "update_device_map", return_value={"": "cpu"}))
        patches.enter_context(mock.patch("bitsandbytes.nn.modules.has_avx512bf16", return_value=False))
        patches.enter_context(mock.patch("worker.engine.quantisers._BITSANDBYTES", "none"))
        yield


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    @cache
    def stored(family: str, quantiser: str) -> Path:
        """As such repositories are made: read with a quantiser, and saved again."""
        plain, folder = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp(quantiser)
        pipeline = build(family)
        pipeline.save_pretrained(plain)
        name = denoiser_name(pipeline.components)
        quantised = {
            name: type(pipeline.components[name]).from_pretrained(
                plain / name, quantization_config=CONFIGS[quantiser](), dtype=torch.float32
            )
        }
        if (family, quantiser) == ("FluxPipeline", "nf4"):
            quantised["text_encoder_2"] = T5EncoderModel.from_pretrained(
                plain / "text_encoder_2", quantization_config=EncoderConfig(**NF4), dtype=torch.float32
            )
        type(pipeline)(**pipeline.components | quantised).save_pretrained(folder)
        return folder

    return stored


@pytest.fixture(params=STORED, ids="-".join)
def stored(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def folder(folder_of: Callable[[str, str], Path], stored: tuple[str, str]) -> Path:
    return folder_of(*stored)


def pixels(engine: DiffusersEngine) -> np.ndarray:
    image = engine.generate(params(width=64, height=64), lambda *_: None).image
    return np.asarray(image).astype(int)


def reference_pixels(folder: Path, adapter: Path) -> np.ndarray:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(adapter.parent, weight_name=adapter.name)
    generator = torch.Generator("cpu").manual_seed(params().seed)
    image = pipeline(params().prompt, width=64, height=64, num_inference_steps=2, generator=generator).images[
        0
    ]
    return np.asarray(image).astype(int)


def adapter_for(family: str, folder: Path) -> tuple[Path, int]:
    """A file for all linear layers of denoiser and CLIP, and their number."""
    plain = build(family)
    targets = files.linears(plain, denoiser_name(plain.components)) + files.linears(plain, "text_encoder")
    layers = files.random_layers(plain, targets)
    return files.write(folder / "adapter.safetensors", files.peft(layers)), len(layers)


def test_a_stored_base_draws_what_diffusers_draws_and_comes_out_as_it_was(
    folder: Path, stored: tuple[str, str], tmp_path: Path
) -> None:
    engine = open_engine(folder)
    assert (engine.info.adapters, engine.info.dtype, engine.info.device) == ("unmerged", "float32", "cpu")
    bare = pixels(engine)
    path, layers = adapter_for(stored[0], tmp_path)
    adapter = engine.ingest(path)
    assert engine.activate([activation(adapter)]) == SwapReport(written=layers, restored=0)
    ours = pixels(engine)
    assert np.abs(ours - bare).max() > 10 * TOLERANCE
    assert np.abs(ours - reference_pixels(folder, path)).max() <= TOLERANCE
    engine.activate([activation(adapter, 0.3)])
    engine.activate([])
    assert (pixels(engine) == bare).all()
    engine.verify()

    weight = next(iter(engine._targets.kept.values())).weight
    numbers = getattr(weight, "qdata", weight.data)
    numbers.view(-1)[0] += 1
    with pytest.raises(BaseDamaged):
        engine.verify()


def test_every_file_that_it_is_loaded_from_is_downloaded(folder: Path) -> None:
    saved = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    index = json.loads((folder / "model_index.json").read_bytes())
    assert set(choose_files(index, saved, half=True)[0]) == saved


def test_without_its_library_it_is_refused_before_anything_is_loaded(
    folder_of: Callable[[str, str], Path],
) -> None:
    folder = folder_of("FluxPipeline", "torchao")
    with (
        mock.patch("worker.engine.quantisers.find_spec", return_value=None),
        mock.patch.object(diffusers.FluxPipeline, "from_pretrained") as loader,
        pytest.raises(UnsupportedModel, match="not installed, torchao: its transformer is"),
    ):
        open_engine(folder)
    assert not loader.called


def test_parts_in_half_precision_beside_a_quantised_one_are_loaded(
    folder_of: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = folder_of("FluxPipeline", "torchao")
    for path in folder.rglob("*"):
        where = tmp_path / path.relative_to(folder)
        if path.is_dir():
            where.mkdir()
        elif path.suffix == ".safetensors" and path.parent.name != "transformer":
            where.with_suffix(".fp16.safetensors").symlink_to(path)
        else:
            where.symlink_to(path)
    engine = open_engine(tmp_path, variant="fp16")
    assert engine.info.adapters == "unmerged"
    pixels(engine)


@pytest.mark.parametrize("stored", [("FluxPipeline", "nf4")], ids="-".join)
def test_a_base_computes_in_its_own_format_whatever_its_parts_were_stored_in(folder: Path) -> None:
    engine = open_engine(folder, dtype=torch.bfloat16)
    parts = [part for part in engine._pipeline.components.values() if isinstance(part, nn.Module)]
    pixels(engine)
    layers = [module for part in parts for module in part.modules() if isinstance(module, Linear4bit)]
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    assert {part.dtype for part in parts} == {torch.bfloat16}
    engine.verify()
