"""A repository as data: its files at one commit, what they say, and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from deploy.local_hub.documents import Documents
from deploy.local_hub.gitobjects import lfs_pointer
from deploy.local_hub.settings import RepoSettings
from deploy.local_hub.stamps import Stamp
from shared.refs import RepoId

# The Hub knows no creation date before this one (ModelInfo in the client's hf_api.py).
EPOCH = datetime(2022, 3, 2, 23, 29, 4, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class RepoFile:
    """One file of a commit. `oid` is git's name of what git holds: of the pointer, for a large file."""

    path: str
    oid: str
    sha256: str | None
    stamp: Stamp

    @property
    def size(self) -> int:
        """The size of the content in bytes."""
        return self.stamp.size

    @property
    def etag(self) -> str:
        """The name clients keep the content under: the sha256 of large files, else git's name."""
        return self.sha256 or self.oid

    @property
    def pointer_size(self) -> int | None:
        """The size of the text that git holds in place of a large file."""
        return len(lfs_pointer(self.sha256, self.size)) if self.sha256 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All files of a repository at one commit, by path in order; `folders` maps to git tree ids."""

    commit: str
    files: Mapping[str, RepoFile]
    folders: Mapping[str, str]

    @property
    def modified_at(self) -> datetime:
        """When the newest file was written."""
        return _moment(max((file.stamp.modified_ns for file in self.files.values()), default=None))

    @property
    def begun_at(self) -> datetime:
        """When the oldest file was written."""
        return _moment(min((file.stamp.modified_ns for file in self.files.values()), default=None))


@dataclass(frozen=True, kw_only=True, slots=True)
class HostedRepo:
    """A repository as it is now, under its current name."""

    id: RepoId
    settings: RepoSettings
    snapshot: Snapshot
    documents: Documents


def _moment(modified_ns: int | None) -> datetime:
    return EPOCH if modified_ns is None else datetime.fromtimestamp(modified_ns / 1e9, UTC)
