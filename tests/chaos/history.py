"""The history of a run: what everybody saw, one JSON object a line, in wall-clock seconds of one machine."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

Event = dict[str, Any]
"""`t` seconds, `event` its kind, and what belongs to the kind; tests/chaos/checker.py reads them all."""


class History:
    """A file that is written as things happen, so that a run which is cut short can be checked, too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def note(self, event: str, **what: Any) -> None:
        """Write what happened; `t` is now if `what` does not say when it was."""
        self._file.write(json.dumps({"t": time.time(), "event": event, **what}) + "\n")


def read(path: Path) -> Iterator[Event]:
    """Return what a file of lines holds; a last line that was cut off is none."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
