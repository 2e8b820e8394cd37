"""A folder read as a repository: listed, hashed, and opened only while it is what was listed."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from deploy.local_hub import documents
from deploy.local_hub.gitobjects import commit_oid, is_lfs, lfs_pointer, object_oid, tree_oids
from deploy.local_hub.hosted import HostedRepo, RepoFile, Snapshot
from deploy.local_hub.settings import RepoSettings, SettingsError, parse_repo_settings
from deploy.local_hub.stamps import Stamp, WatchedFile
from shared.refs import RepoId

SETTINGS_FILE = ".hub.yaml"
MAX_ATTEMPTS = 4
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
# The client refuses longer headers (constants.SAFETENSORS_MAX_HEADER_LENGTH).
MAX_HEADER_BYTES = 25_000_000
_CHUNK_BYTES = 1024 * 1024


class FileChangedError(Exception):
    """A file is no longer the version that was listed; list again."""


class UnsettledError(Exception):
    """The folder changes faster than it can be read; try again later."""


class OpenFile:
    """One version of one file, opened for reading; a read fails once the file has changed."""

    def __init__(self, path: Path, stamp: Stamp) -> None:
        try:
            # A link would lead out of the repository, so none is followed.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise FileChangedError(path.name) from error
        self._file = os.fdopen(descriptor, "rb")
        self._stamp = stamp
        try:
            self._check()
        except FileChangedError:
            self._file.close()
            raise

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def read(self, start: int, length: int) -> bytes:
        """Return up to `length` bytes from `start`, all of the version that was opened.

        Raises:
            FileChangedError: the file has been written since it was listed.
        """
        self._file.seek(start)
        content = self._file.read(length)
        self._check()
        return content

    def _check(self) -> None:
        if Stamp.of(os.fstat(self._file.fileno())) != self._stamp:
            raise FileChangedError(self._file.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """A file whose content was read, and whether its stamp alone now tells of a change."""

    file: RepoFile
    settled: bool


class Repository:
    """One folder of the Hub. Methods block; any thread may call them."""

    def __init__(self, repo_id: RepoId, folder: Path, clock_ns: Callable[[], int]) -> None:
        self.id = repo_id
        self._folder = folder
        self._clock_ns = clock_ns
        self._settings = WatchedFile(folder / SETTINGS_FILE, parse_repo_settings, clock_ns)
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._snapshot: Snapshot | None = None
        self._described: tuple[str, documents.Documents] | None = None

    def read(self) -> HostedRepo:
        """Return the repository as it is on disk now. Only files that changed are read again.

        Raises:
            UnsettledError: the files kept changing while they were read.
            SettingsError: `.hub.yaml` is wrong.
        """
        settings = self.settings()
        with self._lock:
            for _ in range(MAX_ATTEMPTS):
                try:
                    snapshot = self._take_snapshot()
                    described = self._describe(snapshot)
                except FileChangedError:
                    continue
                return HostedRepo(id=self.id, settings=settings, snapshot=snapshot, documents=described)
        raise UnsettledError(self.id)

    def settings(self) -> RepoSettings:
        """Return what `.hub.yaml` says now.

        Raises:
            SettingsError: it is wrong.
        """
        try:
            return self._settings.read()
        except SettingsError as error:
            raise SettingsError(f"{self.id}/{SETTINGS_FILE}: {error}") from error

    def open(self, file: RepoFile) -> OpenFile:
        """Open `file` for reading.

        Raises:
            FileChangedError: it is no longer the version that was listed.
        """
        return OpenFile(self._folder / file.path, file.stamp)

    def _take_snapshot(self) -> Snapshot:
        now_ns = self._clock_ns()
        known: dict[str, _Known] = {}
        for path, stamp in sorted(_scan(self._folder)):
            before = self._known.get(path)
            if before is not None and before.settled and before.file.stamp == stamp:
                known[path] = before
            else:
                file = self._hash(path, stamp)
                known[path] = _Known(file=file, settled=stamp.is_settled(now_ns))
        self._known = known
        files = {path: entry.file for path, entry in known.items()}
        if self._snapshot is None or self._snapshot.files != files:
            folders = tree_oids({path: file.oid for path, file in files.items()})
            commit = commit_oid(folders.pop(""))
            self._snapshot = Snapshot(commit=commit, files=files, folders=folders)
        return self._snapshot

    def _hash(self, path: str, stamp: Stamp) -> RepoFile:
        whole = hashlib.sha256()
        blob = hashlib.sha1(f"blob {stamp.size}\0".encode(), usedforsecurity=False)
        large = is_lfs(path)
        digest = whole if large else blob
        with OpenFile(self._folder / path, stamp) as file:
            for start in range(0, stamp.size, _CHUNK_BYTES):
                digest.update(file.read(start, _CHUNK_BYTES))
        if not large:
            return RepoFile(path=path, oid=blob.hexdigest(), sha256=None, stamp=stamp)
        sha256 = whole.hexdigest()
        pointer = lfs_pointer(sha256, stamp.size)
        return RepoFile(path=path, oid=object_oid("blob", pointer), sha256=sha256, stamp=stamp)

    def _describe(self, snapshot: Snapshot) -> documents.Documents:
        if self._described is None or self._described[0] != snapshot.commit:
            self._described = (snapshot.commit, self._read_documents(snapshot.files))
        return self._described[1]

    def _read_documents(self, files: Mapping[str, RepoFile]) -> documents.Documents:
        def parsed(
            name: str, parse: Callable[[bytes], Mapping[str, object] | None]
        ) -> Mapping[str, object] | None:
            file = files.get(name)
            if file is None or file.size > MAX_DOCUMENT_BYTES:
                return None
            with self.open(file) as content:
                return parse(content.read(0, file.size))

        return documents.Documents(
            card=parsed(documents.CARD, documents.parse_card),
            model_index=parsed(documents.MODEL_INDEX, documents.parse_object),
            adapter_config=parsed(documents.ADAPTER_CONFIG, documents.parse_object),
            config=parsed(documents.CONFIG, documents.parse_object),
            parameters=self._count_parameters(files.get(documents.WEIGHTS)),
        )

    def _count_parameters(self, file: RepoFile | None) -> Mapping[str, int] | None:
        if file is None:
            return None
        with self.open(file) as content:
            length = int.from_bytes(content.read(0, 8), "little")
            if length > min(MAX_HEADER_BYTES, file.size):
                return None
            return documents.count_parameters(content.read(8, length))


def _scan(folder: Path, prefix: str = "") -> Iterator[tuple[str, Stamp]]:
    """Yield every file that is served. Hidden entries and links are not."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from _scan(Path(entry.path), f"{prefix}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    yield f"{prefix}{entry.name}", Stamp.of(entry.stat(follow_symlinks=False))
    except FileNotFoundError as error:
        raise FileChangedError(prefix) from error
