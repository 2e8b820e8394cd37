"""The Hub, asked through its own client in a few threads: what is a repository, who may read a file.

Blocking calls of huggingface_hub run in a pool of their own, so a slow Hub holds up nobody who needs no
answer from it. Its errors end here.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Protocol, TypeVar
from urllib.parse import quote

import httpx2
from huggingface_hub import get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, re-exported without saying so
    build_hf_headers,
    hf_raise_for_status,
)

from router.hub_metadata import (
    EXPAND,
    REVISION,
    HubMetadata,
    UnknownToken,
    UnreadableMetadata,
    not_found,
    parse_metadata,
)
from shared.errors import HubUnavailable, InvalidRequest, RepoForbidden, WarmbaseError
from shared.refs import RepoId, Revision

T = TypeVar("T")

THREADS = 8
CALL_TIMEOUT = 5.0
"""Seconds between two bytes of the Hub."""
TOTAL_TIMEOUT = 12.0
"""Seconds that a question may take, waiting for a thread included."""


class HubObserver(Protocol):
    """Who wants to know of each call: its endpoint, HTTP status or kind of failure, and seconds."""

    def hub_request(self, endpoint: str, code: str, seconds: float) -> None:
        """Take note of one call."""
        ...


class Hub:
    """The Hub at `endpoint`. Tokens are the callers' own; without one, the call is anonymous."""

    def __init__(self, endpoint: str, observer: HubObserver) -> None:
        self._endpoint = endpoint
        self._observer = observer
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hub")

    async def metadata(self, repo: RepoId, revision: str | None, token: str | None) -> HubMetadata:
        """Return what the Hub says of a repository at a revision (a branch, tag or commit).

        Raises:
            RepoNotFound: there is no such repository for this caller, or no such revision.
            RepoForbidden: it is disabled, or the token is not valid.
            HubUnavailable: no answer, or one that cannot be read.
        """
        if revision in {".", ".."}:  # what an address would lose
            raise _no_revision(repo)
        return await self._call("metadata", repo, lambda: self._metadata(repo, revision, token))

    async def check_access(self, repo: RepoId, revision: Revision, file: str, token: str | None) -> None:
        """Return if the caller may read the file.

        Raises:
            RepoNotFound: there is no such repository or file for this caller.
            RepoForbidden: gated or disabled, and the token does not open it.
            HubUnavailable: no answer.
        """
        await self._call("file", repo, lambda: self._check_access(repo, revision, file, token))

    def close(self) -> None:
        """Begin no more calls, and return at once.

        A call under way still ends in its thread, which the interpreter waits for at its own exit.
        """
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _metadata(self, repo: RepoId, revision: str | None, token: str | None) -> HubMetadata:
        # Not HfApi.model_info: it parses cards into classes and fails on some that people write.
        address = f"{self._endpoint}/api/models/{repo}"
        if revision is not None:
            address += f"/revision/{quote(revision, safe='')}"
        response = get_session().get(
            address,
            headers=build_hf_headers(token=token or False),
            params={"expand": list(EXPAND)},
            timeout=CALL_TIMEOUT,
        )
        hf_raise_for_status(response)
        return parse_metadata(response.json())

    def _check_access(self, repo: RepoId, revision: Revision, file: str, token: str | None) -> None:
        get_hf_file_metadata(
            hf_hub_url(repo, file, revision=revision, endpoint=self._endpoint),
            token=token or False,
            timeout=CALL_TIMEOUT,
            endpoint=self._endpoint,
        )

    async def _call(self, endpoint: str, repo: RepoId, work: Callable[[], T]) -> T:
        begin, code = time.monotonic(), "error"
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                answer = await asyncio.get_running_loop().run_in_executor(self._threads, work)
                code = "200"
                return answer
        except (httpx2.HTTPError, UnreadableMetadata, EntryNotFoundError, OSError, ValueError) as error:
            code = _code(error)
            raise _translated(error, repo) from error
        finally:
            self._observer.hub_request(endpoint, code, time.monotonic() - begin)


def _code(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return str(error.response.status_code)
    return "timeout" if isinstance(error, TimeoutError | httpx2.TimeoutException) else "error"


def _translated(error: Exception, repo: RepoId) -> WarmbaseError:
    """Return our error for one of the Hub's client."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == HTTPStatus.UNAUTHORIZED and "Invalid credentials" in str(error):
        return UnknownToken("the Hub does not know the token of this request")
    for kind, answer in _BY_KIND:
        if isinstance(error, kind):
            return answer(repo)
    answer_to_status = _BY_STATUS.get(status or 0)
    return (
        answer_to_status(repo) if answer_to_status else HubUnavailable("the Hub does not answer; try again")
    )


def _no_revision(repo: RepoId) -> WarmbaseError:
    return InvalidRequest(REVISION, f"{repo} has no such branch, tag or commit")


_BY_KIND: tuple[tuple[type[Exception], Callable[[RepoId], WarmbaseError]], ...] = (
    # the gated error is a kind of not-found, so it comes first
    (
        GatedRepoError,
        lambda repo: RepoForbidden(
            f"{repo} is gated: ask for access on the Hub, then send a token that has it"
            " (Authorization: Bearer ...)"
        ),
    ),
    (DisabledRepoError, lambda repo: RepoForbidden(f"{repo} has been disabled on the Hub")),
    (RevisionNotFoundError, _no_revision),
    (EntryNotFoundError, lambda repo: InvalidRequest("weight_name", f"{repo} has no such file")),
    (RepositoryNotFoundError, not_found),
    (UnreadableMetadata, lambda repo: HubUnavailable(f"the Hub's answer about {repo} names no commit")),
)

_BY_STATUS: Mapping[int, Callable[[RepoId], WarmbaseError]] = {
    HTTPStatus.UNAUTHORIZED: not_found,
    HTTPStatus.FORBIDDEN: lambda repo: RepoForbidden(f"the Hub does not let this caller read {repo}"),
    HTTPStatus.NOT_FOUND: not_found,
    HTTPStatus.TOO_MANY_REQUESTS: lambda _: HubUnavailable(
        "the Hub limits our rate of requests; try again in a minute"
    ),
}
