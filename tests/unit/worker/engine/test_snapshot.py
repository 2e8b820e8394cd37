"""Which files of a base are fetched."""

import pytest

from shared.errors import UnsupportedModel
from worker.engine.snapshot import choose_variant, needed_files, quantised_from

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


def test_the_parts_files_and_no_others() -> None:
    assert set(needed_files(INDEX, SMALL + FULL + HALF + STRANGE, None)) == {*SMALL, *FULL}


def test_the_half_precision_variant_and_its_shards() -> None:
    assert set(needed_files(INDEX, SMALL + FULL + SHARDS, "fp16")) == {*SMALL, *SHARDS}


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
    assert choose_variant(INDEX, files, half=half) == variant


def test_a_part_without_the_variant_comes_as_it_is() -> None:
    assert set(needed_files(INDEX, SMALL + FULL + HALF[1:], "fp16")) == {*SMALL, FULL[0], HALF[1]}


def test_of_a_part_that_is_replaced_only_its_settings_are_needed() -> None:
    files = [*SMALL, FULL[1]]
    assert set(needed_files(INDEX, files, None, "unet")) == set(files)
    with pytest.raises(UnsupportedModel, match="unet has no safetensors weights"):
        needed_files(INDEX, files, None)


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model-Q4_K_S.gguf"])
def test_a_part_without_safetensors_is_refused(other: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"text_encoder has no safetensors weights; .*GGUF"):
        needed_files(INDEX, [*SMALL, FULL[0], f"text_encoder/{other}"], None)


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
