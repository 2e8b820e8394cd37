"""What files with one header have in common: all but their numbers.

Trainers write thousands of files with the same keys and shapes. What such a header means, and that it fits
the base, is found out with the first file; of the next one, the numbers alone are looked at.
"""

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from worker.engine.adapter import CanonicalAdapter
from worker.engine.peaks import Search, searches_of
from worker.engine.scales import CONFIG_KEY
from worker.engine.weight_file import Header, read_header_text, typed_views

MOST_LAYOUTS = 32
MOST_TENSORS = 4096
"""Of a file that is remembered: SDXL's largest have some 3,000. Each takes about 0.4 kB here."""

MOST_PINNED = 8
"""Bytes of a tensor that is not part of the adapter, and so may be what decides on it: an alpha."""

_METADATA = '{"__metadata__":'
"""How safetensors' own writer begins a header that has text fields."""

Span = tuple[int, int]
"""A tensor's first byte, and the one after its last, counted from the end of the header."""


class Head(NamedTuple):
    """A file's header as it is written.

    Attributes:
        nbytes: of it; the tensors begin there.
        key: equal for files whose headers mean the same.
    """

    nbytes: int
    key: bytes


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
    """

    nbytes: int
    _adapter: CanonicalAdapter
    _views: Sequence[_View]
    _searches: Sequence[Search]
    _pinned: Sequence[Span]
    _pinned_numbers: bytes

    def fits(self, slab: Tensor) -> bool:
        """Whether the alphas in a file's slab are those that are known."""
        return _numbers_at(self._pinned, slab) == self._pinned_numbers

    def adapter_in(self, slab: Tensor) -> CanonicalAdapter:
        """Return the adapter over a file's slab. What its numbers decide on is still missing."""
        typed = typed_views(slab)
        views = iter([typed[dtype].as_strided(shape, stride, at) for dtype, shape, stride, at in self._views])
        return self._adapter.exchanged(lambda _: next(views))

    def peaks_in(self, slab: Tensor) -> list[float]:
        """Return the greatest magnitude in each of the adapter's tensors: NaN or infinity if it holds one."""
        peaks = [0.0] * len(self._views)
        for search in self._searches:
            search.into(peaks, slab)
        return peaks


class Layouts:
    """The headers that were met last, of one base's files. Safe across threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[bytes, Layout] = OrderedDict()

    def of(self, head: Head) -> Layout | None:
        """Return what is known of files with that header."""
        with self._lock:
            layout = self._known.get(head.key)
            if layout is not None:
                self._known.move_to_end(head.key)
            return layout

    def note(
        self, head: Head, header: Header, slab: Tensor, adapter: CanonicalAdapter, decisive: Collection[str]
    ) -> None:
        """Remember what a file with that header turned out to be, if the next one has to be the same.

        Args:
            head: the header as it is written.
            header: the header as it was read.
            slab: the file's tensors.
            adapter: what they were taken for.
            decisive: the keys whose numbers had a say in that.
        """
        layout = _layout(header, slab, adapter, decisive)
        if layout is None:
            return
        with self._lock:
            self._known[head.key] = layout
            if len(self._known) > MOST_LAYOUTS:
                self._known.popitem(last=False)


def read_head(path: Path) -> Head:
    """Return the file's header as it is written.

    Text fields mean nothing, but for the LoRA config. The rest means the same if it is the same, up to the
    blanks that fill it. What is not written as safetensors' own writer does, is a header of its own.

    Raises:
        AdapterFault: the file ends before its header does, or the header is too large.
    """
    text = read_header_text(path)
    fields: dict[str, str] = {}
    end = 0
    try:
        header = text.decode()
        if header.startswith(_METADATA):
            fields, end = json.JSONDecoder().raw_decode(header, len(_METADATA))
        config = fields.get(CONFIG_KEY, "").encode()
        rest = header[end:].rstrip(" ").encode()
    except (ValueError, AttributeError, RecursionError):
        config, rest = b"", text
    key = hashlib.sha256(b"%d %s %s" % (len(config), config, rest)).digest()
    return Head(nbytes=8 + len(text), key=key)


def _layout(
    header: Header, slab: Tensor, adapter: CanonicalAdapter, decisive: Collection[str]
) -> Layout | None:
    """Return a file's layout; None where more than header and alphas may have decided on the adapter."""
    searches = searches_of(list(adapter.tensors))
    storage = slab.untyped_storage().data_ptr()
    if any(found.untyped_storage().data_ptr() != storage for _, found in searches):
        return None  # tensors that a converter made, or with gaps
    views: list[_View] = []
    nothing = torch.empty(0)

    def note(tensor: Tensor) -> Tensor:
        offset = int(tensor.storage_offset())
        views.append(_View(tensor.dtype, tuple(tensor.shape), tensor.stride(), offset))
        return nothing

    bare = adapter.exchanged(note)
    spans = list(pairwise(accumulate((each.nbytes for each in header.entries.values()), initial=0)))
    starts = [start for start, _ in spans]
    used = {bisect_right(starts, view.offset * view.dtype.itemsize) - 1 for view in views}
    if any(place in used for place, key in enumerate(header.entries) if key in decisive):
        return None
    pinned = [span for place, span in enumerate(spans) if place not in used]
    if len(spans) > MOST_TENSORS or any(end - start > MOST_PINNED for start, end in pinned):
        return None
    return Layout(
        nbytes=header.tensors_nbytes,
        _adapter=bare,
        _views=views,
        _searches=[search for search, _ in searches],
        _pinned=pinned,
        _pinned_numbers=_numbers_at(pinned, slab),
    )


def _numbers_at(spans: Sequence[Span], slab: Tensor) -> bytes:
    numbers = slab.numpy().data
    return b"".join([numbers[start:end] for start, end in spans])
