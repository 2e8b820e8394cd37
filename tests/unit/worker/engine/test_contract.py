"""What a stranger's file may put into a message."""

import pytest

from worker.engine.contract import LONGEST_FAULT, AdapterFault


def test_a_fault_of_a_line_says_just_that() -> None:
    assert str(AdapterFault("unet.été: rank 0")) == "unet.été: rank 0"


@pytest.mark.parametrize("letter", ["x", "\0", "\n", "\u202e", "\U000e0001"])
def test_a_fault_is_one_printable_line_of_bounded_length(letter: str) -> None:
    text = str(AdapterFault(f"it has {letter * 1_000_000}"))
    assert text.isprintable()
    assert text.startswith("it has ")
    assert len(text) == LONGEST_FAULT
    assert text.endswith("…")
