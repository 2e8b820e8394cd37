import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.local_hub.ranges import Span, UnsatisfiableRangeError, requested_span


@pytest.mark.parametrize(
    ("header", "start", "length"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-4", 2, 3),
        ("bytes=2-", 2, 8),
        ("bytes=2-99", 2, 8),
        ("bytes=-3", 7, 3),
        ("bytes=-99", 0, 10),
        ("bytes = 2 - 4", 2, 3),
    ],
)
def test_a_part_is_asked_for_by_its_ends(header, start, length):
    assert requested_span(header, 10) == Span(start=start, length=length, is_partial=True)


@pytest.mark.parametrize(
    "header", [None, "", "bytes=", "bytes=-", "bytes=4-2", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b"]
)
def test_anything_else_asks_for_the_whole(header):
    assert requested_span(header, 10) == Span(start=0, length=10, is_partial=False)


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=99-100", 10), ("bytes=0-", 0), ("bytes=-0", 9)]
)
def test_a_part_behind_the_end_does_not_exist(header, size):
    with pytest.raises(UnsatisfiableRangeError):
        requested_span(header, size)


@settings(deadline=None)
@given(header=st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True), size=st.integers(0, 2000))
def test_every_part_lies_inside_of_the_file(header, size):
    try:
        span = requested_span(header, size)
    except UnsatisfiableRangeError:
        return
    assert 0 <= span.start <= span.start + span.length <= size
    assert span.length > 0 or not span.is_partial
