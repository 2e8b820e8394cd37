"""What a file's LoRA config makes of rank and alpha: PEFT's own answers are the expected ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig as PeftConfig
from peft.utils.other import get_pattern_key

from worker.engine.contract import AdapterFault
from worker.engine.scales import read_configs

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
