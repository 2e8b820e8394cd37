import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.hub_metadata import (
    MAX_CHARACTERS,
    MAX_TEXT,
    MAX_TEXTS,
    CardDefaults,
    UnreadableMetadata,
    parse_metadata,
)
from tests.unit.router.hub_documents import LCM, PIXEL_ART, SDXL, SHA, document

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_reads_what_the_hub_says_of_an_adapter():
    found = parse_metadata(PIXEL_ART)

    assert (found.repo, found.revision) == ("nerijs/pixel-art-xl", SHA)
    assert found.hub_bases == (SDXL,)
    assert ("adapter", SDXL) in found.tag_bases
    assert ("", SDXL) in found.tag_bases
    assert found.trigger == "pixel art"
    assert "pixel-art-xl.safetensors" in found.files


def test_reads_the_recommendations_of_a_few_step_adapter():
    assert parse_metadata(LCM).defaults == CardDefaults(steps=4, guidance_scale=1.0, scheduler="LCMScheduler")


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_inference_steps": "4", "guidance_scale": "low", "scheduler": 7},
        {"num_inference_steps": 0, "guidance_scale": -1, "scheduler": "DPM++ 2M Karras"},
        {"num_inference_steps": 4.5, "guidance_scale": float("nan"), "scheduler": None},
        {"num_inference_steps": True, "guidance_scale": float("inf"), "scheduler": "os.system"},
        {"num_inference_steps": 10**400, "guidance_scale": 10**400},
        "none",
        None,
    ],
)
def test_recommendations_that_are_none_are_overlooked(parameters):
    found = parse_metadata(document("a/b", cardData={"inference": {"parameters": parameters}}))

    assert found.defaults == CardDefaults()


@pytest.mark.parametrize(
    ("gated", "expected"), [(False, False), (None, False), ("auto", True), ("manual", True), (True, True)]
)
def test_every_kind_of_gate_counts(gated, expected):
    assert parse_metadata(document("a/b", gated=gated)).gated is expected


@pytest.mark.parametrize(
    "answer",
    [{}, [], None, "x", document("a/b", sha=None), document("a/b", sha="main"), document("no-slash")],
)
def test_an_answer_without_id_or_commit_is_unreadable(answer):
    with pytest.raises(UnreadableMetadata):
        parse_metadata(answer)


def test_what_is_remembered_of_a_huge_description_is_bounded():
    many = [f"{number}.safetensors" for number in range(10_000)]
    found = parse_metadata(
        document(
            "a/b",
            (f"{'x' * MAX_TEXT}.safetensors",),
            tags=["lora", "x" * (MAX_TEXT + 1), *many],
            baseModels={"models": [{"id": SDXL}] * 10_000},
            cardData={"instance_prompt": "x" * (MAX_TEXT + 1), "base_model": [SDXL] * 10_000},
        )
    )

    assert max(map(len, found.files)) <= MAX_TEXT
    assert "lora" in found.tags
    assert max(map(len, found.tags)) <= MAX_TEXT
    assert len(found.tags) < MAX_TEXTS
    for texts in (found.tags, found.hub_bases, found.card_bases):
        assert MAX_CHARACTERS - MAX_TEXT < sum(map(len, texts)) <= 2 * MAX_CHARACTERS
    assert found.trigger == ""


def test_a_text_of_the_greatest_length_is_read():
    trigger = "x" * MAX_TEXT

    assert parse_metadata(document("a/b", cardData={"instance_prompt": trigger})).trigger == trigger


@given(
    st.dictionaries(
        st.sampled_from(
            ["tags", "siblings", "cardData", "config", "baseModels", "gated", "pipeline_tag", "library_name"]
        ),
        JSON,
    )
)
def test_a_card_may_hold_anything(fields):
    found = parse_metadata({**document("a/b"), **fields})

    assert found.repo == "a/b"
    assert all(isinstance(name, str) for name in (*found.files, *found.tags, *found.hub_bases))
