"""The files themselves: `/{id}/resolve/{rev}/{path}`."""

import asyncio
import mimetypes
from collections.abc import AsyncIterator

from aiohttp import web

from deploy.local_hub.admission import check_revision, find_repo_for_files, refuse_entry
from deploy.local_hub.body import hang_up, send_body
from deploy.local_hub.hosted import HostedRepo, RepoFile
from deploy.local_hub.keys import CATALOG
from deploy.local_hub.ranges import Span, UnsatisfiableRangeError, requested_span
from deploy.local_hub.repository import FileChangedError, OpenFile

_CHUNK_BYTES = 1024 * 1024


async def resolve(request: web.Request) -> web.StreamResponse:
    """`HEAD` and `GET /{id}/resolve/{rev}/{path}`: a file, whole or in part."""
    repo = await find_repo_for_files(request)
    check_revision(request, repo)
    file = repo.snapshot.files.get(request.match_info["path"])
    if file is None:
        refuse_entry(repo)
    headers = _headers(repo, file)
    try:
        span = requested_span(_range_header(request, file), file.size)
    except UnsatisfiableRangeError:
        headers["Content-Range"] = f"bytes */{file.size}"
        return web.Response(status=web.HTTPRequestRangeNotSatisfiable.status_code, headers=headers)
    if span.is_partial:
        headers["Content-Range"] = f"bytes {span.start}-{span.start + span.length - 1}/{file.size}"
    status = web.HTTPPartialContent if span.is_partial else web.HTTPOk
    response = web.StreamResponse(status=status.status_code, headers=headers)
    response.content_length = span.length
    if request.method == "HEAD":
        return response
    content = await asyncio.to_thread(request.app[CATALOG].open, repo, file)
    try:
        return await send_body(request, response, _chunks(content, span))
    except FileChangedError:
        # The header promised another version; an incomplete body is better than a mixed one.
        hang_up(request)
        return response
    finally:
        content.close()


def _range_header(request: web.Request, file: RepoFile) -> str | None:
    if request.method != "GET" or request.headers.get("If-Range", _quoted(file.etag)) != _quoted(file.etag):
        return None
    return request.headers.get("Range")


def _headers(repo: HostedRepo, file: RepoFile) -> dict[str, str]:
    kind, _ = mimetypes.guess_type(file.path)
    headers = {
        "ETag": _quoted(file.etag),
        "X-Repo-Commit": repo.snapshot.commit,
        "Accept-Ranges": "bytes",
        "Content-Type": kind or "application/octet-stream",
    }
    if file.sha256 is not None:
        headers["X-Linked-Etag"] = _quoted(file.sha256)
        headers["X-Linked-Size"] = str(file.size)
    return headers


def _quoted(etag: str) -> str:
    return f'"{etag}"'


async def _chunks(content: OpenFile, span: Span) -> AsyncIterator[bytes]:
    end = span.start + span.length
    for start in range(span.start, end, _CHUNK_BYTES):
        yield await asyncio.to_thread(content.read, start, min(_CHUNK_BYTES, end - start))
