"""What keys are for, by their form."""

from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter

import pytest

from worker.engine.contract import AdapterFault
from worker.engine.keys import SortedKeys, sort_keys

COMPONENTS = ("unet", "text_encoder")


def sort(*keys: str) -> SortedKeys[str]:
    """Sorted, each key being its own value."""
    return sort_keys({key: key for key in keys}, COMPONENTS)


@pytest.mark.parametrize(
    "keys",
    [
        ["unet.a.lora_A.weight", "unet.a.lora_B.weight"],
        ["unet.a.processor.to_q_lora.down.weight"],
        ["unet.a.lora.up.weight"],
        ["lora_unet_a.lora_down.weight", "lora_unet_a.alpha"],
        ["text_encoder.a.lora_linear_layer.up.weight"],
    ],
)
def test_plain_loras_are_for_the_converter(keys: list[str]) -> None:
    found = sort(*keys)
    assert set(found.plain) == set(keys)
    assert not found.parts
    assert not found.unknown


@pytest.mark.parametrize(
    ("key", "layer", "part"),
    [
        ("lora_unet_a.dora_scale", "lora_unet_a", "dora_scale"),
        ("unet.a.lora_magnitude_vector", "unet.a", "lora_magnitude_vector"),
        ("unet.a.lora_magnitude_vector.weight", "unet.a", "lora_magnitude_vector"),
        ("lora_unet_a.hada_w2_b", "lora_unet_a", "hada_w2_b"),
        ("unet.a.0.hada_t1", "unet.a.0", "hada_t1"),
        ("lora_unet_a.lokr_w1", "lora_unet_a", "lokr_w1"),
        ("lora_te1_a.lokr_w1_a", "lora_te1_a", "lokr_w1_a"),
        ("lora_unet_a.lora_mid.weight", "lora_unet_a", "lora_mid"),
        ("lora_unet_a.diff", "lora_unet_a", "diff"),
        ("lora_unet_a.diff_b", "lora_unet_a", "diff_b"),
        ("lora_unet_a.w_norm", "lora_unet_a", "w_norm"),
        ("unet.a.lora_B.bias", "unet.a", "lora_B.bias"),
    ],
)
def test_parts_of_other_kinds_go_by_layer_and_part(key: str, layer: str, part: str) -> None:
    assert sort(key, "unet.b.lora_A.weight").parts == {layer: {part: key}}


def test_an_alpha_goes_where_its_layer_goes() -> None:
    found = sort(
        "lora_unet_a.lora_down.weight", "lora_unet_a.alpha", "lora_unet_b.hada_w1_a", "lora_unet_b.alpha"
    )
    assert set(found.plain) == {"lora_unet_a.lora_down.weight", "lora_unet_a.alpha"}
    assert set(found.parts["lora_unet_b"]) == {"hada_w1_a", "alpha"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["clip_l", "clip_g"], {"": {"clip_l", "clip_g"}}),
        (["text_encoders_0"], {"": {"text_encoders_0"}}),
        (["clip_l", "t5"], {"": {"clip_l", "t5"}}),
        (["bundle_emb.my.word.clip_l"], {"my.word": {"clip_l"}}),
        (["bundle_emb.word.t5"], {"word": {"t5"}}),
        (["bundle_emb.style.string_to_param.*"], {"style": {"string_to_param.*"}}),
    ],
)
def test_learned_words(keys: list[str], words: Mapping[str, set[str]]) -> None:
    assert {word: set(parts) for word, parts in sort(*keys).words.items()} == words


@pytest.mark.parametrize("root", ["", "base_model.model."])
def test_keys_that_name_no_component_are_the_first_ones(root: str) -> None:
    assert set(sort(f"{root}mid.a.lora_A.weight").plain) == {"unet.mid.a.lora_A.weight"}


def test_keys_with_pefts_root_and_a_component() -> None:
    assert set(sort("base_model.model.text_encoder.a.lora_A.weight").plain) == {
        "text_encoder.a.lora_A.weight"
    }


def test_kohyas_words_under_diffusers_names() -> None:
    assert set(sort("unet.a.lora_down.weight").plain) == {"unet.a.lora_A.weight"}


def test_two_keys_for_one_thing_are_refused() -> None:
    with pytest.raises(AdapterFault, match="the same factor"):
        sort("unet.a.lora_A.weight", "base_model.model.unet.a.lora_A.weight")
    with pytest.raises(AdapterFault, match=r"'unet\.a\.diff\.weight': another key means the same"):
        sort("unet.a.diff", "unet.a.diff.weight")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_a.oft_blocks", "OFT"),
        ("lora_unet_a.a1.weight", "GLoRA"),
        ("lora_unet_a.on_input", "IA3"),
        ("lora_unet_a.set_weight", "replace"),
        ("lora_unet_a.reshape_weight", "another shape"),
        ("string_to_param.*", "without a name"),
        ("bundle_emb.word.clip_l_out", "after the encoder"),
        ("bundle_emb.word.t5_out", "after the encoder"),
    ],
)
def test_kinds_that_are_not_served_are_refused_by_name_even_among_others(key: str, kind: str) -> None:
    with pytest.raises(AdapterFault, match=kind):
        sort("unet.a.lora_A.weight", key)


@pytest.mark.parametrize(
    "key",
    [
        repeated * 20_000 + end
        for repeated in (
            ".string_to_param.",
            "bundle_emb.",
            ".clip_l_out",
            ".emb_params",
            ".oft",
            ".diff",
            ".a1.w",
        )
        for end in ("", "\nx")
    ],
    ids=lambda key: repr(key[-20:]),
)
def test_a_key_that_repeats_itself_takes_no_longer_than_its_length(key: str) -> None:
    start = perf_counter()
    with suppress(AdapterFault):
        sort("unet.a.lora_A.weight", key)
    assert perf_counter() - start < 1


def test_a_key_of_no_known_form_is_told() -> None:
    assert list(sort("unet.a.lora_A.weight", "unet.what").unknown) == ["unet.what"]


def test_a_checkpoint_is_no_adapter() -> None:
    with pytest.raises(AdapterFault, match="not an adapter"):
        sort("model.diffusion_model.input_blocks.0.0.weight")


def test_a_message_shows_the_beginning_of_an_endless_key() -> None:
    with pytest.raises(AdapterFault) as refusal:
        sort("x" * 1_000_000)
    assert len(str(refusal.value)) < 300
