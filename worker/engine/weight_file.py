"""A safetensors file from a stranger, as tensors over its bytes. Pickles run code, and are never read."""

import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from worker.engine.contract import AdapterFault, quoted

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 20_000
MAX_KEY = 512
"""Characters: several times as many as the longest name of a layer has."""

LONGEST_REASON = 300

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How pickles begin, zipped by torch or bare. A header's length may begin so too: a hint, not a proof."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """The file in memory.

    Attributes:
        content: all of its bytes.
        tensors: by key; views of `content`, but for those that it does not align.
        metadata: the text fields of the header.
        nbytes: what all of it takes.
    """

    content: memoryview
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    nbytes: int


def read_weight_file(path: Path) -> WeightFile:
    """Read and check a file. Whether the header agrees with itself and the length, safetensors checks.

    Raises:
        AdapterFault: it is no safetensors file, is broken, or is beyond the limits.
    """
    content, length = _read(path)
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            keys = opened.offset_keys()
            if len(keys) > MAX_TENSORS:
                raise AdapterFault(f"{len(keys)} tensors; an adapter may have {MAX_TENSORS}")
            _check_keys(keys)
            slices = [opened.get_slice(key) for key in keys]
            layout = [(each.get_dtype(), each.get_shape()) for each in slices]
    except safetensors.SafetensorError as error:
        raise _broken(bytes(content[:8]), str(error)) from error
    tensors = {}
    copied = 0
    raw = torch.frombuffer(content, dtype=torch.uint8)
    start = 8 + length
    for key, (dtype, shape) in zip(keys, layout, strict=True):
        if dtype not in _DTYPES:
            raise AdapterFault(f"{quoted(key)}: holds {dtype}; an adapter holds {', '.join(_DTYPES)}")
        end = start + math.prod(shape) * _DTYPES[dtype].itemsize
        aligned = start % _DTYPES[dtype].itemsize == 0  # which writers always do
        part = raw[start:end] if aligned else raw[start:end].clone()
        copied += 0 if aligned else part.nbytes
        tensors[key] = part.view(_DTYPES[dtype]).view(shape)
        start = end
    return WeightFile(content=content, tensors=tensors, metadata=metadata, nbytes=content.nbytes + copied)


def _check_keys(keys: Iterable[str]) -> None:
    """Refuse keys that no trainer writes, before anything searches them or shows them."""
    for key in keys:
        if len(key) > MAX_KEY or not key.isprintable():
            raise AdapterFault(f"{quoted(key)}: a key may have up to {MAX_KEY} printable characters")


def _read(path: Path) -> tuple[memoryview, int]:
    """Return the bytes and the length of the header, which is checked before the rest is read.

    They lie in a mapping of their own: the system has its pages back once no tensor is left, where the
    allocator would keep them for the next one of about that size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > size - 8:
            raise _broken(head, "it ends before its header does")
        if length > MAX_HEADER_BYTES:
            raise AdapterFault(f"its header takes {length} bytes; an adapter's may take {MAX_HEADER_BYTES}")
        file.seek(0)
        content = memoryview(mmap.mmap(-1, size))
        if file.readinto(content) != content.nbytes:
            raise AdapterFault("not a whole safetensors file: it changed while it was read")
    return content, length


def _broken(head: bytes, why: str) -> AdapterFault:
    if head.startswith(_PICKLES):
        return AdapterFault("a pickled file (.bin, .pt, .ckpt); only safetensors files are read")
    # safetensors' own words name the tensor at fault, and strangers choose its name
    return AdapterFault(f"not a whole safetensors file: {why[:LONGEST_REASON]}")
