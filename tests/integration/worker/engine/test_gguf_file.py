"""Bases whose denoiser is a GGUF file, from the file to pictures, against diffusers' own reading of it."""

from collections.abc import Callable
from functools import cache, reduce
from pathlib import Path
from unittest import mock

import diffusers
import gguf
import numpy as np
import pytest
import torch
from diffusers import GGUFQuantizationConfig
from torch import Tensor

from shared.errors import UnsupportedModel
from shared.refs import RepoId
from tests import adapter_files, gguf_files
from tests.integration.worker.engine.conftest import COMMIT, activation, params
from tests.tiny_families import build
from worker.engine.contract import BaseDamaged, SwapReport
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.families import denoiser_name
from worker.engine.load import open_base
from worker.engine.snapshot import DenoiserFile, Snapshot

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")

TOLERANCE = 1
"""Of 255."""

BASE, FILES = RepoId("tests/tiny"), RepoId("tests/tiny-gguf")
FILE_COMMIT = "f" * 40
KINDS = gguf.GGMLQuantizationType


Z_IMAGE = (
    ("final_layer.", "all_final_layer.2-1."),
    ("x_embedder.", "all_x_embedder.2-1."),
    (".attention.out.", ".attention.to_out.0."),
    (".attention.k_norm.", ".attention.norm_k."),
    (".attention.q_norm.", ".attention.norm_q."),
)
"""Parts of its authors' names, and of diffusers'."""


def original_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Z-Image's weights as its authors write them: queries, keys and values in one."""
    found = {}
    for name, weight in weights.items():
        before, query, _ = name.partition(".attention.to_q.")
        if query:
            three = [weights[f"{before}.attention.to_{letter}.weight"] for letter in "qkv"]
            found[f"{before}.attention.qkv.weight"] = torch.cat(three)
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            found[reduce(lambda text, pair: text.replace(*pair[::-1]), Z_IMAGE, name)] = weight
    return found


def as_they_are(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights


STORED = {
    "FLUX in 8 bits": ("FluxPipeline", KINDS.Q8_0, as_they_are),
    "FLUX in 4 bits": ("FluxPipeline", KINDS.Q4_0, as_they_are),
    "SDXL": ("StableDiffusionXLPipeline", KINDS.Q8_0, as_they_are),
    "Z-Image in its authors' names": ("ZImagePipeline", KINDS.Q8_0, original_names),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def saved(family: str) -> Path:
        """What is fetched of a base: no weights of its denoiser."""
        folder, pipeline = tmp_path_factory.mktemp("base"), build(family)
        pipeline.save_pretrained(folder)
        for path in (folder / denoiser_name(pipeline.components)).glob("*.safetensors"):
            path.unlink()
        return folder

    return saved


def opened(folder: Path, file: Path, dtype: torch.dtype = torch.float32) -> DiffusersEngine:
    denoiser = DenoiserFile(path=file, repo=FILES, name=file.name, revision=FILE_COMMIT, copy_of=BASE)
    snapshot = Snapshot(folder=folder, revision=COMMIT, variant=None, denoiser=denoiser)
    return open_base(BASE, snapshot, device=torch.device("cpu"), dtype=dtype)


def pixels(engine: DiffusersEngine) -> np.ndarray:
    return np.asarray(engine.generate(params(width=64, height=64), lambda *_: None).image).astype(int)


def reference_pixels(folder: Path, file: Path, adapter: Path) -> np.ndarray:
    index = diffusers.DiffusionPipeline.load_config(folder)
    part = "unet" if "unet" in index else "transformer"
    denoiser = getattr(diffusers, index[part][1]).from_single_file(
        str(file),
        config=str(folder),
        subfolder=part,
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
    )
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **{part: denoiser})
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(adapter.parent, weight_name=adapter.name)
    generator = torch.Generator("cpu").manual_seed(params().seed)
    images = pipeline(params().prompt, width=64, height=64, num_inference_steps=2, generator=generator).images
    return np.asarray(images[0]).astype(int)


@pytest.mark.parametrize(("family", "kind", "named"), STORED.values(), ids=STORED)
def test_a_base_of_a_file_draws_what_diffusers_draws_and_comes_out_as_it_was(
    family: str,
    kind: gguf.GGMLQuantizationType,
    named: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    folder_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    plain = build(family)
    part = denoiser_name(plain.components)
    weights = named(gguf_files.weights_of(plain.components[part]))
    file, folder = gguf_files.write(tmp_path / "tiny.gguf", weights, kind), folder_of(family)
    layers = adapter_files.random_layers(plain, adapter_files.linears(plain, part))
    path = adapter_files.write(tmp_path / "adapter.safetensors", adapter_files.peft(layers))

    engine = opened(folder, file)
    info = engine.info
    assert (info.adapters, info.dtype, info.device) == ("unmerged", "float32", "cpu")
    assert (info.repo, info.revision, info.copy_of) == (FILES, FILE_COMMIT, BASE)
    assert (info.denoiser_file, info.other_parts) == ("tiny.gguf", f"{BASE}@{COMMIT}")
    bare = pixels(engine)
    adapter = engine.ingest(path)
    assert engine.activate([activation(adapter)]) == SwapReport(written=len(layers), restored=0)
    ours = pixels(engine)
    assert np.abs(ours - bare).max() > 10 * TOLERANCE
    assert np.abs(ours - reference_pixels(folder, file, path)).max() <= TOLERANCE
    engine.activate([activation(adapter, 0.3)])
    engine.activate([])
    assert (pixels(engine) == bare).all()
    engine.verify()

    next(iter(engine._targets.kept.values())).weight.as_tensor().view(-1)[0] += 1
    with pytest.raises(BaseDamaged):
        engine.verify()


def tiny_flux() -> dict[str, Tensor]:
    return gguf_files.weights_of(build("FluxPipeline").transformer)


def test_half_precision(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    engine = opened(
        folder_of("FluxPipeline"), gguf_files.write(tmp_path / "f.gguf", tiny_flux()), torch.bfloat16
    )
    assert engine.info.dtype == "bfloat16"
    pixels(engine)
    engine.verify()


def test_what_is_no_linear_layer_is_made_plain(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    weights = tiny_flux()
    kind = KINDS.BF16
    file = gguf_files.write(tmp_path / "f.gguf", weights, kind, quantise=lambda *_: True)
    engine = opened(folder_of("FluxPipeline"), file)
    norm = engine._pipeline.transformer.transformer_blocks[0].attn.norm_q.weight
    assert torch.equal(norm, weights["transformer_blocks.0.attn.norm_q.weight"].bfloat16().float())
    pixels(engine)


def without(weights: dict[str, Tensor], word: str) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if word not in name}


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "of another model": (lambda _: {"input_blocks.0.weight": torch.ones(2, 2)}, "FluxTransformer2DModel"),
    "with a block less": (lambda all_: without(all_, "transformer_blocks.1."), "FluxTransformer2DModel"),
    "with a layer of another shape": (
        lambda all_: all_ | {"proj_out.weight": torch.ones(8, 8)},
        "proj_out.weight",
    ),
}


@pytest.mark.parametrize(("change", "said"), MISFITS.values(), ids=MISFITS)
def test_a_file_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    said: str,
    folder_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    file = gguf_files.write(tmp_path / "f.gguf", change(tiny_flux()))
    with pytest.raises(UnsupportedModel, match=rf"f\.gguf .*{said}"):
        opened(folder_of("FluxPipeline"), file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda all_: without(all_, "layers.0.attention.qkv"),
            r"it lacks 'layers\.0\.attention\.to_k\.weight', 3",
        ),
        (lambda all_: all_ | {"layers.7.extra": torch.ones(2)}, r"no place for 'layers\.7\.extra', 1 in all"),
    ],
)
def test_weights_too_few_or_too_many_are_named(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    said: str,
    folder_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    weights = original_names(gguf_files.weights_of(build("ZImagePipeline").transformer))
    file = gguf_files.write(tmp_path / "f.gguf", change(weights))
    with pytest.raises(UnsupportedModel, match=said):
        opened(folder_of("ZImagePipeline"), file)


@pytest.mark.parametrize("kept", [0, 3, 20, 60, 4000, -1])
def test_a_file_that_is_cut_off_is_refused(
    kept: int, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    file = gguf_files.write(tmp_path / "f.gguf", tiny_flux())
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UnsupportedModel, match=r"f\.gguf"):
        opened(folder_of("FluxPipeline"), file)


def test_without_its_library_it_is_refused_before_anything_is_loaded(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with (
        mock.patch("worker.engine.quantisers.find_spec", return_value=None),
        pytest.raises(UnsupportedModel, match=r"not installed, gguf; .*`quantised`"),
    ):
        opened(folder_of("FluxPipeline"), tmp_path / "f.gguf")
