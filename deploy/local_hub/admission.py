"""From the name in an address to a repository that the viewer may see."""

import asyncio
from typing import NoReturn

from aiohttp import web

from deploy.local_hub.access import may_see, refuse_files, refuse_metadata
from deploy.local_hub.hosted import HostedRepo
from deploy.local_hub.keys import CATALOG, VIEWER
from deploy.local_hub.refusals import RefusedError, entry_missing, repo_missing, revision_missing

MAIN = "main"


async def find_repo(request: web.Request) -> HostedRepo:
    """Return the repository of the address, for its metadata.

    Raises:
        RefusedError: it does not exist, or the viewer has no access.
        HTTPTemporaryRedirect: it has another name now.
    """
    name = request.match_info["repo"]
    viewer = request.get(VIEWER)
    repo = await asyncio.to_thread(request.app[CATALOG].find, name)
    if repo is None:
        raise RefusedError(repo_missing(viewer))
    if refusal := refuse_metadata(repo.id, repo.settings, viewer):
        raise RefusedError(refusal)
    if repo.id != name:
        _redirect(request, name, repo.id)
    return repo


async def find_repo_for_files(request: web.Request) -> HostedRepo:
    """Return the repository of the address, for its files: a gate counts.

    Raises:
        RefusedError: it does not exist, or the viewer has no access.
        HTTPTemporaryRedirect: it has another name now.
    """
    repo = await find_repo(request)
    if refusal := refuse_files(repo.id, repo.settings, request.get(VIEWER)):
        raise RefusedError(refusal)
    return repo


def check_revision(request: web.Request, repo: HostedRepo) -> None:
    """Make sure that the address means the files that are there now.

    Raises:
        RefusedError: it names another branch, or a commit that is no more.
    """
    revision = request.match_info.get("revision", MAIN)
    if revision not in {MAIN, repo.snapshot.commit}:
        raise RefusedError(revision_missing(revision))


def refuse_entry(repo: HostedRepo) -> NoReturn:
    """End the request: the commit has no such file or folder."""
    raise RefusedError(entry_missing(repo.snapshot.commit))


def visible_base(request: web.Request, name: str) -> HostedRepo | None:
    """Return a base model by the name a card uses, unless it is hidden from the viewer. Blocks."""
    base = request.app[CATALOG].find(name)
    return base if base and may_see(base.id, base.settings, request.get(VIEWER)) else None


def _redirect(request: web.Request, name: str, new_name: str) -> NoReturn:
    # The rest of the address stays as it was sent: decoding and encoding it again could change it.
    prefix = "/api/models/" if request.path.startswith("/api/models/") else "/"
    parts = request.rel_url.raw_path.removeprefix(prefix).split("/")
    rest = "/".join([new_name, *parts[name.count("/") + 1 :]])
    query = request.rel_url.raw_query_string
    raise web.HTTPTemporaryRedirect(f"{prefix}{rest}" + (f"?{query}" if query else ""))
