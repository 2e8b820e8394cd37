"""What `warmbase up` shows while it works: a table redrawn in place on a terminal, plain lines elsewhere."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TextIO

_COUNTING_SECONDS = 5.0
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36, "grey": 90}


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Where a part is on its way.

    Attributes:
        stage: what it is doing, as in `loading`.
        seconds: since it was started; once ready, how long it took.
    """

    name: str
    stage: str
    seconds: float
    ready: bool


class Screen(Protocol):
    """Where a person watches."""

    @property
    def coloured(self) -> bool:
        """Whether text may carry colours."""
        ...

    def show(self, status: Status) -> None:
        """Show where a part is; may be called again and again with no news."""
        ...

    def say(self, text: str) -> None:
        """Print lines that stay."""
        ...

    def settle(self) -> None:
        """Leave what is shown as it is; what follows is printed below."""
        ...


def open_screen(stream: TextIO, environ: Mapping[str, str]) -> Screen:
    """Return a live screen for a terminal, a plain one for a file or a pipe.

    `NO_COLOR` is obeyed (no-color.org), and a terminal that says it is dumb gets plain lines.
    """
    if not stream.isatty() or environ.get("TERM") == "dumb":
        return PlainScreen(stream)
    return LiveScreen(stream, coloured=not environ.get("NO_COLOR"))


def paint(text: str, colour: str, *, coloured: bool) -> str:
    """Return `text` in a colour of the terminal, if colours are wanted."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if coloured else text


class PlainScreen:
    """One line for each new stage, and now and then one for a stage that counts, as a download does."""

    coloured = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: dict[str, Status] = {}

    def show(self, status: Status) -> None:
        """Print a line if there is news."""
        if not _is_news(self._shown.get(status.name), status):
            return
        self._shown[status.name] = status
        took = f" in {status.seconds:.1f} s" if status.ready else ""
        self.say(f"[{status.name}] {status.stage}{took}")

    def say(self, text: str) -> None:
        """Print lines."""
        _write(self._stream, text + "\n")

    def settle(self) -> None:
        """Nothing to do: lines stay where they are."""


def _is_news(before: Status | None, now: Status) -> bool:
    if before is None or before.stage == now.stage:
        return before is None
    counts = before.stage.split()[:1] == now.stage.split()[:1]
    return not counts or now.seconds - before.seconds >= _COUNTING_SECONDS


class LiveScreen:
    """A table at the bottom of the terminal, one row for each part, redrawn in place."""

    def __init__(self, stream: TextIO, *, coloured: bool) -> None:
        self.coloured = coloured
        self._stream = stream
        self._rows: dict[str, Status] = {}
        self._drawn = 0

    def show(self, status: Status) -> None:
        """Redraw the table with the part's new row."""
        self._rows[status.name] = status
        self._draw("")

    def say(self, text: str) -> None:
        """Print lines above the table."""
        self._draw(text + "\n")

    def settle(self) -> None:
        """Let the table scroll away with what follows."""
        self._rows.clear()
        self._drawn = 0

    def _draw(self, above: str) -> None:
        erase = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        rows = table(list(self._rows.values()), width=shutil.get_terminal_size().columns)
        lines = (self._coloured(status, row) for status, row in zip(self._rows.values(), rows, strict=True))
        self._drawn = len(rows)
        _write(self._stream, erase + above + "".join(f"{line}\n" for line in lines))

    def _coloured(self, status: Status, row: str) -> str:
        return paint(row, "green" if status.ready else "yellow", coloured=self.coloured)


def _write(stream: TextIO, text: str) -> None:
    """Write at once. When nobody reads any more, go on silently: it shows less, and runs on."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # What is buffered still has to go somewhere, or the interpreter fails at its end (docs of `signal`).
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def table(statuses: list[Status], width: int) -> list[str]:
    """Return one row for each part, names and stages in columns, no row longer than `width`."""
    names = max((len(status.name) for status in statuses), default=0)
    stages = max((len(status.stage) for status in statuses), default=0)
    return [
        f"  {status.name:{names}}  {status.stage:{stages}}  {status.seconds:6.1f} s"[:width]
        for status in statuses
    ]
