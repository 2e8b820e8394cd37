"""Around every request: what is noted, what is disturbed, who may ask, and how a refusal looks."""

import asyncio
import logging
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from deploy.local_hub.access import identify
from deploy.local_hub.body import send_body
from deploy.local_hub.keys import (
    CATALOG,
    FAULT,
    FAULTS,
    LIMITER,
    NUMBER,
    OPERATOR_PATHS,
    QUOTA,
    REQUESTS,
    VIEWER,
)
from deploy.local_hub.rate_limit import Resource
from deploy.local_hub.refusals import Refusal, RefusedError, rate_limited, unsettled
from deploy.local_hub.repository import FileChangedError, UnsettledError
from deploy.local_hub.request_log import LoggedRequest

logger = logging.getLogger(__name__)


@web.middleware
async def note_and_disturb(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log the request and apply the fault that was ordered for it."""
    if request.path in OPERATOR_PATHS:
        return await handler(request)
    request[NUMBER] = request.app[REQUESTS].arrived(
        LoggedRequest(
            method=request.method,
            path=request.path,
            query=request.query_string,
            range=request.headers.get("Range"),
        )
    )
    faults = request.app[FAULTS]
    rule = faults.take(request.method, request.path)
    if rule is None:
        return await handler(request)
    request[FAULT] = rule
    if rule.latency_s:
        await faults.sleep(rule.latency_s)
    if rule.status is not None:
        return web.json_response({"error": "A fault that was ordered"}, status=rule.status)
    response = await handler(request)
    if rule.shapes_body and isinstance(response, web.Response) and request.method != "HEAD":
        return await _send_shaped(request, response)
    return response


@web.middleware
async def explain_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn refusals into answers, and anything unforeseen into one that tells nothing of the inside."""
    try:
        return await handler(request)
    except RefusedError as error:
        return _refusal_response(request, error.refusal)
    except (FileChangedError, UnsettledError):
        return _refusal_response(request, unsettled())
    except web.HTTPException as error:
        if error.status < web.HTTPBadRequest.status_code:
            raise
        return _refusal_response(request, Refusal(status=error.status, message=error.reason))
    except Exception:
        logger.exception("request failed", extra={"action": "answer", "path": request.path})
        return _refusal_response(request, Refusal(status=500, message="Internal Server Error"))


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who asks, and count the request."""
    if request.path in OPERATOR_PATHS:
        return await handler(request)
    tokens = await asyncio.to_thread(request.app[CATALOG].tokens)
    identity = identify(request.headers.get("Authorization"), tokens)
    caller = f"user {identity}" if isinstance(identity, str) else f"address {request.remote}"
    resource = Resource.API if request.path.startswith("/api/") else Resource.RESOLVERS
    if quota := request.app[LIMITER].take(resource, caller):
        request[QUOTA] = quota
        if not quota.allowed:
            raise RefusedError(rate_limited(quota.reset_s))
    if isinstance(identity, Refusal):
        raise RefusedError(identity)
    if identity is not None:
        request[VIEWER] = identity
    return await handler(request)


async def finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what every answer carries, and note the status before the client can act on it."""
    if quota := request.get(QUOTA):
        response.headers.update(quota.headers())
    if number := request.get(NUMBER):
        user = request.get(VIEWER)
        request.app[REQUESTS].answered(number, status=response.status, user=user)


def _refusal_response(request: web.Request, refusal: Refusal) -> web.Response:
    headers = {"X-Error-Message": _header_text(refusal.message)}
    if refusal.code is not None:
        headers["X-Error-Code"] = refusal.code
    if refusal.commit is not None:
        headers["X-Repo-Commit"] = refusal.commit
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.status == web.HTTPUnauthorized.status_code:
        headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
    if request.path.startswith("/api/"):
        return web.json_response({"error": refusal.message}, status=refusal.status, headers=headers)
    return web.Response(text=refusal.message, status=refusal.status, headers=headers)


def _header_text(message: str) -> str:
    """Return `message` without anything that could end a header; it may quote the request."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in message)


async def _send_shaped(request: web.Request, response: web.Response) -> web.StreamResponse:
    content = response.body if isinstance(response.body, bytes) else b""
    shaped = web.StreamResponse(status=response.status, headers=response.headers)
    shaped.content_length = len(content)

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return await send_body(request, shaped, chunks())
