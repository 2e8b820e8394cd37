"""A number per weight that changes when any of its bits does: what the base is checked against."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(components: Iterable[nn.Module]) -> Tensor:
    """Return the sum of each weight's bits, read as integers, of all parameters and buffers.

    It is for damage (a failed write, NaN, a stray kernel), not for malice: one pass at the speed of
    memory over every byte, and a single transfer from the device.
    """
    sums = [
        _bits(tensor).sum(dtype=torch.int64)
        for component in components
        for tensor in (*component.parameters(), *component.buffers())
    ]
    return torch.stack(sums).cpu()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(_INTEGERS[tensor.element_size()])
