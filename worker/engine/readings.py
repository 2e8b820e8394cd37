"""What tells one reading of a weight file from another: at once a number, and later on its digest."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from threading import Condition

HASHED_AT_ONCE = 2
"""Files: each takes a core from what is drawn on a CPU."""

MOST_PENDING = 512 << 20
"""Bytes of files that wait for their hash. They stay in memory for it, whatever their tier does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One reading of a weight file.

    Attributes:
        number: no other one of the same base has it.
        nbytes: what the file has.
        digest: SHA-256 of the file, hexadecimal. Hashing takes several times as long as reading does, so
            an adapter is there before it.
    """

    number: int
    nbytes: int
    digest: Future[str]


class Readings:
    """Numbers the readings of one base's files, and hashes them. Safe across threads."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._threads = ThreadPoolExecutor(HASHED_AT_ONCE, "hash")
        self._pending = 0
        self._hashed = Condition()

    def of(self, content: memoryview) -> Reading:
        """Return a new reading of a file with these bytes.

        At once, unless these and those of others that are not hashed yet are more than `MOST_PENDING`.
        """
        nbytes = len(content)
        with self._hashed:
            self._hashed.wait_for(lambda: self._pending == 0 or self._pending + nbytes <= MOST_PENDING)
            digest = self._threads.submit(_sha256, content)
            self._pending += nbytes
        # a future keeps its callbacks for good, and whatever they speak of
        digest.add_done_callback(lambda _: self._forget(nbytes))
        if nbytes > MOST_PENDING:
            digest.result()
        return Reading(number=next(self._numbers), nbytes=nbytes, digest=digest)

    def _forget(self, nbytes: int) -> None:
        with self._hashed:
            self._pending -= nbytes
            self._hashed.notify_all()


def _sha256(content: memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
