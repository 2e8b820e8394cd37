"""The memory that an adapter's tensors lie in: one slab, as far as that can be had without copying."""

import mmap
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from worker.engine.adapter import CanonicalAdapter
from worker.engine.matrices import Exchange

ALIGNMENT = 64
"""Bytes: a line of the processor's cache, and more than any kernel asks for."""

TENSOR_NBYTES = 1000
"""That a tensor takes beside its numbers, with all that holds it; about that was seen, with 153 layers."""

MOST_UNUSED = 0.1
"""Of a slab, that is kept rather than copying the rest of it."""


def new_slab(nbytes: int) -> memoryview:
    """Return zeroed memory of the process, in a mapping of its own.

    The system has its pages back once no tensor is left, where the allocator would keep them for the next
    one of about that size. Huge pages halve the time to fill it, most of which is the system's for giving the
    pages out.
    """
    mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # of Linux, where its kernel was built with them
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapping)


def nbytes_of(tensors: Iterable[Tensor]) -> int:
    """Return what the tensors keep in memory: all of a slab for a view of it, and themselves."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    slabs = {each.data_ptr(): each.nbytes() for each in storages}
    return sum(slabs.values()) + TENSOR_NBYTES * len(storages)


def compacted(adapter: CanonicalAdapter) -> CanonicalAdapter:
    """Return the adapter in a slab of its own, or where it is, if that is one slab and little else is in it.

    Some families' converters make new tensors of a file's, thousands of small ones; the file's own bytes
    would be kept beside them for the few that stayed views of it.
    """
    tensors = list(adapter.tensors)
    slabs = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    used = sum(tensor.nbytes + TENSOR_NBYTES for tensor in tensors)
    if not tensors or (len(slabs) == 1 and used >= (1 - MOST_UNUSED) * adapter.nbytes):
        return adapter
    views = {_place(tensor): tensor for tensor in tensors}
    needed = sum(_padded(tensor.nbytes) for tensor in views.values())
    slab = torch.frombuffer(new_slab(needed), dtype=torch.uint8)
    copies, start = {}, 0
    for place, tensor in views.items():
        copy = slab[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies[place] = copy.copy_(tensor)
        start += _padded(tensor.nbytes)
    copied = adapter.exchanged(lambda tensor: copies[_place(tensor)])
    return replace(copied, nbytes=needed + TENSOR_NBYTES * len(tensors))


def moved(adapter: CanonicalAdapter, move: Exchange) -> CanonicalAdapter:
    """Return the adapter over other memory; `move` copies a buffer of bytes, and is called once for each."""
    buffers: dict[int, Tensor] = {}
    typed: dict[tuple[int, torch.dtype], Tensor] = {}

    def same_view(tensor: Tensor) -> Tensor:
        # two operations for each of thousands of tensors: this runs beside a drawing, which waits for Python
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        numbers = typed.get((place, tensor.dtype))
        if numbers is None:
            if place not in buffers:
                whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
                buffers[place] = move(whole)
            buffer, size = buffers[place], tensor.dtype.itemsize
            numbers = buffer[: len(buffer) // size * size].view(tensor.dtype)
            typed[place, tensor.dtype] = numbers
        return numbers.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    return adapter.exchanged(same_view)


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
