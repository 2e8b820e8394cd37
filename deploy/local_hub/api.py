"""The JSON routes under `/api`."""

import asyncio
from functools import partial

from aiohttp import web

from deploy.local_hub.access import may_see
from deploy.local_hub.admission import (
    MAIN,
    check_revision,
    find_repo,
    find_repo_for_files,
    refuse_entry,
    visible_base,
)
from deploy.local_hub.catalog import Catalog, names_of
from deploy.local_hub.keys import CATALOG, VIEWER
from deploy.local_hub.listing import Query, expand_keys, flag, list_models, paginate
from deploy.local_hub.metadata import describe, selected, sized_siblings, unexpanded
from deploy.local_hub.refusals import RefusedError, bad_request, login_required
from deploy.local_hub.tree import list_tree, paths_info

# The Hub's page sizes (`_iter_repo_tree_pages` in the client's hf_api.py).
TREE_PAGE = 1000
EXPANDED_TREE_PAGE = 50


async def model_info(request: web.Request) -> web.Response:
    """`GET /api/models/{id}` and `.../revision/{rev}`."""
    query = query_of(request)
    keys = expand_keys(query)
    if keys and (flag(query, "blobs") or flag(query, "securityStatus")):
        raise RefusedError(bad_request("expand cannot be used with blobs or securityStatus"))
    repo = await find_repo(request)
    check_revision(request, repo)
    description = await asyncio.to_thread(describe, repo, partial(visible_base, request))
    if flag(query, "blobs"):
        description["siblings"] = sized_siblings(repo.snapshot.files)
    return web.json_response(selected(description, keys) if keys else unexpanded(description))


async def models(request: web.Request) -> web.Response:
    """`GET /api/models`: those that the viewer may see and that fit the query."""
    descriptions = await asyncio.to_thread(_describe_all, request.app[CATALOG], request.get(VIEWER))
    page = list_models(descriptions, query_of(request))
    return _page_response(request, page.items, page.next_cursor)


async def tree(request: web.Request) -> web.Response:
    """`GET /api/models/{id}/tree/{rev}[/{path}]`."""
    query = query_of(request)
    expand = flag(query, "expand")
    repo = await find_repo(request)
    check_revision(request, repo)
    folder = request.match_info.get("path", "")
    entries = list_tree(repo, folder, recursive=flag(query, "recursive"), expand=expand)
    if entries is None:
        refuse_entry(repo)
    page = paginate(entries, query, EXPANDED_TREE_PAGE if expand else TREE_PAGE)
    return _page_response(request, page.items, page.next_cursor)


async def paths(request: web.Request) -> web.Response:
    """`POST /api/models/{id}/paths-info/{rev}`, with a form (Python) or JSON (JavaScript)."""
    repo = await find_repo(request)
    check_revision(request, repo)
    wanted, expand = await _wanted_paths(request)
    return web.json_response(paths_info(repo, wanted, expand=expand))


async def refs(request: web.Request) -> web.Response:
    """`GET /api/models/{id}/refs`: there is one branch."""
    repo = await find_repo(request)
    branch = {"name": MAIN, "ref": f"refs/heads/{MAIN}", "targetCommit": repo.snapshot.commit}
    answer: dict[str, object] = {"branches": [branch], "converts": [], "tags": []}
    if flag(query_of(request), "include_prs"):
        answer["pullRequests"] = []
    return web.json_response(answer)


async def auth_check(request: web.Request) -> web.Response:
    """`GET /api/models/{id}/auth-check`: whether the viewer may read the files."""
    await find_repo_for_files(request)
    return web.json_response({})


async def whoami(request: web.Request) -> web.Response:
    """`GET /api/whoami-v2`."""
    user = request.get(VIEWER)
    if user is None:
        raise RefusedError(login_required())
    token = {"displayName": user, "role": "read"}
    return web.json_response(
        {
            "type": "user",
            "id": user,
            "name": user,
            "fullname": user,
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def query_of(request: web.Request) -> Query:
    """Return all values of each query parameter."""
    return {name: request.query.getall(name) for name in request.query}


def _describe_all(catalog: Catalog, viewer: str | None) -> list[dict[str, object]]:
    visible = [repo for repo in catalog.all() if may_see(repo.id, repo.settings, viewer)]
    named = {name: repo for repo in visible for name in names_of(repo.id, repo.settings)}
    listed = [repo for repo in visible if not repo.settings.disabled]
    return [describe(repo, lambda name: named.get(name.lower())) for repo in listed]


def _page_response(
    request: web.Request, items: list[dict[str, object]], next_cursor: int | None
) -> web.Response:
    response = web.json_response(items)
    if next_cursor is not None:
        following = request.url.update_query(cursor=str(next_cursor))
        response.headers["Link"] = f'<{following}>; rel="next"'
    return response


async def _wanted_paths(request: web.Request) -> tuple[list[str], bool]:
    if request.content_type != "application/json":
        form = await request.post()
        values = [value for value in form.getall("paths", []) if isinstance(value, str)]
        return values, str(form.get("expand", "")).lower() == "true"
    try:
        given = await request.json()
    except ValueError as error:
        raise RefusedError(bad_request("The body is not valid JSON")) from error
    match given:
        case {"paths": list(values)} if all(isinstance(value, str) for value in values):
            return values, given.get("expand") is True
        case _:
            raise RefusedError(bad_request("paths: expected a list of texts"))
