"""When a file on disk may be taken as unchanged without reading it again."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

# Two writes within one tick of the file system's clock leave the same times behind.
CLOCK_TICK_NS = 100_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What `stat` says of one version of a file."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take the stamp out of a `stat` result."""
        return cls(
            inode=status.st_ino,
            size=status.st_size,
            modified_ns=status.st_mtime_ns,
            changed_ns=status.st_ctime_ns,
        )

    def is_settled(self, now_ns: int) -> bool:
        """Say whether a later write is sure to change the stamp ("racy git" in git's documentation)."""
        return now_ns - max(self.modified_ns, self.changed_ns) > CLOCK_TICK_NS


class WatchedFile(Generic[T]):
    """A small text file, parsed again only after it has changed; a missing file reads as ``""``."""

    def __init__(self, path: Path, parse: Callable[[str], T], clock_ns: Callable[[], int]) -> None:
        self._path = path
        self._parse = parse
        self._clock_ns = clock_ns
        self._known: tuple[Stamp, T] | None = None

    def read(self) -> T:
        """Return the parsed content as it is on disk now."""
        now_ns = self._clock_ns()
        try:
            stamp = Stamp.of(self._path.stat())
            if self._known is not None and self._known[0] == stamp:
                return self._known[1]
            value = self._parse(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return self._parse("")
        self._known = (stamp, value) if stamp.is_settled(now_ns) else None
        return value
