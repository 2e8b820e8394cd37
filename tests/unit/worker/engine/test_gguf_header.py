"""What stands before the tensors of a GGUF file: taken as it is written, refused where its counts lie."""

import struct
from pathlib import Path

import gguf
import pytest

from shared.errors import UnsupportedModel
from worker.engine.gguf_header import check_header


def header(tensors: int = 0, fields: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


def field(kind: int, value: bytes, name: bytes = b"name") -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def items(kind: int, count: int, value: bytes = b"") -> bytes:
    return field(9, struct.pack("<IQ", kind, count) + value)


def test_fields_of_every_type_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    for number, kind in enumerate(gguf.GGUFValueType):
        if kind is gguf.GGUFValueType.STRING:
            writer.add_string("text", "some words")
        elif kind is gguf.GGUFValueType.ARRAY:
            writer.add_array("words", ["some", "words"])
            writer.add_array("numbers", [1, 2, 3])
        else:
            writer.add_key_value(f"number.{number}", 1, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    check_header(path)
    # one byte of the last field is missing
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnsupportedModel, match="ends too early"):
        check_header(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not begin as one does"),
        (b"\x80\x02 a pickle of some length that is no model", "does not begin as one does"),
        (header(version=1), "does not begin as one does"),
        (b"GGUF\x03\x00\x00\x00", "ends too early"),
        (header(tensors=2**60), "counts more tensors"),
        (header(fields=2**60), "counts more tensors or fields"),
        (header(fields=2), "ends too early"),
        (header(fields=1, rest=items(4, 2**60)), "too long a list"),
        (header(fields=1, rest=items(4, 1000)), "ends too early"),
        (header(fields=1, rest=items(8, 3, struct.pack("<Q", 2**63))), "ends too early"),
        (header(fields=1, rest=items(9, 1)), "a type that is not known"),
        (header(fields=1, rest=field(13, b"")), "a type that is not known"),
        (header(fields=1, rest=field(8, struct.pack("<Q", 2**64 - 1))), "ends too early"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedModel, match=rf"file\.gguf is no GGUF file that can be read: .*{said}"):
        check_header(path)
