"""A file's bytes, where they lie in memory."""

import json
from pathlib import Path

import pytest
import torch

from worker.engine.contract import AdapterFault
from worker.engine.weight_file import ALIGNED, read_header, read_header_text, read_tensors, reading_content

VALUES = torch.arange(6, dtype=torch.float64)


def written(path: Path, blanks: int) -> Path:
    """Write a file of one tensor, with so many blanks at the end of its header."""
    entry = {"dtype": "F64", "shape": [2, 3], "data_offsets": [0, VALUES.nbytes]}
    text = json.dumps({"a": entry}).encode() + b" " * blanks
    path.write_bytes(len(text).to_bytes(8, "little") + text + VALUES.numpy().tobytes())
    return path


@pytest.mark.parametrize("blanks", range(ALIGNED))
def test_numbers_are_aligned_and_all_bytes_are_there_whatever_the_headers_length(
    tmp_path: Path, blanks: int
) -> None:
    path = written(tmp_path / "a.safetensors", blanks)
    content, slab, tensors = read_tensors(path, read_header(path, read_header_text(path)))
    assert bytes(content) == path.read_bytes()
    assert slab.data_ptr() % ALIGNED == 0
    assert tensors["a"].data_ptr() == slab.data_ptr()
    assert torch.equal(tensors["a"], VALUES.view(2, 3))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", 0)
    text = read_header_text(path)
    for nbytes in (VALUES.nbytes - 1, VALUES.nbytes + 1):
        with pytest.raises(AdapterFault, match="it changed"), reading_content(path, text, nbytes):
            pass
    other = text.replace(b'"a"', b'"b"')
    with pytest.raises(AdapterFault, match="it changed"), reading_content(path, other, VALUES.nbytes):
        pass


def test_what_fails_beside_the_reading_is_what_is_raised(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", 0)
    with pytest.raises(LookupError), reading_content(path, read_header_text(path), VALUES.nbytes):
        raise LookupError
