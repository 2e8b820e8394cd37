"""What is said of bases that are stored quantised before anything of them is loaded."""

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

from shared.errors import UnsupportedModel
from shared.refs import RepoId
from worker.engine.quantisers import check_quantisers, quantisers_of

INDEX = {
    "_class_name": "FluxPipeline",
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
}
CPU, GPU = torch.device("cpu"), torch.device("cuda")
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
INT8 = {"quant_method": "torchao"}


def write(folder: Path, part: str, **settings: object) -> None:
    (folder / part).mkdir()
    (folder / part / "config.json").write_text(json.dumps(settings))


def check(folder: Path, device: torch.device, *, installed: bool = True) -> None:
    with mock.patch("worker.engine.quantisers.find_spec", return_value=installed or None):
        check_quantisers(RepoId("a/b"), folder, INDEX, device)


def test_the_parts_that_are_quantised_and_by_what(tmp_path: Path) -> None:
    write(tmp_path, "transformer", quantization_config={"load_in_4bit": True})
    write(tmp_path, "text_encoder", quantization_config=INT8)
    write(tmp_path, "scheduler", quantization_config=None)
    assert dict(quantisers_of(tmp_path, INDEX)) == {"transformer": "bitsandbytes", "text_encoder": "torchao"}


def test_plain_parts_are_read_anywhere(tmp_path: Path) -> None:
    write(tmp_path, "transformer")
    check(tmp_path, CPU, installed=False)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize("settings", [NF4, INT8], ids=["bitsandbytes", "torchao"])
def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, part: str, settings: dict[str, object]
) -> None:
    write(tmp_path, part, quantization_config=settings)
    with pytest.raises(UnsupportedModel, match=f"not installed, {settings['quant_method']}: its {part} is"):
        check(tmp_path, GPU, installed=False)
    check(tmp_path, GPU)


def test_a_denoiser_of_bitsandbytes_needs_a_gpu(tmp_path: Path) -> None:
    write(tmp_path, "text_encoder", quantization_config=NF4)
    check(tmp_path, CPU)
    write(tmp_path, "transformer", quantization_config=NF4)
    check(tmp_path, GPU)
    with pytest.raises(UnsupportedModel, match="a/b needs a GPU: its transformer is"):
        check(tmp_path, CPU)
