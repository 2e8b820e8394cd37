"""A number per weight that changes when any of its bits does: what the base is checked against."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(components: Iterable[nn.Module]) -> Tensor:
    """Return the sum of each weight's bits, read as integers, of all parameters and buffers.

    It is for damage (a failed write, NaN, a stray kernel), not for malice: one pass at the speed of
    memory over every byte, and a single transfer from each device.
    """
    return sums_of(
        tensor
        for component in components
        for whole in (*component.parameters(), *component.buffers())
        for tensor in _plain(whole.data)
    )


@torch.no_grad()
def sums_of(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of each tensor's bits, on the CPU."""
    sums = [_bits(tensor).sum(dtype=torch.int64) for tensor in tensors]
    found = torch.empty(len(sums), dtype=torch.int64)
    for device in {each.device for each in sums}:
        here = [place for place, each in enumerate(sums) if each.device == device]
        found[here] = torch.stack([sums[place] for place in here]).cpu()
    return found


def _plain(tensor: Any) -> Iterable[Tensor]:  # noqa: ANN401 - a tensor's class may be a quantiser's own
    """Return the tensors that hold the bits: several of PyTorch's own where a quantiser's one wraps them."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return (tensor,)
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _plain(getattr(tensor, name))]


def _bits(tensor: Tensor) -> Tensor:
    """Return the bits as integers, of eight bytes where they are aligned so: these are summed the fastest."""
    with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - torch's documented way; GGUF's has rules of its own
        flat, size = tensor.reshape(-1), tensor.element_size()
        start = flat.storage_offset() * size
        return flat.view(torch.int64 if start % 8 == flat.nbytes % 8 == 0 else _INTEGERS[size])
