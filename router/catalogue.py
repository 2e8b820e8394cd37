"""What a caller may know of repositories: public facts for all, private ones for the token that reads them.

Three memories, so that nothing which one token opened is ever shown to another caller.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from router.base_aliases import current_id
from router.hub_metadata import HubMetadata, UnknownToken, first_of, not_found
from router.metadata_cache import Lifetimes, MetadataCache
from router.weight_files import telling_files
from shared.errors import RepoForbidden, RepoNotFound
from shared.refs import AdapterRef, RepoId, Revision

NEGATIVE = 15.0
"""Seconds that a missing repository stays missing; a new one is usable this soon."""
STALE = 24 * 3600.0
"""Seconds that public metadata stands in while the Hub does not answer."""
PRIVATE = 60.0
"""Seconds that what a token may see is remembered: this soon a revoked token ends."""
PRIVATE_NEGATIVE = 5.0
CAPACITY = 4_000
"""Repositories, and callers of each: a description takes up to some 50,000 characters."""
FILES_CHARACTERS = 16_384
"""Of the paths that are remembered of one repository together."""


class HubSource(Protocol):
    """The two questions that the Hub is asked (`router.hub.Hub`)."""

    async def metadata(self, repo: RepoId, revision: str | None, token: str | None) -> HubMetadata:
        """Return what the Hub says of a repository."""
        ...

    async def check_access(self, repo: RepoId, revision: Revision, file: str, token: str | None) -> None:
        """Return if the caller may read the file."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Caller:
    """A caller's token, told apart by its digest; the token itself is in no comparison and no text."""

    digest: bytes
    token: str = field(repr=False, compare=False)


class Catalogue:
    """The repositories of the Hub, as callers may see them. Times are in seconds."""

    def __init__(self, hub: HubSource, *, fresh: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        mine = Lifetimes(fresh=PRIVATE, negative=PRIVATE_NEGATIVE)
        everybodys = Lifetimes(fresh=fresh, negative=min(NEGATIVE, fresh), stale=STALE)
        self._public = MetadataCache(self._fetch_public, lifetimes=everybodys, clock=clock, capacity=CAPACITY)
        self._private = MetadataCache(self._fetch_private, lifetimes=mine, clock=clock, capacity=CAPACITY)
        self._access = MetadataCache(self._fetch_access, lifetimes=mine, clock=clock, capacity=CAPACITY)

    async def look_up(self, repo: RepoId, revision: str | None, token: str | None) -> HubMetadata:
        """Return the metadata of a repository, under the id that it has today.

        Raises:
            RepoNotFound: there is none that this caller may see.
            RepoForbidden: it is disabled, or the token is not valid.
            HubUnavailable: the Hub does not answer, and nothing known can stand in.
        """
        current = current_id(repo)
        metadata = self._private.known((_caller(token), current, revision)) if token else None
        if metadata is None:
            try:
                metadata = await self._public.get((current, revision))
            except RepoNotFound:
                if token is None:
                    raise
                metadata = await self._of_caller(_caller(token), current, revision)
        if metadata.disabled:
            raise RepoForbidden(f"{repo} has been disabled on the Hub")
        return metadata

    async def _of_caller(self, caller: _Caller, repo: RepoId, revision: str | None) -> HubMetadata:
        try:
            return await self._private.get((caller, repo, revision))
        except UnknownToken as error:  # a proxy may have made it up
            raise RepoNotFound(
                f"{repo}: not found, or private; the Hub does not know the token of this request"
            ) from error

    async def authorise(self, adapter: AdapterRef, token: str | None) -> None:
        """Return if the token opens the adapter's weight file.

        Raises:
            RepoForbidden: it does not, or there is none.
            HubUnavailable: the Hub does not answer; what is not public has no stale permission.
        """
        if token is None:
            raise RepoForbidden(
                f"{adapter.repo} is gated or private: send a token that may read it"
                " (Authorization: Bearer ...)"
            )
        try:
            await self._access.get((_caller(token), adapter.repo, adapter.revision, adapter.weight_name))
        except RepoNotFound as error:
            raise RepoForbidden(
                f"{adapter.repo}: the token reads its description but not its files"
            ) from error

    async def close(self) -> None:
        """End the calls that are under way."""
        for memory in (self._public, self._private, self._access):
            await memory.close()

    async def _fetch_public(self, key: tuple[RepoId, str | None]) -> HubMetadata:
        metadata = await self._hub.metadata(*key, token=None)
        if metadata.private:  # whoever let this process see it: it is not for everybody
            raise not_found(metadata.repo)
        return _kept(metadata)

    async def _fetch_private(self, key: tuple[_Caller, RepoId, str | None]) -> HubMetadata:
        caller, repo, revision = key
        return _kept(await self._hub.metadata(repo, revision, caller.token))

    async def _fetch_access(self, key: tuple[_Caller, RepoId, Revision, str]) -> None:
        caller, repo, revision, file = key
        await self._hub.check_access(repo, revision, file, caller.token)


def _kept(metadata: HubMetadata) -> HubMetadata:
    """Return what is worth remembering: a repository may have very many files."""
    return replace(metadata, files=first_of(telling_files(metadata.files), FILES_CHARACTERS))


def _caller(token: str) -> _Caller:
    return _Caller(digest=hashlib.sha256(token.encode()).digest(), token=token)
