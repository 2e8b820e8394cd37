"""Images as files of one directory, for a deployment on one host."""

import asyncio
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shared.errors import NoRoom, ResultGone, WorkerFault
from shared.queue.terms import Lease
from shared.refs import RepoId
from shared.results.store import GONE, NO_ROOM, ImageTooLarge, attempt_name, is_name, source_name

LOCK = ".lock"
UNFINISHED = ".part"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
READING_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    path: Path
    size: int
    since: float


class FileResults:
    """A `ResultStore` in a directory that router and workers of one host share.

    A file appears whole or not at all. What a crash of the host leaves is found out by its digest, so
    nothing is forced to the disk. Foreign files in the directory are left alone.

    A disk may hang, and so may the lock, with whoever holds it. That costs threads of the store's own, which
    nobody waits for: who asks sets the bound.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ttl: int,
        most_bytes: int,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - the host's own clock stamps its files
    ) -> None:
        """`ttl` is in seconds; `clock` tells the time that files are stamped with."""
        self._directory = directory
        self._ttl = ttl
        self._most_bytes = most_bytes
        self._clock = clock
        # One writes at a time anyway. Apart, so that one who waits for the lock holds up no reader.
        self._writing = ThreadPoolExecutor(1, "results-write")
        self._reading = ThreadPoolExecutor(READING_THREADS, "results-read")

    def close(self) -> None:
        """Let go of the threads, without waiting for what still runs on them."""
        for threads in (self._writing, self._reading):
            threads.shutdown(wait=False, cancel_futures=True)

    async def put(self, lease: Lease, data: bytes) -> str:
        """Keep the image. A full disk is first relieved of the oldest ones."""
        name = attempt_name(lease)
        await self._put_named(name, data, self._clock())
        return name

    async def put_source(self, base: RepoId, digest: str, data: bytes, seconds: float) -> None:
        """Keep a picture that jobs start from."""
        # a file is over a ttl after its time: one that is kept for longer is of a later time
        since = self._clock() + max(0.0, seconds - self._ttl)
        await self._put_named(source_name(base, digest), data, since)

    async def _put_named(self, name: str, data: bytes, since: float) -> None:
        if len(data) > self._most_bytes:
            raise ImageTooLarge(len(data), self._most_bytes)
        await asyncio.get_running_loop().run_in_executor(self._writing, self._put, name, data, since)

    async def get(self, name: str) -> bytes:
        """Return the image."""
        if not is_name(name):
            raise ResultGone(GONE)
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._get, name)

    def _put(self, name: str, data: bytes, since: float) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._make_room(name, self._most_bytes - len(data))
                self._write_or_make_room(name, data, since)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise NoRoom(NO_ROOM) from error
            raise WorkerFault("the image cannot be written") from error

    def _get(self, name: str) -> bytes:
        try:
            with (self._directory / name).open("rb") as file:
                if os.fstat(file.fileno()).st_mtime + self._ttl <= self._clock():
                    raise ResultGone(GONE)
                return file.read()
        except FileNotFoundError as error:
            raise ResultGone(GONE) from error
        except OSError as error:
            raise WorkerFault("the image cannot be read") from error

    def _write_or_make_room(self, name: str, data: bytes, since: float) -> None:
        while True:
            try:
                return self._write(name, data, since)
            except OSError as error:
                others = sum(each.size for each in self._others(name))
                if error.errno not in NO_SPACE or others == 0:
                    raise
                self._make_room(name, max(0, others - max(1, len(data))))

    def _write(self, name: str, data: bytes, since: float) -> None:
        since = max(since, self._since(name))
        part = self._directory / f"{name}.{secrets.token_hex(4)}{UNFINISHED}"
        try:
            part.write_bytes(data)
            os.utime(part, (since, since))
            part.replace(self._directory / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _since(self, name: str) -> float:
        """Return the time of what is kept under this name: one who wants it for longer is owed that still."""
        try:
            return (self._directory / name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _make_room(self, name: str, most_bytes: int) -> None:
        """Delete what is over, and the oldest images until those besides `name` have `most_bytes`."""
        total = 0
        for each in sorted(self._others(name), key=lambda each: each.since, reverse=True):
            total += each.size
            if total > most_bytes or each.since + self._ttl <= self._clock():
                each.path.unlink(missing_ok=True)

    def _others(self, name: str) -> Iterator[_Kept]:
        """Yield what may go for `name`; what is kept under it stays until it is replaced."""
        return (each for each in self._kept() if each.path.name != name)

    def _kept(self) -> Iterator[_Kept]:
        for entry in os.scandir(self._directory):
            # An unfinished one belongs to a process that died: whoever writes holds the lock.
            name, _, part = entry.name.partition(".")
            if is_name(name) and (not part or part.endswith(UNFINISHED[1:])):
                with suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield _Kept(path=Path(entry.path), size=found.st_size, since=found.st_mtime)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep the other processes from writing, so that their images are counted."""
        with (self._directory / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
