"""What files with one header have in common: all but their numbers.

Trainers write thousands of files with the same keys and shapes. What such a header means, and that it fits
the base, is found out with the first file; of the next one, the numbers alone are looked at.
"""

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.adapter import Meaning
from worker.engine.contract import AdapterFault
from worker.engine.peaks import Search, peaks_by
from worker.engine.reach import Reach
from worker.engine.scales import CONFIG_KEY, read_configs
from worker.engine.slab import TENSOR_NBYTES
from worker.engine.weight_file import Header, typed_views

MOST_LAYOUTS = 32
MOST_TENSORS = 4096
"""Of a file that is remembered: SDXL's largest have some 3,000. Each takes about 0.4 kB here."""

MOST_PINNED = 8
"""Bytes of a tensor that is not part of the adapter, and so may be what decides on it: an alpha."""

MOST_FIELDS = 1 << 17
"""Bytes of a header's text fields that are read for a LoRA config: as short as a stranger likes, so many
take 2 ms."""

_FIELDS = b'{"__metadata__":'
"""How safetensors' own writer begins a header that has text fields."""

_FIELDS_END = b'"},"'
"""What ends them. Within a text, quotes have a backslash before them."""

_SIGNS = (CONFIG_KEY.encode(), b'"dtype"', rb"\u00")
"""What asks for a closer look at them: the key of a LoRA config; a tensor, where another writer ends text
fields in another way; and an escape by which either may be spelled."""

Span = tuple[int, int]
"""A tensor's first byte, and the one after its last, counted from the end of the header."""


class _View(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What is known of files with one header.

    Attributes:
        nbytes: what the tensors take.
        meaning: what they mean, over no numbers.
        views: where its tensors lie, in the order in which it exchanges them.
        searches: the same, by which their peaks are found.
        reach: how far it reaches, by these.
        pinned: where in the slab there is what may not differ,
        pinned_numbers: and what is there.
    """

    nbytes: int
    meaning: Meaning
    views: Sequence[_View]
    searches: Sequence[Search]
    reach: Reach
    pinned: Sequence[Span]
    pinned_numbers: bytes

    def fits(self, slab: Tensor) -> bool:
        """Whether the alphas in a file's slab are those that are known."""
        return _numbers_at(self.pinned, slab) == self.pinned_numbers

    def meaning_in(self, slab: Tensor) -> Meaning:
        """Return what a file means, over its slab, which need not be filled yet."""
        typed = typed_views(slab)
        views = iter([typed[dtype].as_strided(shape, stride, at) for dtype, shape, stride, at in self.views])
        return self.meaning.exchanged(lambda _: next(views))

    def nbytes_in(self, slab: Tensor) -> int:
        """Return what a file takes in memory."""
        return slab.untyped_storage().nbytes() + TENSOR_NBYTES * len(self.views)

    def peaks_in(self, slab: Tensor) -> NDArray[np.float64]:
        """Return the greatest magnitude in each of its tensors: NaN or infinity if one holds that."""
        return peaks_by([(search, slab) for search in self.searches], len(self.views))


class Layouts:
    """The headers that were met last, of one base's files. Safe across threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[bytes, Layout] = OrderedDict()

    def of(self, key: bytes) -> Layout | None:
        """Return what is known of files whose header has that key."""
        with self._lock:
            layout = self._known.get(key)
            if layout is not None:
                self._known.move_to_end(key)
            return layout

    def note(self, key: bytes, layout: Layout) -> None:
        """Know that from now on, and forget what was not asked for the longest."""
        with self._lock:
            self._known[key] = layout
            if len(self._known) > MOST_LAYOUTS:
                self._known.popitem(last=False)


def header_key(text: bytes, components: tuple[str, ...]) -> bytes:
    """Return what is equal for headers that mean the same.

    Text fields mean nothing, but for the LoRA config. The rest means the same if it is the same, up to the
    blanks that fill it. What is not written as safetensors' own writer does, means the same as itself alone.
    """
    config, rest = b"", text
    end = text.find(_FIELDS_END) + 2
    if text.startswith(_FIELDS) and end >= 2:
        fields = text[len(_FIELDS) : end]
        if not any(sign in fields for sign in _SIGNS):
            rest = text[end:]
        elif len(fields) <= MOST_FIELDS:
            with suppress(ValueError, RecursionError, AdapterFault):
                configs = read_configs(json.loads(fields), components)
                config, rest = repr(configs).encode() if configs else b"", text[end:]
    return hashlib.sha256(b"%d %s %s" % (len(config), config, rest.rstrip(b" "))).digest()


def layout_of(
    header: Header,
    slab: Tensor,
    meaning: Meaning,
    *,
    searches: Sequence[tuple[Search, Tensor]],
    reach: Reach,
    decisive: Collection[str],
) -> Layout | None:
    """Return a file's layout; None where more than header and alphas may have decided on its meaning.

    Args:
        header: the header as it was read.
        slab: the file's tensors.
        meaning: what they were taken for.
        searches: of the tensors in that.
        reach: of that.
        decisive: the tensors whose numbers had a say in that.
    """
    storage = slab.untyped_storage().data_ptr()
    if len(header.entries) > MOST_TENSORS:
        return None
    if any(found.untyped_storage().data_ptr() != storage for _, found in searches):
        return None  # tensors that a converter made, or with gaps
    views: list[_View] = []
    nothing = torch.empty(0)

    def note(tensor: Tensor) -> Tensor:
        offset = int(tensor.storage_offset())
        views.append(_View(tensor.dtype, tuple(tensor.shape), tensor.stride(), offset))
        return nothing

    bare = meaning.exchanged(note)
    spans = list(pairwise(accumulate((each.nbytes for each in header.entries.values()), initial=0)))
    starts = [start for start, _ in spans]
    used = {bisect_right(starts, view.offset * view.dtype.itemsize) - 1 for view in views}
    if any(place in used for place, key in enumerate(header.entries) if key in decisive):
        return None
    pinned = [span for place, span in enumerate(spans) if place not in used]
    if any(end - start > MOST_PINNED for start, end in pinned):
        return None
    return Layout(
        nbytes=header.tensors_nbytes,
        meaning=bare,
        views=views,
        searches=[search for search, _ in searches],
        reach=reach,
        pinned=pinned,
        pinned_numbers=_numbers_at(pinned, slab),
    )


def _numbers_at(spans: Sequence[Span], slab: Tensor) -> bytes:
    numbers = slab.numpy().data
    return b"".join([numbers[start:end] for start, end in spans])
