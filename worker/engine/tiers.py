"""An adapter's bytes in pinned memory, or on the device: moved as whole buffers, off the compute thread."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from worker.engine.adapter import CanonicalAdapter
from worker.engine.device_memory import page_locked, room_on

T = TypeVar("T")


def pinned(adapter: CanonicalAdapter) -> CanonicalAdapter:
    """Return the adapter in page-locked memory, from which the device reads at full speed and by itself.

    Where the system locks no more pages, the adapter is used as it is.
    """
    return moved(adapter, page_locked)


def raised(adapter: CanonicalAdapter, device: torch.device) -> CanonicalAdapter | None:
    """Return the adapter on the device: itself where that is no CUDA, None when CUDA has no room to spare."""
    if device.type != "cuda":
        return adapter
    if adapter.nbytes > room_on(device):
        return None
    stream = _side_stream(device)
    computing = torch.cuda.default_stream(device)

    def to_device(buffer: Tensor) -> Tensor:
        there = buffer.to(device, non_blocking=True)
        # Whatever drops the adapter, its memory is not given away before the swaps that read it are done.
        there.record_stream(computing)
        return there

    try:
        with torch.cuda.stream(stream):
            adapter = moved(adapter, to_device)
        stream.synchronize()
    except torch.cuda.OutOfMemoryError:
        return None
    return adapter


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of all moves: what one leaves free, PyTorch gives to the same stream only."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch leaves it so


def moved(adapter: CanonicalAdapter, move: Callable[[Tensor], Tensor]) -> CanonicalAdapter:
    """Return the adapter over other memory; `move` copies a buffer of bytes, and is called once for each."""
    buffers = _Move(move)
    return replace(adapter, changes=buffers.of(adapter.changes), words=buffers.of(adapter.words))


class _Move:
    """Rebuilds values with the same views of the moved buffers. Knows no kind of change by name."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        self._move = move
        self._buffers: dict[int, Tensor] = {}

    def of(self, value: T) -> T:
        """Return `value` with all tensors in it moved."""
        return cast("T", self._of(value))

    def _of(self, value: Any) -> Any:  # noqa: ANN401 - any shape of data, as it comes
        if isinstance(value, Tensor):
            return self._view(value)
        if isinstance(value, Mapping):
            return {key: self._of(each) for key, each in value.items()}
        if isinstance(value, tuple | list):
            return tuple(self._of(each) for each in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(
                value, **{each.name: self._of(getattr(value, each.name)) for each in fields(value)}
            )
        return value

    def _view(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        buffer = self._buffers.get(storage.data_ptr())
        if buffer is None:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            buffer = self._buffers[storage.data_ptr()] = self._move(whole)
        view = torch.empty(0, dtype=tensor.dtype, device=buffer.device)
        view.set_(buffer.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
        return view
