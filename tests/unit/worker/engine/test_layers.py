"""What a file's names and parts amount to, with a converter that knows a few names."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from worker.engine.contract import AdapterFault
from worker.engine.keys import SortedKeys
from worker.engine.layers import read_layers
from worker.engine.spelling import SpelledLayer

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
MODULES = {"one": "conv_in", "its_other_name": "conv_in", "two": "conv_out"}


def spell(state: Mapping[str, Tensor]) -> Sequence[SpelledLayer]:
    names = [key.removesuffix(DOWN) for key in state if key.endswith(DOWN)]
    return [
        SpelledLayer(
            component="unet", module=MODULES[name], up=state[name + UP], down=state[name + DOWN], alpha=None
        )
        for name in names
    ]


def found(**parts: Sequence[str]) -> SortedKeys[Tensor]:
    tensors = {name: {part: torch.ones(1) for part in each} for name, each in parts.items()}
    return SortedKeys(plain={}, parts=tensors, words={}, unknown=())


def test_names_of_one_module_bring_their_parts_together() -> None:
    layers = read_layers(found(one=["diff"], its_other_name=["diff_b"], two=["diff"]), spell)
    assert [(layer.module, set(layer.parts)) for layer in layers] == [
        ("conv_in", {"diff", "diff_b"}),
        ("conv_out", {"diff"}),
    ]


def test_a_part_that_two_names_of_one_module_have_is_refused() -> None:
    with pytest.raises(AdapterFault, match=r"unet\.conv_in: two names .* one is 'its_other_name'"):
        read_layers(found(one=["diff", "diff_b"], its_other_name=["diff"]), spell)
