"""The disk tier: weight files of the Hub, kept by huggingface_hub in its own store on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from shared.errors import AdapterRejected, HubUnavailable, RepoForbidden, RepoNotFound
from shared.refs import AdapterRef


class HubFiles:
    """Weight files by repository, commit and name. Its calls block, and may be made from several threads.

    Nothing here authorises a caller: a file on disk is given out without asking the Hub. The router has
    asked, with the caller's own token, before it made the job.
    """

    def __init__(self, hub: str, max_bytes: int, folder: Path | None = None) -> None:
        """Take files from the Hub at address `hub` into `folder`, by default huggingface_hub's own."""
        self._hub = hub
        self._max_bytes = max_bytes
        self._folder = folder

    def fetch(self, ref: AdapterRef, token: str | None) -> Path:
        """Return the file's path, after downloading it with the caller's `token` if it is not on disk yet.

        Raises:
            AdapterRejected: the file is larger than allowed.
            RepoNotFound: the repository, commit or file is gone.
            RepoForbidden: the token does not open the repository.
            HubUnavailable: the Hub does not answer.
        """
        path = self._on_disk(ref)
        if path is None:
            with _typed_errors(ref):
                path = self._download(ref, token)
        # Once more for what was on disk already, and for a Hub that does not keep its word.
        self._check_size(ref, path.stat().st_size)
        return path

    def _on_disk(self, ref: AdapterRef) -> Path | None:
        found = try_to_load_from_cache(
            ref.repo, ref.weight_name, cache_dir=self._folder, revision=ref.revision
        )
        return Path(found) if isinstance(found, str) else None

    def _download(self, ref: AdapterRef, token: str | None) -> Path:
        # False: without it the library would send the token of the deployment's own environment.
        authorisation = token or False
        url = hf_hub_url(ref.repo, ref.weight_name, revision=ref.revision, endpoint=self._hub)
        metadata = get_hf_file_metadata(url, token=authorisation, endpoint=self._hub)
        self._check_size(ref, metadata.size)
        return Path(
            hf_hub_download(
                ref.repo,
                ref.weight_name,
                revision=ref.revision,
                cache_dir=self._folder,
                token=authorisation,
                endpoint=self._hub,
            )
        )

    def _check_size(self, ref: AdapterRef, size: int | None) -> None:
        if size is None:
            raise AdapterRejected(f"{ref.repo}: the Hub does not say how large {ref.weight_name} is")
        if size > self._max_bytes:
            raise AdapterRejected(
                f"{ref.repo}: {ref.weight_name} has {size} bytes; at most {self._max_bytes} are taken here"
            )


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
    except (FileMetadataError, HTTPError, ConnectionError) as error:
        raise HubUnavailable(f"the Hub does not answer for {where}") from error
