"""Weight files from the Hub: their sizes, and their way into the disk tier."""

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from httpx2 import HTTPError
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
)
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from shared.errors import AdapterRejected, HubUnavailable, RepoForbidden, RepoNotFound, WorkerFault
from shared.refs import AdapterRef
from worker.disk_tier import DiskTier, NotOnDisk

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubFiles:
    """Weight files by repository, commit and name. Its calls block, and may be made from several threads.

    Nothing here authorises a caller: a file on disk is given out without asking the Hub. The router has
    asked, with the caller's own token, before it made the job.
    """

    def __init__(self, hub: str, max_bytes: int, disk: DiskTier) -> None:
        """Take files of up to `max_bytes` from the Hub at address `hub` into `disk`."""
        self._hub = hub
        self._max_bytes = max_bytes
        self._disk = disk
        self._looked_at: set[str] = set()
        # Files that several repositories have, and those that are no links, would lie where the tier does not
        # look, and not be bounded.
        constants.HF_HUB_DISABLE_SHARED_BLOBS = True
        constants.HF_HUB_DISABLE_SYMLINKS = False

    def size(self, ref: AdapterRef, token: str | None) -> int:
        """Return the file's bytes as the Hub tells them to `token`, before any download.

        Raises:
            AdapterRejected: the file is larger than allowed.
            RepoNotFound: the repository, commit or file is gone.
            RepoForbidden: the token does not open the repository.
            HubUnavailable: the Hub does not answer.
        """
        url = hf_hub_url(ref.repo, ref.weight_name, revision=ref.revision, endpoint=self._hub)
        with _typed_errors(ref):
            metadata = get_hf_file_metadata(url, token=_authorisation(token), endpoint=self._hub)
        return self._allowed(ref, metadata.size)

    def fetch(self, ref: AdapterRef, token: str | None, nbytes: int) -> None:
        """Bring the file to disk, if it is not there yet: a download with the caller's `token`.

        `nbytes` is its `size`: only asking for that refuses a large file before it is downloaded.

        Raises:
            WorkerFault: the disk is full, and nothing can be evicted.
            Others: as `size`.
        """
        if self.is_here(ref):
            return
        with _typed_errors(ref), self._disk.room_for(nbytes):
            self._download(ref, token, nbytes)

    def is_here(self, ref: AdapterRef) -> bool:
        """Whether the file is on disk."""
        return self._path(ref).is_file()

    def size_here(self, ref: AdapterRef) -> int | None:
        """Return the bytes of the file on disk, None where it is not there.

        Raises:
            AdapterRejected: it is larger than allowed.
        """
        try:
            nbytes = self._path(ref).stat().st_size
        except FileNotFoundError:
            return None
        return self._allowed(ref, nbytes)

    @contextmanager
    def reading(self, ref: AdapterRef) -> Iterator[Path]:
        """Give the file's path; it stays on disk while the context is open.

        Raises:
            NotOnDisk: it has been evicted.
            AdapterRejected: it is larger than allowed.
        """
        path = self._path(ref)
        with self._disk.reading(path):
            # Once more, for a Hub that did not keep its word.
            self._allowed(ref, path.stat().st_size)
            yield path

    def drop_damaged(self, ref: AdapterRef) -> bool:
        """Remove a file whose content is not what the Hub gave, so that it is fetched once more.

        What a machine wrote just before it lost its power may be shorter than it was. A large file has the
        SHA-256 of its content for a name, which is looked at once: the Hub itself may be wrong about it.
        Returns whether the file is to be fetched.
        """
        path = self._path(ref)
        blob = path.resolve()
        if not path.is_file():
            return True
        if not _SHA256.fullmatch(blob.name) or blob.name in self._looked_at:
            return False
        try:
            with self._disk.reading(blob), blob.open("rb") as file:
                is_sound = hashlib.file_digest(file, "sha256").hexdigest() == blob.name
        except NotOnDisk:
            return True
        if is_sound or self._disk.remove(blob):  # else another process looks at it, too
            self._looked_at.add(blob.name)
        return not is_sound

    def _path(self, ref: AdapterRef) -> Path:
        # `try_to_load_from_cache` would believe a Hub for ever that once did not find the file
        repository = self._disk.folder / repo_folder_name(repo_id=ref.repo, repo_type="model")
        return repository / "snapshots" / ref.revision / ref.weight_name

    def _download(self, ref: AdapterRef, token: str | None, nbytes: int) -> None:
        has_lost_folder = False
        while True:
            try:
                hf_hub_download(
                    ref.repo,
                    ref.weight_name,
                    revision=ref.revision,
                    cache_dir=self._disk.folder,
                    token=_authorisation(token),
                    endpoint=self._hub,
                )
            except (OSError, RuntimeError) as error:
                if getattr(error, "errno", None) == errno.ENOENT and not has_lost_folder:
                    # Another process may have removed the repository's folder, which was empty until now.
                    has_lost_folder = True
                elif not self._is_full(error, nbytes):
                    raise
                # Others write to the disk too: it may be full before our own budget is.
                elif not self._disk.free(nbytes):
                    raise OSError(errno.ENOSPC, "the disk is full") from error
            else:
                return

    def _is_full(self, error: OSError | RuntimeError, nbytes: int) -> bool:
        """Whether a download of so many bytes failed because the disk is full."""
        if type(error) in {OSError, RuntimeError} and getattr(error, "errno", None) is None:
            # what hf_xet, which fetches most files, makes of whatever goes wrong
            return shutil.disk_usage(self._disk.folder).free < nbytes
        return isinstance(error, OSError) and error.errno in DISK_FULL

    def _allowed(self, ref: AdapterRef, size: int | None) -> int:
        if size is None:
            raise AdapterRejected(f"{ref.repo}: the Hub does not say how large {ref.weight_name} is")
        if size > self._max_bytes:
            raise AdapterRejected(
                f"{ref.repo}: {ref.weight_name} has {size} bytes; at most {self._max_bytes} are taken here"
            )
        return size


def _authorisation(token: str | None) -> str | Literal[False]:
    # False: without it the library would send the token of the deployment's own environment.
    return token or False


@contextmanager
def _typed_errors(ref: AdapterRef) -> Iterator[None]:
    """Turn the client's errors into ours. Their texts hold addresses, and stay in the log."""
    where = f"{ref.repo} at commit {ref.revision[:12]}"
    try:
        yield
    except (GatedRepoError, DisabledRepoError) as error:
        raise RepoForbidden(
            f"{ref.repo} is gated or disabled, and the caller's token does not open it"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise RepoNotFound(f"{where} is not on the Hub, or not for this caller") from error
    except LocalEntryNotFoundError as error:
        raise HubUnavailable(f"the Hub does not answer for {where}") from error
    except EntryNotFoundError as error:
        raise RepoNotFound(f"{where} holds no file {ref.weight_name}") from error
    except HfHubHTTPError as error:
        if error.response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise RepoForbidden(f"the caller's token does not open {where}") from error
        raise HubUnavailable(f"the Hub cannot give {where} now") from error
    except (HTTPError, OSError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None or isinstance(error, ConnectionError | TimeoutError):
            # not of this machine: also fewer bytes than announced, and what hf_xet raises
            raise HubUnavailable(f"the Hub does not answer for {where}, or broke off; try again") from error
        if number in DISK_FULL:
            raise WorkerFault(
                f"the worker's disk is full and cannot take {ref.repo}; try again, or ask the operator"
            ) from error
        raise
