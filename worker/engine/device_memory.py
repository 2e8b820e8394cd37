"""Where there is memory to keep things in: on the device, as far as drawing leaves it, and in the host."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SPARE_BYTES = 4 << 30
"""Of the device, left alone at least: what a drawing needs must never be missing for what is kept."""

_most_drawn: dict[torch.device, int] = {}
"""Bytes that the largest drawing so far has taken, by device: of the process, as the memory is."""

log = logging.getLogger(__name__)


def room_on(device: torch.device) -> float:
    """Return the bytes that may be taken for good; on a device other than CUDA nobody counts.

    What PyTorch holds and does not use counts as free: it is the last drawing's, and as much is left for the
    next one as any has taken, or `SPARE_BYTES`.
    """
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused - max(SPARE_BYTES, _most_drawn.get(device, 0))


@contextmanager
def drawing_on(device: torch.device) -> Iterator[None]:
    """Note what is taken of the device while inside; not that of one who failed, perhaps for want of more."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield
    # what others have put there meanwhile is there still
    taken = torch.cuda.max_memory_allocated(device) - max(before, torch.cuda.memory_allocated(device))
    _most_drawn[device] = max(_most_drawn.get(device, 0), taken)


def page_locked(tensor: Tensor) -> Tensor:
    """Return a copy in the host's page-locked memory; as it is, where the system locks no more pages."""
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        log.warning("memory stays pageable", extra={"action": "not_pinned", "error": str(error)})
        return tensor
