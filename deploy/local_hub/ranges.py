"""The `Range` header (RFC 9110, section 14). Pure."""

import re
from dataclasses import dataclass

_SINGLE_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A part of a file, or all of it."""

    start: int
    length: int
    is_partial: bool


class UnsatisfiableRangeError(Exception):
    """The range lies outside of the file."""


def requested_span(header: str | None, size: int) -> Span:
    """Return the part of a file of `size` bytes that a `Range` header asks for.

    A header that is malformed, or asks for several ranges, is answered with the whole file.

    Raises:
        UnsatisfiableRangeError: the range begins behind the end of the file.
    """
    whole = Span(start=0, length=size, is_partial=False)
    match = _SINGLE_RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return whole
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return whole
    if start >= size:
        raise UnsatisfiableRangeError
    return Span(start=start, length=end - start, is_partial=True)
