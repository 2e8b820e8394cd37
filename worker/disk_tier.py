"""The disk tier: what huggingface_hub has downloaded into a folder of our own, bounded in bytes.

huggingface_hub writes the files: under their content's hash, with a rename at the end, and links to them by
repository and commit. This decides what goes. Several processes may share the folder: a file that one of them
reads is locked by the kernel until that one closes it or dies, and what was used last is the file's own time.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import time_ns

STALE_SECONDS = 3600
"""A download that wrote nothing for so long has no process any more; a folder that is empty for so long is
not about to be written to."""

_UNFINISHED = ".incomplete"


class NotOnDisk(Exception):
    """The file left the tier between its download and its use: fetch it once more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Blob:
    path: Path
    nbytes: int
    used_ns: int

    @property
    def is_unfinished(self) -> bool:
        return self.path.name.endswith(_UNFINISHED)


class DiskTier:
    """Files by content; the least recently used goes first, one in use never. Its calls block.

    Threads may share it.
    """

    def __init__(
        self,
        folder: Path,
        budget: int,
        *,
        is_pinned: Callable[[str], bool] = lambda _repo: False,
        on_evict: Callable[[], object] = lambda: None,
        clock_ns: Callable[[], int] = time_ns,
    ) -> None:
        """Hold `budget` bytes in `folder`; what is of a pinned repository stays."""
        self.folder = folder
        self._budget = budget
        self._pinned = is_pinned
        self._on_evict = on_evict
        self._clock_ns = clock_ns
        self._lock = Lock()
        self._coming = 0
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all files here, as last counted."""
        return self._nbytes

    @contextmanager
    def room_for(self, nbytes: int) -> Iterator[None]:
        """Make room for a download and keep it free while inside.

        What other processes download meanwhile comes on top. A file larger than the budget gets in all the
        same, because its job needs it, and goes before the next download.
        """
        with self._lock:
            self._evict(self._budget - self._coming - nbytes)
            self._coming += nbytes
        try:
            yield
        finally:
            with self._lock:
                self._coming -= nbytes

    def free(self, nbytes: int) -> bool:
        """Evict so many bytes, because the disk is full; whether any could be."""
        with self._lock:
            return self._evict(self._taken(self._blobs()) - max(1, nbytes)) > 0

    def sweep(self) -> None:
        """Count what is here, remove what dead processes left, and come down to the budget."""
        with self._lock:
            self._evict(self._budget)

    def remove(self, path: Path) -> bool:
        """Remove a file that is of no use; false while somebody reads it."""
        return _remove(path)

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Keep the file from being evicted, by any process, while inside.

        Raises:
            NotOnDisk: it was evicted already.
        """
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise NotOnDisk(path.name) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file.fileno()).st_nlink == 0:
                raise NotOnDisk(path.name)
            with suppress(PermissionError):  # of another user's file; then it keeps the time of its download
                os.utime(path, ns=(self._clock_ns(), self._clock_ns()))
            yield

    def _evict(self, most: int) -> int:
        """Evict until at most so many bytes are here, as far as that is possible; return the bytes freed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        freed = 0
        with (self.folder / ".eviction.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            blobs = self._blobs()
            here = self._taken(blobs)
            for blob in sorted(blobs, key=lambda blob: blob.used_ns):
                if here - freed <= most:
                    break
                if self._may_go(blob) and _remove(blob.path):
                    freed += blob.nbytes
                    self._on_evict()
        self._nbytes = sum(blob.nbytes for blob in blobs) - freed
        return freed

    def _taken(self, blobs: Sequence[_Blob]) -> int:
        """Return the bytes of files, but for our own downloads under way: they have their place already."""
        growing = sum(blob.nbytes for blob in blobs if blob.is_unfinished)
        return sum(blob.nbytes for blob in blobs) - min(growing, self._coming)

    def _blobs(self) -> list[_Blob]:
        """Return the files, without unfinished ones that nobody writes any more: these are removed.

        So are the folders of a repository from which all was evicted a while ago.
        """
        found = []
        for folder in self.folder.glob("models--*/blobs"):
            with suppress(FileNotFoundError):
                files = list(folder.iterdir())
                if not files and self._is_stale(folder.stat()):
                    _remove_empty(folder.parent)
                found += self._blobs_of(files)
        return found

    def _blobs_of(self, files: Iterable[Path]) -> list[_Blob]:
        found = []
        for path in files:
            with suppress(FileNotFoundError):  # an unfinished one that just got its name
                status = path.lstat()
                blob = _Blob(path=path, nbytes=status.st_size, used_ns=status.st_mtime_ns)
                if blob.is_unfinished and self._is_stale(status):
                    path.unlink()
                else:
                    found.append(blob)
        return found

    def _is_stale(self, status: os.stat_result) -> bool:
        return (self._clock_ns() - status.st_mtime_ns) / 1e9 > STALE_SECONDS

    def _may_go(self, blob: _Blob) -> bool:
        repo = blob.path.parents[1].name.removeprefix("models--").replace("--", "/")
        return not blob.is_unfinished and not self._pinned(repo)


def _remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as they are empty."""
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(path).rmdir()


def _remove(blob: Path) -> bool:
    """Remove a file and the links to it; false when somebody reads it, or removed it before."""
    try:
        descriptor = os.open(blob, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The links first: who finds one finds the file.
        for link in blob.parents[1].glob("snapshots/*/**/*"):
            if link.is_symlink() and link.readlink().name == blob.name:
                link.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
