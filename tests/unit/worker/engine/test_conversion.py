"""What no converter is given, and what one may still be given."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter

import pytest
import torch
from diffusers import FluxPipeline
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
    return conversion.convert({key: torch.ones(1)}, lambda _keys: None)[0]


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


def flux(alpha: Tensor, rank: int = 2) -> None:
    """Convert a file of Kohya's with the converter that FLUX has in diffusers."""
    conversion = Conversion(
        converter=FluxPipeline.lora_state_dict,
        unet_config=None,
        denoiser="transformer",
        children=frozenset({"transformer_blocks"}),
    )
    layer = "lora_unet_double_blocks_0_img_mlp_2"
    factors = {
        f"{layer}.lora_down.weight": torch.ones(rank, 8),
        f"{layer}.lora_up.weight": torch.ones(4, rank),
    }
    conversion.convert(factors | {f"{layer}.alpha": alpha}, lambda _keys: None)


@pytest.mark.parametrize("alpha", [-1.0, -1e-30, -math.inf, math.inf, math.nan])
def test_an_alpha_with_which_a_converter_would_never_end_does_not_reach_it(alpha: float) -> None:
    flux(torch.tensor(4.0))
    with pytest.raises(AdapterFault, match=r"img_mlp_2\.alpha': an alpha is one number of at least 0"):
        flux(torch.tensor(alpha))


def test_an_alpha_of_several_numbers_does_not_either() -> None:
    with pytest.raises(AdapterFault, match="one number"):
        flux(torch.ones(2))


def test_a_converter_that_divides_by_a_rank_of_0_is_a_fault_of_the_file() -> None:
    with pytest.raises(AdapterFault, match="follow no known format"):
        flux(torch.tensor(4.0), rank=0)


@pytest.mark.parametrize("key", ["9" * 100_000, "." * 100_000, ".9_" * 50_000, "._" * 50_000 + "\n"])
def test_looking_for_numbers_takes_no_longer_than_a_key_is_long(key: str) -> None:
    start = perf_counter()
    with suppress(AdapterFault):
        convert(key)
    assert perf_counter() - start < 1


@pytest.mark.parametrize(
    "look",
    [
        lambda state: state["a"].item(),
        lambda state: bool((state["a"] == 0).all()),
        lambda state: float(state["a"] * state["b"]),
        lambda state: torch.equal(state["b"], state["a"]),
        lambda state: state["a"].tolist(),
        lambda state: f"{torch.stack([state['a'], state['b']])[0]}",
    ],
)
def test_a_converter_that_looks_at_numbers_is_known_for_it(
    look: Callable[[dict[str, Tensor]], object],
) -> None:
    assert "a" in looked_at(look)


@pytest.mark.parametrize(
    "work",
    [
        lambda state: state["a"].shape,
        lambda state: (state["a"].dtype, state["a"].device, state["a"].ndim),
        lambda state: len(state["a"]) + state["a"].numel() + state["a"].size(0) + state["a"].dim(),
        lambda state: torch.cat([state["a"], state["b"]]).chunk(2),
        lambda state: state["a"].mul_(2.0).to(torch.float16).contiguous().view(-1),
        lambda state: state["b"].item(),
    ],
)
def test_one_that_works_by_shapes_is_not(work: Callable[[dict[str, Tensor]], object]) -> None:
    assert "a" not in looked_at(work)


def looked_at(work: Callable[[dict[str, Tensor]], object]) -> set[str]:
    found: set[str] = set()

    def convert(state: dict[str, Tensor], **_options: object) -> tuple[object, ...]:
        work(state)
        return state, {}, None

    conversion = Conversion(
        converter=convert, unet_config=None, denoiser="transformer", children=frozenset({"blocks"})
    )
    conversion.convert({"a": torch.ones(1), "b": torch.ones(1)}, found.update)
    return found
