"""An adapter's bytes in pinned memory, or on the device: moved as whole buffers, off the compute thread."""

from functools import cache

import torch
from torch import Tensor

from worker.engine.adapter import CanonicalAdapter
from worker.engine.device_memory import page_locked, room_on
from worker.engine.slab import moved


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
        # both: as it ends, the latter alone would begin to use the thread's own device, perhaps another
        with torch.cuda.device(device), torch.cuda.stream(stream):
            adapter = moved(adapter, to_device)
        stream.synchronize()
    except torch.cuda.OutOfMemoryError:
        return None
    return adapter


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of all moves: what one leaves free, PyTorch gives to the same stream only."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch leaves it so
