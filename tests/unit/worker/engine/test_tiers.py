"""Moving an adapter's memory, as far as that can be seen without CUDA."""

from unittest import mock

import torch
from torch import Tensor

from tests.builders import known
from worker.engine.adapter import CanonicalAdapter, Delta, Word
from worker.engine.matrices import Product
from worker.engine.readings import Reading
from worker.engine.tiers import pinned, raised


def an_adapter() -> CanonicalAdapter:
    buffer = torch.arange(64, dtype=torch.float32)
    alone = torch.ones(2, 3, dtype=torch.float16)
    first = Delta(matrix=Product(up=buffer[8:16].view(4, 2), down=buffer[16:26].view(2, 5)), scale=0.5)
    second = Delta(matrix=Product(up=buffer[26:32].view(3, 2).T, down=alone), scale=2.0)
    word = Word(token="w", vectors={"clip_l": buffer[:4].view(1, 4)})
    changes = {"a": (first,), "b": (first, second)}
    return CanonicalAdapter(
        reading=Reading(number=1, nbytes=0, digest=known()),
        nbytes=268,
        changes=changes,
        reach=1.0,
        words=(word,),
    )


def test_an_adapter_that_cannot_be_pinned_is_used_as_it_is() -> None:
    adapter = an_adapter()
    with mock.patch.object(Tensor, "pin_memory", side_effect=RuntimeError("cudaHostAlloc")):
        there = pinned(adapter)
    assert torch.equal(there.changes["a"][0].factors[0], adapter.changes["a"][0].factors[0])


def test_an_adapter_stays_where_it_is_when_the_device_has_no_room() -> None:
    with mock.patch("worker.engine.tiers.room_on", return_value=267):
        assert raised(an_adapter(), torch.device("cuda")) is None


def test_on_a_cpu_nothing_is_moved() -> None:
    adapter = an_adapter()
    assert raised(adapter, torch.device("cpu")) is adapter
