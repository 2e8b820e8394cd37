"""The greatest magnitudes of many tensors, read off their bits.

A file has thousands of tensors, and an operation for each of them would take longer than their numbers do. So
those that lie in one slab are searched together. Without the sign, the bits of a floating-point number are an
integer that grows with it; infinity's is above those of all numbers, and NaN's above that (IEEE 754, 3.4).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 1 << 20
"""Elements: about what a core's second-level cache holds."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Span = tuple[int, int]
"""A tensor's first element in its storage, and the one after its last."""


def peaks_of(tensors: Iterable[Tensor]) -> Mapping[int, float]:
    """Return the greatest magnitude in each tensor, by its `id`: NaN or infinity if it holds one.

    Args:
        tensors: of floating-point numbers, on the CPU.
    """
    slabs: dict[tuple[int, torch.dtype], Tensor] = {}
    spans: defaultdict[tuple[int, torch.dtype], defaultdict[Span, list[int]]]
    spans = defaultdict(lambda: defaultdict(list))
    peaks: dict[int, float] = {}
    for tensor in tensors:
        if not tensor.numel():
            peaks[id(tensor)] = 0.0
            continue
        dense = _dense(tensor)
        slab = dense.untyped_storage().data_ptr(), dense.dtype
        slabs.setdefault(slab, dense)
        start = int(dense.storage_offset())
        spans[slab][start, start + dense.numel()].append(id(tensor))
    for slab, found in spans.items():
        for span, peak in _peaks(slabs[slab], found):
            peaks |= dict.fromkeys(found[span], peak)
    return peaks


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor without gaps, of the same elements in any order."""
    if tensor.is_contiguous():
        return tensor
    return (tensor.mT if tensor.ndim >= 2 else tensor).contiguous()


def _peaks(one: Tensor, spans: Iterable[Span]) -> Iterator[tuple[Span, float]]:
    """Yield the peak of each of `spans` in the storage of `one`."""
    storage = one.untyped_storage()
    size = storage.nbytes() // one.dtype.itemsize
    whole = torch.empty(0, dtype=_INTEGERS[one.dtype.itemsize]).set_(storage, 0, (size,), (1,)).numpy()
    magnitude = np.iinfo(whole.dtype).max  # all bits but the sign
    for group in _groups(sorted(spans)):
        first, last = group[0][0], group[-1][1]
        bits = whole[first:last] & magnitude
        # it reduces from each place to the next: every second stretch is a gap, of one element at least
        places = np.array(group).ravel()[:-1] - first
        found = np.maximum.reduceat(bits, places)[::2].copy()
        yield from zip(group, torch.from_numpy(found).view(one.dtype).tolist(), strict=True)


def _groups(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Yield neighbours that have about `AT_ONCE` elements together, and none in common."""
    group: list[Span] = []
    for start, end in spans:
        if group and (end - group[0][0] > AT_ONCE or start < group[-1][1]):
            yield group
            group = []
        group.append((start, end))
    yield group
