"""Whether what stands before the tensors of a GGUF file ends where it says: readers believe its counts."""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from shared.errors import UnsupportedModel

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_TENSORS = 1 << 16
_MOST_FIELDS = 1 << 10
_MOST_ITEMS = 1 << 20
_STRING, _LIST = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value of each type that is neither a string nor a list."""


def check_header(file: Path) -> None:
    """Check that the file has as many fields as it counts, and not too many: a reader fills memory with them.

    Raises:
        UnsupportedModel: it is no GGUF file, or a broken one.
    """
    try:
        with file.open("rb") as stream:
            _walk(stream)
    except ValueError as error:
        raise UnsupportedModel(f"{file.name} is no GGUF file that can be read: {error}") from error


def _walk(stream: BinaryIO) -> None:
    if stream.read(len(_MAGIC)) != _MAGIC or _number(stream, "<I") not in _VERSIONS:
        raise ValueError("it does not begin as one does")
    tensors, fields = _number(stream, "<Q"), _number(stream, "<Q")
    if tensors > _MOST_TENSORS or fields > _MOST_FIELDS:
        raise ValueError("it counts more tensors or fields than any model has")
    for _ in range(fields):
        _skip(stream, _number(stream, "<Q"))  # the name
        _skip_value(stream, _number(stream, "<I"))


def _skip_value(stream: BinaryIO, kind: int) -> None:
    items = 1
    if kind == _LIST:
        kind, items = _number(stream, "<I"), _number(stream, "<Q")
    if items > _MOST_ITEMS:
        raise ValueError("one of its fields is too long a list")
    if kind == _STRING:
        for _ in range(items):
            _skip(stream, _number(stream, "<Q"))
    elif kind in _SIZES:
        _skip(stream, items * _SIZES[kind])
    else:
        raise ValueError("one of its fields is of a type that is not known")


def _skip(stream: BinaryIO, size: int) -> None:
    if size > os.fstat(stream.fileno()).st_size - stream.tell():
        raise ValueError("it ends too early")
    stream.seek(size, os.SEEK_CUR)


def _number(stream: BinaryIO, form: str) -> int:
    data = stream.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise ValueError("it ends too early")
    return int(struct.unpack(form, data)[0])
