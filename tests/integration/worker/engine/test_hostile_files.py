"""Files that must not get in: each is refused by name, and no weight is touched (the fixture verifies)."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import adapter_files as files
from tests.integration.worker.engine.hostile import (
    assert_refused,
    entry,
    good,
    memory_stays_bounded,
    raw_file,
)
from worker.engine.diffusers_engine import DiffusersEngine

A, B = "a.lora_A.weight", "a.lora_B.weight"
ONE = json.dumps(entry(0, 4, [1]))
ZEROS = b"\0" * 4

BROKEN = "not a whole safetensors file"
LONG = "its header takes"
SHORT = "ends before its header"
UNREADABLE = "may have up to 512 printable characters"

CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", SHORT),
    "a few bytes": (b"\x08\x00\x00", SHORT),
    "text": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", BROKEN),
    "header length of 2^64 - 1": (b"\xff" * 8 + b"{}", SHORT),
    "header length of 2^63": (b"\0" * 7 + b"\x80" + b"{}", SHORT),
    "huge header": (raw_file({}, length=10 << 30), SHORT),
    "header longer than the file by one": (raw_file({}, length=3), SHORT),
    "long header": (raw_file(b" " * ((8 << 20) + 1)), LONG),
    "empty header": (raw_file(b""), BROKEN),
    "no json": (raw_file(b"{" * 64), BROKEN),
    "deep json": (raw_file(b'{"a":' * 5000), BROKEN),
    "deep lists": (raw_file(b'{"a":' + b"[" * 100_000), BROKEN),
    "a list": (raw_file([1]), BROKEN),
    "a number": (raw_file(b"1"), BROKEN),
    "null": (raw_file(b"null"), BROKEN),
    "trailing comma": (raw_file(f'{{"{A}":{ONE},}}'.encode(), ZEROS), BROKEN),
    "more after the json": (raw_file(f'{{"{A}":{ONE}}}xx'.encode(), ZEROS), BROKEN),
    "byte order mark": (raw_file(b"\xef\xbb\xbf{}"), BROKEN),
    "UTF-16": (raw_file(json.dumps({A: entry(0, 4, [1])}).encode("utf-16"), ZEROS), BROKEN),
    "no UTF-8": (raw_file(b'{"\xff":1}'), BROKEN),
    "half a surrogate": (raw_file(f'{{"\\ud800":{ONE}}}'.encode(), ZEROS), BROKEN),
    "no tensors": (raw_file({}), "no tensors"),
    "only metadata": (raw_file({"__metadata__": {"format": "pt"}}), "no tensors"),
    "metadata of numbers": (raw_file({"__metadata__": {"a": 1}, A: entry(0, 4, [1])}, ZEROS), BROKEN),
    "metadata twice": (raw_file(b'{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}}'), BROKEN),
    "one key for two places": (
        raw_file(f'{{"{A}":{ONE},"{A}":{json.dumps(entry(4, 8, [1]))}}}'.encode(), ZEROS * 2),
        BROKEN,
    ),
    "one key twice": (raw_file(f'{{"{A}":{ONE},"{A}":{ONE}}}'.encode(), ZEROS), "no up factor"),
    "overlap": (raw_file({A: entry(0, 4, [1]), B: entry(0, 4, [1])}, ZEROS), BROKEN),
    "overlap in part": (raw_file({A: entry(0, 8, [2]), B: entry(4, 12, [2])}, ZEROS * 3), BROKEN),
    "hole at the start": (raw_file({A: entry(4, 8, [1])}, ZEROS * 2), BROKEN),
    "hole in the middle": (raw_file({A: entry(0, 4, [1]), B: entry(8, 12, [1])}, ZEROS * 3), BROKEN),
    "out of bounds": (raw_file({A: entry(0, 1 << 40, [1 << 38])}, ZEROS * 2), BROKEN),
    "end before start": (raw_file({A: entry(4, 0, [1])}, ZEROS), BROKEN),
    "negative offset": (raw_file({A: entry(-4, 0, [1])}, ZEROS), BROKEN),
    "three offsets": (raw_file({A: {**entry(0, 4, [1]), "data_offsets": [0, 2, 4]}}, ZEROS), BROKEN),
    "no offsets": (raw_file({A: {"dtype": "F32", "shape": [1]}}, ZEROS), BROKEN),
    "shape of another size": (raw_file({A: entry(0, 4, [9])}, ZEROS), BROKEN),
    "shape that overflows": (raw_file({A: entry(0, 4, [1 << 62, 1 << 62])}, ZEROS), BROKEN),
    "negative shape": (raw_file({A: entry(0, 4, [-1])}, ZEROS), BROKEN),
    "two negative sizes": (raw_file({A: entry(0, 4, [-1, -1])}, ZEROS), BROKEN),
    "shape of fractions": (raw_file({A: entry(0, 4, [1.0])}, ZEROS), BROKEN),
    "shape of text": (raw_file({A: entry(0, 4, ["1"])}, ZEROS), BROKEN),
    "no shape": (raw_file({A: {"dtype": "F32", "shape": None, "data_offsets": [0, 4]}}, ZEROS), BROKEN),
    "shape beyond 64 bits": (raw_file({A: entry(0, 4, [10**30])}, ZEROS), BROKEN),
    "zero times much": (raw_file({A: entry(0, 0, [0, 1 << 40])}), "no up factor"),
    "zero times too much": (raw_file({A: entry(0, 0, [0, 1 << 63])}), "no tensor has the shape"),
    "zero times several": (raw_file({A: entry(0, 0, [0, 1 << 62, 4])}), "no tensor has the shape"),
    "many dimensions": (
        raw_file({A: entry(0, 4, [1] * 5000), B: entry(4, 8, [1] * 5000)}, ZEROS * 2),
        "made for another base",
    ),
    "bytes after the end": (raw_file({A: entry(0, 4, [1])}, ZEROS + b"\0"), BROKEN),
    "a zip after the end": (raw_file({A: entry(0, 4, [1])}, ZEROS + b"PK\x05\x06" + b"\0" * 18), BROKEN),
    "integers": (raw_file({A: entry(0, 4, [1], "I32")}, ZEROS), "holds I32"),
    "booleans": (raw_file({A: entry(0, 4, [4], "BOOL")}, ZEROS), "holds BOOL"),
    "eight bits": (raw_file({A: entry(0, 4, [4], "F8_E4M3")}, ZEROS), "holds F8_E4M3"),
    "a number format that there is not": (raw_file({A: entry(0, 4, [1], "F33")}, ZEROS), BROKEN),
    "many tensors": (
        raw_file({f"{i}.lora_A.weight": entry(0, 0, [0]) for i in range(10_001)}),
        "10001 tensors",
    ),
    "an endless key": (raw_file({"x" * 1_000_000: entry(0, 4, [1])}, ZEROS), UNREADABLE),
    "a key that is too long by one": (raw_file({"x" * 513: entry(0, 4, [1])}, ZEROS), UNREADABLE),
    "a key of several lines": (raw_file({"unet.a\n.lora_A.weight": entry(0, 4, [1])}, ZEROS), UNREADABLE),
    "a key as long as may be": (raw_file({"x" * 512: entry(0, 4, [1])}, ZEROS), "not an adapter"),
    "an endless key of integers": (raw_file({"x" * 1_000_000: entry(0, 4, [1], "I8")}, ZEROS), BROKEN),
    "an endless key out of place": (raw_file({"x" * 1_000_000: entry(4, 8, [1])}, ZEROS * 2), BROKEN),
    "a zip": (b"PK\x03\x04" + b"\0" * 64, "pickled"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", BROKEN),
    "a page": (b"<!DOCTYPE html><html><body>404</body></html>", BROKEN),
    "an answer in JSON": (b'{"error": "Entry not found"}', BROKEN),
    "a program": (b"\x7fELF\x02\x01\x01" + b"\0" * 64, BROKEN),
    "a script": (b"#!/bin/sh\ntouch canary\n", BROKEN),
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 64, BROKEN),
    "an array of numpy": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", BROKEN),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, BROKEN),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, BROKEN),
    "gzip": (b"\x1f\x8b\x08\0" + b"\0" * 64, BROKEN),
    "zeros": (b"\0" * 4096, BROKEN),
}


@pytest.fixture(autouse=True, scope="module")
def bounded() -> Iterator[None]:
    with memory_stays_bounded():
        yield


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_no_adapter(xl: DiffusersEngine, tmp_path: Path, name: str) -> None:
    content, message = CONTENTS[name]
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    assert_refused(xl, path, message)


def test_a_header_of_a_gigabyte_that_is_really_there(xl: DiffusersEngine, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    with path.open("wb") as file:
        file.write(raw_file(b"", length=1 << 30))
        file.truncate((1 << 30) + 8)
    assert_refused(xl, path, LONG)


BIG = 8 << 30

BIG_FILES: dict[str, tuple[dict[str, object], str]] = {
    "another dtype": ({A: entry(0, BIG, [BIG >> 2], "I32")}, "holds I32"),
    "another dtype at the end": (
        {A: entry(0, BIG - 4, [(BIG >> 2) - 1]), B: entry(BIG - 4, BIG, [1], "I32")},
        "holds I32",
    ),
    "a long key": ({"x" * 513: entry(0, BIG, [BIG >> 2])}, UNREADABLE),
    "a checkpoint": ({"model.conv_in.weight": entry(0, BIG, [BIG >> 2])}, "not an adapter"),
    "a broken config": (
        {A: entry(0, BIG, [BIG >> 2]), "__metadata__": {"lora_adapter_metadata": "{"}},
        "config in the file's header is broken",
    ),
    "factors of another base": (
        {
            "unet.mid_block.attentions.0.proj_in.lora_A.weight": entry(0, BIG >> 1, [1, BIG >> 3]),
            "unet.mid_block.attentions.0.proj_in.lora_B.weight": entry(BIG >> 1, BIG, [BIG >> 3, 1]),
        },
        "do not fit its weight",
    ),
    "layers of another base": (
        {A: entry(0, BIG >> 1, [1, BIG >> 3]), B: entry(BIG >> 1, BIG, [BIG >> 3, 1])},
        "do not exist in this base",
    ),
    "a hole": ({A: entry(4, BIG, [(BIG >> 2) - 1])}, BROKEN),
}


@pytest.mark.parametrize("name", BIG_FILES)
def test_what_the_header_gives_away_is_refused_before_the_tensors_are_read(
    xl: DiffusersEngine, tmp_path: Path, name: str
) -> None:
    """The module's bound on memory is what tells."""
    header, message = BIG_FILES[name]
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(raw_file(header))
    with path.open("ab") as file:
        file.truncate(file.tell() + BIG)
    assert_refused(xl, path, message)


@pytest.mark.parametrize(
    "cut", ["in the length", "after the length", "in the header", "after it", "in a tensor"]
)
def test_a_file_that_ends_too_early(xl: DiffusersEngine, tmp_path: Path, cut: str) -> None:
    path = files.write(tmp_path / "adapter.safetensors", good(xl))
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    ends = {
        "in the length": 5,
        "after the length": 8,
        "in the header": 8 + length // 2,
        "after it": 8 + length,
        "in a tensor": len(whole) - 1,
    }
    path.write_bytes(whole[: ends[cut]])
    assert_refused(xl, path, BROKEN)


class Canary:
    """An object whose unpickling leaves a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self._path,))


@pytest.mark.parametrize("form", [*range(pickle.HIGHEST_PROTOCOL + 1), "torch", "torch, old"])
def test_a_pickle_is_never_opened(xl: DiffusersEngine, tmp_path: Path, form: int | str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "adapter.safetensors"
    content = {"unet.a.lora_A.weight": Canary(canary)}
    if isinstance(form, int):
        path.write_bytes(pickle.dumps(content, protocol=form))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    assert_refused(xl, path, "pickled" if form not in (0, 1) else BROKEN)
    assert not canary.exists()


@pytest.mark.parametrize(
    "key",
    [
        "../../../etc/passwd.lora_A.weight",
        "/etc/passwd",
        "unet.\0.lora_A.weight",
        "unet.__class__.__init__.lora_A.weight",
        "únet.été.lora_A.weight",
        "unet.\u202e\u2066.lora_A.weight",
        "unet.a\r\nSet-Cookie: x=1.lora_A.weight",
        "unet." + "a." * 5000 + "lora_A.weight",
        "lora_unet_" + "input_blocks_9999999999_1_" * 3 + "proj_in.lora_down.weight",
        ".lora_A.weight",
        "lora_A.weight",
        "",
    ],
)
def test_names_that_mean_mischief(xl: DiffusersEngine, tmp_path: Path, key: str) -> None:
    other = key.replace("lora_A", "lora_B").replace("lora_down", "lora_up")
    header = {key: entry(0, 4, [1, 1])}
    header |= {other: entry(4, 8, [1, 1])} if other != key else {}
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(raw_file(header, ZEROS * len(header)))
    assert_refused(xl, path, f"made for another|not an adapter|four digits|{UNREADABLE}")
