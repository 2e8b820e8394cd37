"""Where the tensors of a swap are, as far as that can be seen without CUDA: `meta` is the other device."""

from unittest import mock

import pytest
import torch
from torch import nn

from worker.engine.adapter import Delta
from worker.engine.matrices import Dense, Product
from worker.engine.unmerged import UnmergedLayers
from worker.engine.weights import BaseWeights

CPU, META = torch.device("cpu"), torch.device("meta")


def a_delta(device: torch.device, rank: int = 2) -> Delta:
    up, down = torch.ones(4, rank, device=device), torch.ones(rank, 4, device=device)
    return Delta(matrix=Product(up=up, down=down), scale=0.5)


def weights_on_meta(*names: str) -> BaseWeights:
    weights = BaseWeights({name: torch.empty(4, 4, device=META) for name in names})
    # `keep` takes sums, and `meta` has no numbers
    weights._pristine = {name: torch.empty(4, 4, device=META) for name in names}
    return weights


def test_a_batch_of_weights_takes_factors_from_the_device_and_from_the_host() -> None:
    raised, in_ram = a_delta(META), a_delta(CPU)
    weights_on_meta("a", "b").write(
        {"a": [(raised, 1.0), (in_ram, 0.5)], "b": [(in_ram, 1.0), (raised, 2.0)]}
    )


def test_a_weight_written_alone_takes_factors_from_the_device_and_from_the_host() -> None:
    dense = Delta(matrix=Dense(values=torch.ones(4, 4)), scale=1.0)
    decomposed = Delta(matrix=a_delta(CPU).matrix, scale=1.0, magnitude=torch.ones(4, 1))
    weights_on_meta("a").write({"a": [(a_delta(META), 1.0), (dense, 1.0), (decomposed, 0.5)]})


def test_layers_that_keep_their_weight_take_factors_from_the_device_and_from_the_host() -> None:
    layers = UnmergedLayers({"a": nn.Linear(4, 4, device=META)})
    layers.write({"a": [(a_delta(META), 1.0), (a_delta(CPU, rank=3), 0.5)]})
    beside = layers._active["a"]
    assert (beside.down.device, beside.up.device) == (META, META)
    assert (beside.down.shape, beside.up.shape) == ((5, 4), (4, 5))


def test_a_failure_while_pristine_values_are_kept_leaves_nothing_half_kept() -> None:
    weights = BaseWeights({name: torch.full((4, 4), 3.0) for name in "ab"})
    with mock.patch("worker.engine.weights.sums_of", side_effect=RuntimeError), pytest.raises(RuntimeError):
        weights.keep("ab")

    weights.keep("ab")
    weights.write({"a": [(a_delta(CPU), 1.0)], "b": []})
    assert not weights.are_pristine("a")
    weights.restore()
    assert weights.are_pristine("ab")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_written_without_changes_becomes_pristine(dtype: torch.dtype) -> None:
    weight = torch.full((4, 4), 3.0, dtype=dtype)
    weights = BaseWeights({"a": weight})
    weights.keep("a")
    weights.write({"a": [(a_delta(CPU), 1.0)]})
    assert weight[0, 0] == 4.0
    weights.write({"a": []})
    assert weights.are_pristine("a")


def test_a_layer_that_keeps_its_weight_gets_nothing_beside_it_when_written_without_changes() -> None:
    layers = UnmergedLayers({"a": nn.Linear(4, 4)})
    layers.write({"a": [(a_delta(CPU), 1.0)]})
    layers.write({"a": []})
    assert not layers._active


def test_pristine_values_beyond_the_devices_room_are_kept_in_the_host_and_come_back_from_there() -> None:
    values = {name: torch.full((4, 4), 3.0) for name in "abc"}
    weights = BaseWeights(values, room=lambda _device: 2 * 64)
    with mock.patch("worker.engine.weights.page_locked", side_effect=lambda copy: copy) as lock:
        weights.keep("abc")
    assert lock.call_count == 1

    weights.write({name: [(a_delta(CPU), 1.0)] for name in "abc"})
    assert not weights.are_pristine("abc")
    weights.restore()
    assert weights.are_pristine("abc")
