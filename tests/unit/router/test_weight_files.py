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
    words_file_of,
    words_files,
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
    "embeddings of Replicate's training": (["lora.safetensors", "embeddings.pti"], "lora.safetensors"),
    "one file in a folder": (["loras/style.safetensors"], "loras/style.safetensors"),
    "several styles": (["night.safetensors", "day.safetensors"], None),
    "several in folders": (["a/x.safetensors", "b/x.safetensors"], None),
    "epochs only": (["a-000002.safetensors", "a-000004.safetensors"], None),
    "pickled": (["pytorch_lora_weights.bin"], None),
    "words alone": (["style_emb.safetensors"], None),
    "none": ([], None),
}

FILE = "pytorch_lora_weights.safetensors"
SCRIPTS = [FILE, "style.safetensors", "style_emb.safetensors"]
"""What diffusers' advanced scripts leave: the same weights twice, the second time for other programs."""

TWO_STYLES = ["day.safetensors", "day_emb.safetensors", "night.safetensors", "night_emb.safetensors"]

WORDS = {
    "beside weights of a standard name": (FILE, SCRIPTS, "style_emb.safetensors"),
    "by name": ("style.safetensors", SCRIPTS, "style_emb.safetensors"),
    "in any case": (
        "Style.safetensors",
        ["Style.safetensors", "style_EMB.safetensors"],
        "style_EMB.safetensors",
    ),
    "named otherwise": (
        "style.safetensors",
        ["style.safetensors", "style_embeddings.safetensors"],
        "style_embeddings.safetensors",
    ),
    "without a name": (FILE, ["embeddings.safetensors", FILE], "embeddings.safetensors"),
    "without a name, for whichever weights there are": (
        "b.safetensors",
        ["a.safetensors", "b.safetensors", "embeddings.safetensors"],
        "embeddings.safetensors",
    ),
    "by another name, but the only ones for the only weights": (
        "lora.safetensors",
        ["lora.safetensors", "style_emb.safetensors"],
        "style_emb.safetensors",
    ),
    "each by its name": ("night.safetensors", TWO_STYLES, "night_emb.safetensors"),
    "by name before those without": (
        "day.safetensors",
        [*TWO_STYLES, "embeddings.safetensors"],
        "day_emb.safetensors",
    ),
    "several, and the weights of a standard name": (FILE, [FILE, *TWO_STYLES], None),
    "another one's by name": ("b.safetensors", ["a.safetensors", "a_emb.safetensors", "b.safetensors"], None),
    "of an epoch": (
        "a-000004.safetensors",
        ["a-000004.safetensors", "a-000004_emb.safetensors", "a.safetensors", "a_emb.safetensors"],
        "a-000004_emb.safetensors",
    ),
    "of an epoch that has none": (
        "a-000002.safetensors",
        ["a-000002.safetensors", "a.safetensors", "a_emb.safetensors"],
        None,
    ),
    "twice by name": (
        "a.safetensors",
        ["a.safetensors", "a_emb.safetensors", "a-embeddings.safetensors"],
        None,
    ),
    "in the folder of a checkpoint only": (FILE, [FILE, "checkpoint-500/style_emb.safetensors"], None),
    "in the same folder": (
        f"checkpoint-500/{FILE}",
        [*SCRIPTS, f"checkpoint-500/{FILE}", "checkpoint-500/style_emb.safetensors"],
        "checkpoint-500/style_emb.safetensors",
    ),
    "of Replicate's training": ("lora.safetensors", ["embeddings.pti", "lora.safetensors"], "embeddings.pti"),
    "words have none themselves": ("style_emb.safetensors", SCRIPTS, None),
    "none": (FILE, [FILE, "style.safetensors"], None),
}

NAMES = sorted({name for _, files, _ in WORDS.values() for name in files})


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_the_file_that_is_meant(files, expected):
    assert default_weight_file(files) == expected


@given(st.lists(st.sampled_from([*(name for files, _ in CASES.values() for name in files), "x.json"])))
def test_what_is_meant_may_also_be_named(files):
    assert default_weight_file(files) in {None, *weight_files(files)}


@pytest.mark.parametrize(("weights", "files", "expected"), WORDS.values(), ids=WORDS)
def test_the_learned_words_that_weights_were_trained_with(weights, files, expected):
    assert words_file_of(weights, files) == expected
    assert words_file_of(weights, [*reversed(files)]) == expected


@given(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES)))
def test_words_are_beside_their_weights_and_may_be_named(weights, files):
    found = words_file_of(weights, sorted(files))
    if found is not None:
        assert found in words_files(weight_files(sorted(files)))
        assert found.rpartition("/")[0] == weights.rpartition("/")[0]
    assert words_file_of(weights, telling_files(files)) == found


def test_pickled_weights_are_no_weight_files():
    assert weight_files(["a.bin", "b.pt", "c.ckpt"]) == ()
    assert has_pickled(["a.json", "a.BIN"])
    assert not has_pickled(["a.safetensors"])


def test_only_files_that_say_something_are_kept():
    files = ["README.md", "a.SAFETENSORS", "images/1.png", "b.ckpt", "unet/config.json", MODEL_INDEX]

    assert telling_files(files) == (MODEL_INDEX, "a.SAFETENSORS", "b.ckpt")


@pytest.mark.parametrize(
    "name", ["pytorch_lora_weights.safetensors", "z_emb.safetensors", "z/embeddings.pti"]
)
def test_words_at_the_top_are_kept_before_weights_that_have_to_be_named(name):
    kept = telling_files([*(f"checkpoint-{number}/{FILE}" for number in range(2 * MAX_FILES)), name])

    assert (name in kept) is ("/" not in name)


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
