"""A number per weight that changes when any of its bits does: what the base is checked against."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BATCH_BYTES = 256 << 20
"""Of a GPU's weights that are summed with one call."""

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
    bits = [_bits(tensor) for tensor in tensors]
    found = torch.empty(len(bits), dtype=torch.int64)
    for device in {each.device for each in bits}:
        here = [place for place, each in enumerate(bits) if each.device == device]
        if device.type == "cuda":
            _sum_together(bits, here, found)
        else:
            found[here] = torch.stack([bits[place].sum(dtype=torch.int64) for place in here])
    return found


def _sum_together(bits: Sequence[Tensor], places: Sequence[int], found: Tensor) -> None:
    """Put the sums of those at `places` into `found`: equal ones side by side, for calls take the time."""
    alike: defaultdict[tuple[int, torch.dtype], list[int]] = defaultdict(list)
    for place in places:
        alike[bits[place].numel(), bits[place].dtype].append(place)
    order: list[int] = []
    sums: list[Tensor] = []
    for same in alike.values():
        size = max(1, BATCH_BYTES // max(1, bits[same[0]].nbytes))
        for start in range(0, len(same), size):
            batch = same[start : start + size]
            order += batch
            sums.append(torch.stack([bits[place] for place in batch]).sum(dim=1, dtype=torch.int64))
    found[order] = torch.cat(sums).cpu()


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
