"""Where there is memory to keep things in: on the device, as far as drawing leaves it, and in the host."""

import logging
import math

import torch
from torch import Tensor

SPARE_BYTES = 4 << 30
"""Of the device, left alone: what a drawing needs comes and goes, and must never fail for what is kept."""

log = logging.getLogger(__name__)


def room_on(device: torch.device) -> float:
    """Return the bytes that may be taken for good; on a device other than CUDA nobody counts.

    What PyTorch holds and does not use counts as free: it is the last drawing's, and `SPARE_BYTES` are left
    for the next.
    """
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused - SPARE_BYTES


def page_locked(tensor: Tensor) -> Tensor:
    """Return a copy in the host's page-locked memory; as it is, where the system locks no more pages."""
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        log.warning("memory stays pageable", extra={"action": "not_pinned", "error": str(error)})
        return tensor
