"""A safetensors file from a stranger, as tensors over its bytes. Pickles run code, and are never read."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from torch import Tensor

from worker.engine.contract import AdapterFault, BrokenFile, quoted
from worker.engine.slab import new_slab

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 10_000
"""Twice as many as a large model's adapter of the most layers has; more take too long to be refused."""
MAX_ELEMENTS = 1 << 60
"""Without its zeros: of what holds nothing, safetensors takes any shape, and PyTorch not."""
MAX_KEY = 512
"""Characters: several times as many as the longest name of a layer has."""

LONGEST_REASON = 300

START = 8
"""Bytes: the length of the header, before it."""

ALIGNED = 8
"""Bytes: where all numbers may begin. Most writers fill a header up to them."""

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_ALPHA_DTYPES = _DTYPES | {"I64": torch.int64}
"""An alpha may be a whole number, as `torch.tensor(rank)` in diffusers' `convert_state_dict_to_kohya`."""

_ALPHA = ".alpha"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How pickles begin, zipped by torch or bare. A header's length may begin so too: a hint, not a proof."""


class Entry(NamedTuple):
    """What the header says of a tensor."""

    dtype: torch.dtype
    shape: list[int]

    @property
    def nbytes(self) -> int:
        """What the tensor takes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        text: as it is written.
        tensors_nbytes: what they take.
        entries: by key, in the order of the tensors, which leave no gap.
        metadata: the text fields.
    """

    text: bytes
    tensors_nbytes: int
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header_text(path: Path) -> bytes:
    """Return a header as it is written, unchecked.

    Raises:
        AdapterFault: the file ends before it does, or it is beyond the limits.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(START)
        length = int.from_bytes(head, "little")
        if len(head) < START or length > size - START:
            raise _broken(head, "it ends before its header does")
        if length > MAX_HEADER_BYTES:
            raise AdapterFault(f"its header takes {length} bytes; an adapter's may take {MAX_HEADER_BYTES}")
        return file.read(length)


def read_header(path: Path, text: bytes) -> Header:
    """Read and check a header. Whether it agrees with itself and the file's length, safetensors checks.

    Files are large: what is wrong here takes no memory for the tensors.

    Raises:
        AdapterFault: it is no safetensors file, is broken, or is beyond the limits.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            keys = opened.offset_keys()
            if len(keys) > MAX_TENSORS:
                raise AdapterFault(f"{len(keys)} tensors; an adapter may have {MAX_TENSORS}")
            _check_keys(keys)
            slices = {key: opened.get_slice(key) for key in keys}
            entries = {key: _entry(key, each.get_dtype(), each.get_shape()) for key, each in slices.items()}
            return Header(
                text=text,
                tensors_nbytes=sum(entry.nbytes for entry in entries.values()),
                entries=entries,
                metadata=opened.metadata() or {},
            )
    except safetensors.SafetensorError as error:
        raise _broken(len(text).to_bytes(START, "little"), str(error)) from error


def read_tensors(path: Path, header: Header) -> tuple[memoryview, Tensor, dict[str, Tensor]]:
    """Read the whole file, of that header.

    Returns:
        All of its bytes; its slab, of those after the header; and its tensors by key, which are views of the
        slab, but for those that are not aligned in it.

    Raises:
        AdapterFault: it is another one by now.
    """
    with reading_content(path, header.text, header.tensors_nbytes) as content:
        slab = slab_in(content, header.text)
    # one operation for each tensor: a file has thousands, and Python's time for them stops all other threads
    typed = typed_views(slab)
    tensors = {}
    start = 0
    for key, entry in header.entries.items():
        place, rest = divmod(start, entry.dtype.itemsize)
        if rest:  # which no writer does
            tensors[key] = slab[start : start + entry.nbytes].clone().view(entry.dtype).view(entry.shape)
        else:
            tensors[key] = typed[entry.dtype].as_strided(entry.shape, _strides(entry.shape), place)
        start += entry.nbytes
    return content, slab, tensors


def slab_in(content: memoryview, text: bytes) -> Tensor:
    """Return the bytes of a file after its header, where they lie."""
    start = START + len(text)
    if start == len(content):
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(content, dtype=torch.uint8, offset=start)


def typed_views(slab: Tensor) -> dict[torch.dtype, Tensor]:
    """Return the bytes as numbers of each of the formats."""
    return {
        dtype: slab[: len(slab) // dtype.itemsize * dtype.itemsize].view(dtype)
        for dtype in _ALPHA_DTYPES.values()
    }


def hollow(header: Header) -> dict[str, Tensor]:
    """Return tensors of the file's shapes without memory: alphas are 1, all else is 0.

    With them it can be seen what a file means, and whether it fits, before it is read.
    """
    filled = {
        (dtype, alpha): torch.full((), float(alpha), dtype=dtype)
        for dtype in _ALPHA_DTYPES.values()
        for alpha in (False, True)
    }
    return {
        key: filled[entry.dtype, key.endswith(_ALPHA)].expand(entry.shape)
        for key, entry in header.entries.items()
    }


def _strides(shape: Sequence[int]) -> list[int]:
    """Return the strides of a tensor without gaps."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * shape[axis]
    return strides


def _entry(key: str, dtype: str, shape: list[int]) -> Entry:
    dtypes = _ALPHA_DTYPES if key.endswith(_ALPHA) else _DTYPES
    if dtype not in dtypes:
        raise AdapterFault(f"{quoted(key)}: holds {dtype}; an adapter holds {', '.join(_DTYPES)}")
    if 0 in shape and math.prod(size or 1 for size in shape) >= MAX_ELEMENTS:
        raise AdapterFault(f"{quoted(key)}: no tensor has the shape {shape}")
    return Entry(dtypes[dtype], shape)


def _check_keys(keys: Iterable[str]) -> None:
    """Refuse keys that no trainer writes, before anything searches them or shows them."""
    for key in keys:
        if len(key) > MAX_KEY or not key.isprintable():
            raise AdapterFault(f"{quoted(key)}: a key may have up to {MAX_KEY} printable characters")


@contextmanager
def reading_content(path: Path, text: bytes, tensors_nbytes: int) -> Iterator[memoryview]:
    """Give the memory for the bytes of a file with the header `text` and tensors of that many bytes.

    They are there when the context is left: what needs their places alone is done beside the reading.

    Raises:
        AdapterFault: it is another file.
    """
    start = START + len(text)
    gap = -start % ALIGNED
    content = new_slab(gap + start + tensors_nbytes)[gap:]
    with ThreadPoolExecutor(max_workers=1) as beside:
        reading = beside.submit(_read_into, content, path, text)
        yield content
        reading.result()


def _read_into(content: memoryview, path: Path, text: bytes) -> None:
    with path.open("rb") as file:
        is_whole = file.readinto(content) == len(content) and not file.read(1)
    if not is_whole or bytes(content[START : START + len(text)]) != text:  # a view compares item by item
        raise BrokenFile("not a whole safetensors file: it changed while it was read")


def _broken(head: bytes, why: str) -> AdapterFault:
    if head.startswith(_PICKLES):
        return AdapterFault("a pickled file (.bin, .pt, .ckpt); only safetensors files are read")
    # safetensors' own words name the tensor at fault, and strangers choose its name
    return BrokenFile(f"not a whole safetensors file: {why[:LONGEST_REASON]}")
