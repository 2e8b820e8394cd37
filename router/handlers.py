"""HTTP in, HTTP out: models and jobs. No decision longer than a line."""

import re

from aiohttp import web

from router.fields import checked_text
from router.keys import CONFIG, QUEUES, SERVER, SUBMISSIONS
from router.problems import drawn
from router.responses import (
    classification_view,
    image_headers,
    image_response,
    job_path,
    job_view,
    path_commit,
)
from router.schemas import MAX_NAME, parse_request
from shared.errors import InvalidRequest, JobNotFound
from shared.jobs import JobId, parse_job_id
from shared.refs import parse_repo_id

_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}")


async def generate(request: web.Request) -> web.Response:
    """`POST /models/{model}`: draw an image, or with `Prefer: respond-async` begin to."""
    app, body = request.app, await request.read()
    wanted = parse_request(request.match_info["model"], body, request.headers, app[CONFIG].limits)
    await app[SERVER].admit()
    submission = await app[SUBMISSIONS].prepare(wanted, bearer_token(request))
    if wanted.respond_async:
        begun = await app[SUBMISSIONS].enqueue(submission)
        headers = {
            "Location": job_path(begun.id),
            "X-Job-Id": begun.id,
            "Preference-Applied": "respond-async",
        }
        return web.json_response(job_view(begun), status=202, headers=headers)
    record, image = await app[SUBMISSIONS].draw(submission)
    result = drawn(record)
    headers = {
        **image_headers(record, result),
        "X-Warmbase-Commit": path_commit(submission.model, result),
    }
    return image_response(image, result, headers, as_json=wanted.form.as_json)


async def describe(request: web.Request) -> web.Response:
    """`GET /models/{model}`: what the id is, why, and whether it is served now."""
    repo, revision = parse_repo_id(request.match_info["model"]), request.query.get("revision")
    if revision is not None:
        checked_text(revision, "revision", MAX_NAME)
    found, pools = await request.app[SUBMISSIONS].inspect(repo, revision, bearer_token(request))
    return web.json_response(classification_view(found, pools))


async def job(request: web.Request) -> web.Response:
    """`GET /jobs/{job}`: status, progress, timings, result or error."""
    return web.json_response(job_view(await request.app[QUEUES].record(_job_id(request))))


async def job_image(request: web.Request) -> web.Response:
    """`GET /jobs/{job}/image`: the image of a job that succeeded."""
    queues = request.app[QUEUES]
    record = await queues.record(_job_id(request))
    result = drawn(record)
    image = await queues.image(result)
    return image_response(image, result, image_headers(record, result), as_json=False)


async def cancel_job(request: web.Request) -> web.Response:
    """`DELETE /jobs/{job}`: cancel; a job that has ended stays as it is."""
    return web.json_response(job_view(await request.app[QUEUES].cancel(_job_id(request))))


def bearer_token(request: web.Request) -> str | None:
    """Return the caller's own Hub token, None if there is none.

    Raises:
        InvalidRequest: what stands there cannot be a token.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    if not _TOKEN.fullmatch(token.strip()):
        raise InvalidRequest("Authorization", "holds no usable token")
    return token.strip()


def _job_id(request: web.Request) -> JobId:
    try:
        return parse_job_id(request.match_info["job"])
    except InvalidRequest as error:
        raise JobNotFound("no such job: this is not a job id") from error
