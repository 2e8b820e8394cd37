"""What tells one reading of a weight file from another: at once a number, and later on its digest."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from threading import Semaphore

HASHED_AT_ONCE = 2
"""Files. What is hashed stays in memory even if its tier has let go of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One reading of a weight file.

    Attributes:
        number: no other one of the same base has it.
        digest: SHA-256 of the file, hexadecimal. Hashing takes several times as long as reading does, so
            nobody waits for it before the adapter's image is there.
    """

    number: int
    digest: Future[str]


class Readings:
    """Numbers the readings of one base's files, and hashes them. Safe across threads."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._threads = ThreadPoolExecutor(HASHED_AT_ONCE, "hash")
        self._free = Semaphore(HASHED_AT_ONCE)

    def of(self, content: memoryview) -> Reading:
        """Return a new reading of a file with these bytes, once few enough others are being hashed."""
        self._free.acquire()
        digest = self._threads.submit(_sha256, content)
        digest.add_done_callback(lambda _: self._free.release())
        return Reading(number=next(self._numbers), digest=digest)


def _sha256(content: memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
