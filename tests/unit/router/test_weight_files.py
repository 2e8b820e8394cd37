import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.weight_files import (
    MAX_FILES,
    MODEL_INDEX,
    PICKLED_LORA,
    STANDARD_NAMES,
    default_weight_file,
    has_pickled,
    telling_files,
    weight_files,
)

CASES = {
    "one file at the top": (["style.safetensors"], "style.safetensors"),
    "one at the top beside checkpoints": (
        ["checkpoint-500/pytorch_lora_weights.safetensors", "a.safetensors"],
        "a.safetensors",
    ),
    "the standard name among epochs": (
        ["a-000004.safetensors", "pytorch_lora_weights.safetensors"],
        "pytorch_lora_weights.safetensors",
    ),
    "diffusers' name before PEFT's": (
        ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"],
        "pytorch_lora_weights.safetensors",
    ),
    "pivotal tuning: the embeddings sort first": (
        ["embeddings.safetensors", "style.safetensors"],
        "style.safetensors",
    ),
    "embeddings of diffusers' training script": (
        ["style_emb.safetensors", "style.safetensors"],
        "style.safetensors",
    ),
    "one file in a folder": (["loras/style.safetensors"], "loras/style.safetensors"),
    "several styles": (["night.safetensors", "day.safetensors"], None),
    "several in folders": (["a/x.safetensors", "b/x.safetensors"], None),
    "epochs only": (["a-000002.safetensors", "a-000004.safetensors"], None),
    "pickled": (["pytorch_lora_weights.bin"], None),
    "none": ([], None),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_the_file_that_is_meant(files, expected):
    assert default_weight_file(files) == expected


@given(st.lists(st.sampled_from([*(name for files, _ in CASES.values() for name in files), "x.json"])))
def test_what_is_meant_may_also_be_named(files):
    assert default_weight_file(files) in {None, *weight_files(files)}


def test_pickled_weights_are_no_weight_files():
    assert weight_files(["a.bin", "b.pt", "c.ckpt"]) == ()
    assert has_pickled(["a.json", "a.BIN"])
    assert not has_pickled(["a.safetensors"])


def test_only_files_that_say_something_are_kept():
    files = ["README.md", "a.SAFETENSORS", "images/1.png", "b.ckpt", "unet/config.json", MODEL_INDEX]

    assert telling_files(files) == (MODEL_INDEX, "a.SAFETENSORS", "b.ckpt")


@pytest.mark.parametrize("name", [MODEL_INDEX, PICKLED_LORA, *STANDARD_NAMES, "z.safetensors"])
def test_however_many_files_there_are_what_says_most_is_kept(name):
    kept = telling_files([*(f"{number}.bin" for number in range(2 * MAX_FILES)), name])

    assert name in kept
    assert len(kept) == MAX_FILES


@given(st.lists(st.sampled_from([*(name for files, _ in CASES.values() for name in files), "x.json"])))
def test_what_is_not_kept_decides_nothing(files):
    kept = telling_files(files)

    assert default_weight_file(kept) == default_weight_file(files)
    assert has_pickled(kept) == has_pickled(files)
    assert sorted(weight_files(kept)) == sorted(weight_files(files))
