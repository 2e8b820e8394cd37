"""What no converter is given, and what one may still be given."""

from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter

import pytest
import torch
from torch import Tensor

from worker.engine.contract import AdapterFault
from worker.engine.conversion import Conversion


def convert(key: str) -> Mapping[str, Tensor]:
    """Convert with a converter that gives what it gets."""
    conversion = Conversion(
        converter=lambda state, **_: (state, {}, None),
        unet_config=None,
        denoiser="transformer",
        children=frozenset({"blocks"}),
    )
    return conversion.convert({key: torch.ones(1)})[0]


@pytest.mark.parametrize(
    "number",
    ["1000", "99999999999", "1_000", "1_0_0_0", "+1_000", " 1_000 ", "٩٩٩٩", "9" * 100],
)
@pytest.mark.parametrize("key", ["diffusion_model.double_blocks.{}.img_attn.qkv", "layers.{}", "{}.a"])
def test_a_layer_of_a_huge_number_never_reaches_a_converter(key: str, number: str) -> None:
    with pytest.raises(AdapterFault, match="four digits"):
        convert(f"{key.format(number)}.lora_A.weight")


@pytest.mark.parametrize(
    "key",
    [
        "transformer.blocks.999.attn.to_q.lora_A.weight",
        "lora_unet_double_blocks_18_img_mlp_0.lora_down.weight",
        "lora_unet_input_blocks_10_11_12_1_proj_in.lora_down.weight",
        "lora_te2_text_model_encoder_layers_31_mlp_fc1.lora_down.weight",
    ],
)
def test_the_numbers_that_layers_have_do(key: str) -> None:
    assert list(convert(key)) == [key]


@pytest.mark.parametrize("key", ["9" * 100_000, "." * 100_000, ".9_" * 50_000, "._" * 50_000 + "\n"])
def test_looking_for_numbers_takes_no_longer_than_a_key_is_long(key: str) -> None:
    start = perf_counter()
    with suppress(AdapterFault):
        convert(key)
    assert perf_counter() - start < 1
