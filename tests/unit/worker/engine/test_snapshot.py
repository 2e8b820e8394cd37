"""Which files of a base are fetched."""

import pytest

from shared.errors import UnsupportedModel
from worker.engine.snapshot import choose_files, quantised_from

INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.42.1",
    "force_zeros_for_empty_prompt": True,
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "image_encoder": [None, None],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
SMALL = [
    "model_index.json",
    "README.md",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/spiece.model",
    "unet/config.json",
]
FULL = ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
HALF = ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"]
SHARDS = [
    "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
    "text_encoder/model.fp16.safetensors",
]
STRANGE = [
    ".gitattributes",
    "sd_xl_base_1.0.safetensors",
    "unet/model.onnx",
    "unet/openvino_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_flax_model.msgpack",
    "unet/evil.py",
    "unet/other.safetensors",
    "safety_checker/model.safetensors",
    "vae_1_0/diffusion_pytorch_model.safetensors",
]


def chosen(files: list[str], *, half: bool = False, replaced: str | None = None) -> set[str]:
    return {*choose_files(INDEX, files, half=half, replaced=replaced)[0]}


def test_the_parts_files_and_no_others() -> None:
    assert chosen(SMALL + FULL + HALF + STRANGE) == {*SMALL, *FULL}


def test_the_half_precision_variant_and_its_shards() -> None:
    assert chosen(SMALL + FULL + SHARDS, half=True) == {*SMALL, *SHARDS}


@pytest.mark.parametrize(
    ("files", "half", "variant"),
    [
        (FULL, True, None),
        (FULL + HALF, True, "fp16"),
        (FULL + HALF, False, None),
        (FULL + SHARDS, True, "fp16"),
        (HALF, False, "fp16"),
        (FULL + HALF[:1], True, "fp16"),
        (FULL + HALF[:1], False, None),
        (FULL[:1] + HALF[1:], False, "fp16"),
        ([*FULL, "vae_1_0/diffusion_pytorch_model.fp16.safetensors"], True, None),
    ],
)
def test_the_variant(files: list[str], half: bool, variant: str | None) -> None:
    assert choose_files(INDEX, files, half=half)[1] == variant


def test_a_part_without_the_variant_comes_as_it_is() -> None:
    assert chosen(SMALL + FULL + HALF[1:], half=True) == {*SMALL, FULL[0], HALF[1]}


def test_of_a_part_that_is_replaced_only_its_settings_are_needed() -> None:
    files = [*SMALL, FULL[1]]
    assert chosen(files, replaced="unet") == set(files)
    assert chosen([*files, FULL[0], HALF[0]], half=True, replaced="unet") == set(files)
    with pytest.raises(UnsupportedModel, match="unet has no safetensors weights"):
        chosen(files)


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model-Q4_K_S.gguf"])
def test_a_part_without_safetensors_is_refused(other: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"text_encoder has no safetensors weights; .*GGUF"):
        chosen([*SMALL, FULL[0], f"text_encoder/{other}"])


@pytest.mark.parametrize(
    ("tags", "original"),
    [
        (["base_model:lab/flux", "base_model:quantized:lab/flux", "diffusers"], "lab/flux"),
        (["base_model:lab/flux", "base_model:finetune:lab/flux"], None),
        (["base_model:quantized:lab/one", "base_model:quantized:lab/other"], None),
        (["base_model:quantized:./flux"], None),
        ([], None),
    ],
)
def test_a_copy_is_what_its_repository_says_is_quantised_from_one_model(
    tags: list[str], original: str | None
) -> None:
    assert quantised_from(tags) == original
