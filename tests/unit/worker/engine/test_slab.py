"""The memory that an adapter's tensors lie in."""

import mmap
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.builders import known
from worker.engine.adapter import CanonicalAdapter, Delta, Word
from worker.engine.matrices import Product
from worker.engine.readings import Reading
from worker.engine.slab import ALIGNMENT, TENSOR_NBYTES, compacted, moved, nbytes_of, new_slab


def an_adapter(buffer: Tensor, *others: Tensor) -> CanonicalAdapter:
    """Views of one buffer, one of them twice, and perhaps other tensors."""
    shared = buffer[8:16].view(4, 2)
    first = Delta(matrix=Product(up=shared, down=buffer[16:26].view(2, 5)), scale=0.5)
    second = Delta(matrix=Product(up=buffer[26:32].view(3, 2).T, down=shared[:3, :1]), scale=2.0)
    more = {
        f"more{n}": (Delta(matrix=Product(up=other, down=shared), scale=1.0),)
        for n, other in enumerate(others)
    }
    word = Word(token="w", vectors={"clip_l": buffer[:4].view(1, 4)})
    changes = {"a": (first,), "b": (first, second), **more}
    adapter = CanonicalAdapter(
        reading=Reading(number=1, nbytes=0, digest=known()),
        nbytes=0,
        changes=changes,
        reach=1.0,
        words=(word,),
        warnings=("w",),
    )
    return replace(adapter, nbytes=nbytes_of(adapter.tensors))


def storages(adapter: CanonicalAdapter) -> dict[int, int]:
    found = [tensor.untyped_storage() for tensor in adapter.tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def assert_same(one: CanonicalAdapter, other: CanonicalAdapter) -> None:
    for before, after in zip(one.tensors, other.tensors, strict=True):
        assert torch.equal(before, after)
        assert before.dtype == after.dtype
    scales = [[delta.scale for delta in deltas] for deltas in one.changes.values()]
    assert scales == [[delta.scale for delta in deltas] for deltas in other.changes.values()]
    assert (one.digest, one.reach, one.warnings) == (other.digest, other.reach, other.warnings)
    assert [word.tokens for word in one.words] == [word.tokens for word in other.words]


def test_an_adapter_in_one_slab_that_it_fills_stays_there() -> None:
    adapter = an_adapter(torch.arange(32, dtype=torch.float32))
    assert compacted(adapter) is adapter


def test_tensors_that_a_converter_made_come_into_one_slab_and_the_files_bytes_go() -> None:
    file = torch.arange(10_000, dtype=torch.float32)
    made = [torch.rand(3, 4, dtype=torch.float16), torch.rand(5, 4)]
    adapter = an_adapter(file, *made)

    there = compacted(adapter)

    assert_same(adapter, there)
    (nbytes,) = storages(there).values()
    assert there.nbytes == nbytes + TENSOR_NBYTES * len(list(there.tensors))
    assert nbytes < 10 * ALIGNMENT < adapter.nbytes


def test_a_tensor_that_is_used_twice_is_there_once() -> None:
    file = torch.arange(10_000, dtype=torch.float32)
    there = compacted(an_adapter(file, torch.rand(6, 4)))
    (first,), (again, _), (other,) = there.changes.values()
    up, down = first.factors
    assert up.data_ptr() == again.factors[0].data_ptr() == other.factors[1].data_ptr()
    assert up.data_ptr() % ALIGNMENT == down.data_ptr() % ALIGNMENT == 0


@pytest.mark.parametrize("advice", [-1, None])
def test_a_kernel_without_huge_pages_gives_memory_all_the_same(
    advice: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    if advice is not None:
        monkeypatch.setattr(mmap, "MADV_HUGEPAGE", advice, raising=False)
    slab = new_slab(5000)
    slab[4999] = 7
    assert (len(slab), slab[0], slab[4999]) == (5000, 0, 7)


def test_an_adapter_without_tensors_stays_as_it_is() -> None:
    empty = CanonicalAdapter(
        reading=Reading(number=1, nbytes=0, digest=known()), nbytes=0, changes={}, reach=0.0
    )
    assert compacted(empty) is empty


def test_each_buffer_is_moved_once_and_every_view_of_it_is_the_same_as_before() -> None:
    adapter, buffers = an_adapter(torch.arange(64, dtype=torch.float32), torch.ones(3, 4)), []

    def copy(buffer: Tensor) -> Tensor:
        buffers.append(buffer.clone())
        return buffers[-1]

    there = moved(adapter, copy)

    assert_same(adapter, there)
    assert sorted(buffer.nbytes for buffer in buffers) == [48, 256]
    assert storages(there).keys() == {buffer.untyped_storage().data_ptr() for buffer in buffers}
    for before, after in zip(adapter.tensors, there.tensors, strict=True):
        assert before.stride() == after.stride()
