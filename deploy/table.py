"""Tables for a terminal, and for what reads lines."""

from collections.abc import Sequence
from typing import NamedTuple

_GAP = "  "
_NARROWEST = 20
"""Columns that the last cell of a row has, however narrow the terminal is."""


class Column(NamedTuple):
    """A column of a table; `<` stands to the left, as text does, `>` to the right, as numbers do."""

    heading: str
    align: str = "<"


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Return aligned columns.

    Args:
        columns: headings and alignment.
        rows: the cells.
        width: of the terminal; None where the lines may have any length. Where they do not fit, the first
            cell, which names the row, gets a line of its own, and a last one of text is cut.
    """
    cells = [[column.heading for column in columns], *rows]
    sizes = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    if width is None or sum(sizes) + len(_GAP) * (len(sizes) - 1) <= width:
        return "\n".join(_line(columns, sizes, row) for row in cells)
    columns, sizes = columns[1:], sizes[1:]
    if columns[-1].align == "<":
        sizes[-1] = max(_NARROWEST, width - sum(sizes[:-1]) - len(_GAP) * len(sizes))
    return "\n".join(f"{row[0]}\n{_GAP}{_line(columns, sizes, row[1:])}" for row in cells)


def _line(columns: Sequence[Column], sizes: Sequence[int], row: Sequence[str]) -> str:
    padded = [
        f"{_cut(cell, size):{column.align}{size}}"
        for column, size, cell in zip(columns, sizes, row, strict=True)
    ]
    return _GAP.join(padded).rstrip()


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
