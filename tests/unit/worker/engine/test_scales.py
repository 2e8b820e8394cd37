"""What a file's LoRA config makes of rank and alpha: PEFT's own answers are the expected ones."""

import json
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig as PeftConfig
from peft.utils.other import get_pattern_key

from worker.engine.contract import AdapterFault
from worker.engine.scales import MAX_NAMES, read_configs

MODULES = ["conv_in", "down.0.attn.to_q", "down.1.attn.to_q", "mid.attn.to_q", "up.proj_in", "proj_in"]
NAMES = st.sampled_from([*MODULES, "to_q", "attn.to_q", "^proj_in", "^up.proj_in", "0.attn.to_q", "o_q"])


def header(**fields: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in fields.items()})}


@given(
    module=st.sampled_from(MODULES),
    fields=st.fixed_dictionaries(
        {
            "r": st.integers(1, 64),
            "lora_alpha": st.integers(1, 64),
            "rank_pattern": st.dictionaries(NAMES, st.integers(1, 64), max_size=4),
            "alpha_pattern": st.dictionaries(NAMES, st.integers(1, 64), max_size=4),
        }
    ),
    rslora=st.booleans(),
)
def test_it_scales_as_peft_does(module: str, fields: dict[str, object], rslora: bool) -> None:
    theirs = PeftConfig(**fields)
    # what peft.tuners.lora does with a config, for each module
    r = theirs.rank_pattern.get(get_pattern_key(theirs.rank_pattern.keys(), module), theirs.r)
    a = theirs.alpha_pattern.get(get_pattern_key(theirs.alpha_pattern.keys(), module), theirs.lora_alpha)
    ours = read_configs(header(**fields, use_rslora=rslora), ("unet",))["unet"]
    assert ours.scale(module, r) == pytest.approx(a / (r**0.5 if rslora else r))


def test_a_component_without_a_config_has_none() -> None:
    assert set(read_configs(header(r=4), ("unet", "text_encoder"))) == {"unet"}


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"lora_adapter_metadata": ""}])
def test_a_header_without_a_config(metadata: dict[str, str]) -> None:
    assert read_configs(metadata, ("unet",)) == {}


def test_factors_of_another_rank_than_the_config_says_are_refused() -> None:
    with pytest.raises(AdapterFault, match=r"conv_in.*rank 8.*says 4"):
        read_configs(header(r=4), ("unet",))["unet"].scale("conv_in", 8)


@pytest.mark.parametrize("fields", [{"r": 0}, {"r": 4, "rank_pattern": {"conv_in": 0}}])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_rank_of_0_is_refused_where_factors_have_none_to_compare_it_with(
    fields: dict[str, object], rslora: bool
) -> None:
    config = read_configs(header(**fields, use_rslora=rslora), ("unet",))["unet"]
    with pytest.raises(AdapterFault, match=r"conv_in.*says rank 0"):
        config.scale("conv_in", None)


def test_a_pattern_of_more_names_than_a_file_may_have_tensors_is_refused() -> None:
    with pytest.raises(AdapterFault, match="10001 names"):
        read_configs(header(rank_pattern={f"a{n}": 4 for n in range(MAX_NAMES + 1)}), ("unet",))


def test_a_look_up_takes_no_longer_in_a_long_pattern() -> None:
    """Two names that fit, at the end, so that their order has to be told."""
    names = [*(f"a{n}" for n in range(MAX_NAMES - 2)), "b", "a.b"]
    config = read_configs(header(alpha_pattern=dict.fromkeys(names, 16), r=4), ("unet",))["unet"]
    start = perf_counter()
    assert {config.scale(f"{n}.a.b", 4) for n in range(5000)} == {4.0}
    assert perf_counter() - start < 2
