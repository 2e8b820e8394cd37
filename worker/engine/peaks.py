"""The greatest magnitudes of many tensors, read off their bits.

A file has thousands of tensors, and an operation for each of them would take longer than their numbers do. So
those that lie in one slab are searched together. Without the sign, the bits of a floating-point number are an
integer that grows with it; infinity's is above those of all numbers, and NaN's above that (IEEE 754, 3.4).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AT_ONCE = 1 << 20
"""Elements: about what a core's second-level cache holds."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Span = tuple[int, int]
"""A tensor's first element in its slab, and the one after its last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stretch:
    """What is searched at once: elements of a slab.

    Attributes:
        places: where each span begins and ends, but for the last one's end.
        owners: the tensors that lie there,
        spans: and which of the spans is each one's.
    """

    first: int
    last: int
    places: NDArray[np.int64]
    owners: NDArray[np.int64]
    spans: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """Where in a slab the tensors of one dtype lie."""

    dtype: torch.dtype
    stretches: Sequence[_Stretch]

    def into(self, peaks: NDArray[np.float64], slab: Tensor) -> None:
        """Write the peak of each tensor to its place; `slab` is any view of the slab."""
        storage = slab.untyped_storage()
        size = storage.nbytes() // self.dtype.itemsize
        bits = torch.empty(0, dtype=_INTEGERS[self.dtype.itemsize]).set_(storage, 0, (size,), (1,)).numpy()
        magnitude = np.iinfo(bits.dtype).max  # all bits but the sign
        for stretch in self.stretches:
            # it reduces from each place to the next: every second one is a gap, of one element at least
            found = np.maximum.reduceat(bits[stretch.first : stretch.last] & magnitude, stretch.places)[::2]
            values = torch.from_numpy(found.copy()).view(self.dtype).double().numpy()
            peaks[stretch.owners] = values[stretch.spans]


def peaks_by(searches: Iterable[tuple[Search, Tensor]], count: int) -> NDArray[np.float64]:
    """Return the greatest magnitude in each of `count` tensors, in their order.

    It is NaN or infinity where a tensor holds one, and 0 where it holds nothing.

    Args:
        searches: of the tensors, each with a view of its slab.
        count: how many tensors there are.
    """
    peaks = np.zeros(count)
    for search, slab in searches:
        search.into(peaks, slab)
    return peaks


def searches_of(tensors: Sequence[Tensor]) -> list[tuple[Search, Tensor]]:
    """Return how to search the tensors' slabs, or copies where tensors have gaps, and a view of each slab.

    Args:
        tensors: of floating-point numbers, on the CPU.
    """
    slabs: dict[tuple[int, torch.dtype], Tensor] = {}
    owners: defaultdict[tuple[int, torch.dtype], defaultdict[Span, list[int]]]
    owners = defaultdict(lambda: defaultdict(list))
    for number, tensor in enumerate(tensors):
        if tensor.numel():
            dense = _dense(tensor)
            slab = dense.untyped_storage().data_ptr(), dense.dtype
            slabs.setdefault(slab, dense)
            start = int(dense.storage_offset())
            owners[slab][start, start + dense.numel()].append(number)
    return [(_search(slab[1], found), slabs[slab]) for slab, found in owners.items()]


def _search(dtype: torch.dtype, owners: Mapping[Span, Sequence[int]]) -> Search:
    return Search(dtype=dtype, stretches=[_stretch(group, owners) for group in _groups(sorted(owners))])


def _stretch(group: Sequence[Span], owners: Mapping[Span, Sequence[int]]) -> _Stretch:
    return _Stretch(
        first=group[0][0],
        last=group[-1][1],
        places=np.array(group).ravel()[:-1] - group[0][0],
        owners=np.array([owner for span in group for owner in owners[span]]),
        spans=np.array([number for number, span in enumerate(group) for _ in owners[span]]),
    )


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor without gaps, of the same elements in any order."""
    if tensor.is_contiguous():
        return tensor
    return (tensor.mT if tensor.ndim >= 2 else tensor).contiguous()


def _groups(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Yield neighbours that have about `AT_ONCE` elements together, and none in common."""
    group: list[Span] = []
    for start, end in spans:
        if group and (end - group[0][0] > AT_ONCE or start < group[-1][1]):
            yield group
            group = []
        group.append((start, end))
    yield group
