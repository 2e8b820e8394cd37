"""Around every request: its id, its log line, its metrics; and errors as answers."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus

from aiohttp import web

from router.keys import CONFIG, METRICS
from router.problems import INTERNAL, EndedBadly, Problem, problem_of, problem_of_status
from router.responses import REQUEST_ID, problem_response
from shared.errors import InvalidRequest, WarmbaseError
from shared.logs import log_context

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""Not a status that anyone receives; nginx' name for this in logs."""

UNAVAILABLE_PAUSE = 0.25
"""Seconds before a 503. The JavaScript client of this wire repeats one at once and for ever."""

_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@web.middleware
async def accompany(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, or keep a valid one that it brought; log and count its end."""
    brought = request.headers.get(REQUEST_ID, "")
    request_id = brought if _VALID_REQUEST_ID.fullmatch(brought) else uuid.uuid4().hex
    begin, status = time.monotonic(), CLIENT_LEFT
    with log_context(request=request_id):
        try:
            response = await handler(request)
            status = response.status
            response.headers[REQUEST_ID] = request_id
            return response
        finally:
            _note(request, status, time.monotonic() - begin)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into an answer of one shape; never into a stack trace."""
    try:
        return await handler(request)
    except WarmbaseError as error:
        problem = problem_of(error)
    except EndedBadly as end:
        problem = end.problem
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        problem = problem_of_status(error.status, f"{error.reason}: {request.method} {request.path}")
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            problem = replace(problem, field="body", message=_too_large(request))
        response = await _answer(request, problem)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except web.RequestPayloadError:
        problem = problem_of(InvalidRequest("body", "cannot be read: it is not what Content-Encoding says"))
    except Exception:
        logger.exception("request failed", extra={"action": "answer"})
        problem = problem_of_status(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL)
    return await _answer(request, problem)


def _too_large(request: web.Request) -> str:
    most = request.app[CONFIG].limits.max_source_bytes
    return f"body: has more than {request.client_max_size} bytes; an image may have {most}, before base64"


async def _answer(request: web.Request, problem: Problem) -> web.Response:
    logger.info("problem", extra={"action": "answer", "code": problem.code, "problem": problem.message})
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE and request.method == "POST":
        await asyncio.sleep(UNAVAILABLE_PAUSE)
    return problem_response(problem)


def _note(request: web.Request, status: int, seconds: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "unmatched"
    request.app[METRICS].http_request(route, request.method, status, seconds)
    logger.info(
        "request",
        extra={
            "action": "answer",
            "method": request.method,
            "path": request.path,
            "status": status,
            "seconds": round(seconds, 4),
        },
    )
