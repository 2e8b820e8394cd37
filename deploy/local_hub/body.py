"""Bodies on their way out: whole, or slowed and cut as the request's fault rule says."""

from collections.abc import AsyncIterator

from aiohttp import web

from deploy.local_hub.faults import FaultRule
from deploy.local_hub.keys import FAULT, FAULTS

_WRITES_PER_SECOND = 10


async def send_body(
    request: web.Request, response: web.StreamResponse, chunks: AsyncIterator[bytes]
) -> web.StreamResponse:
    """Send `response` with a body of `chunks`; a client that leaves ends it early."""
    rule = request.get(FAULT) or FaultRule()
    left = rule.cut_after_bytes
    try:
        await response.prepare(request)
        async for chunk in chunks:
            piece = chunk if left is None else chunk[:left]
            await _write(request, response, piece, rule.bytes_per_second)
            if len(piece) < len(chunk):
                hang_up(request)
                return response
            left = None if left is None else left - len(piece)
        await response.write_eof()
    except ConnectionError:
        hang_up(request)
    return response


def hang_up(request: web.Request) -> None:
    """Close the connection after what was written, so that the client sees that the body is incomplete."""
    if request.transport is not None:
        request.transport.close()


async def _write(
    request: web.Request, response: web.StreamResponse, piece: bytes, bytes_per_second: int | None
) -> None:
    if bytes_per_second is None:
        await response.write(piece)
        return
    step = max(bytes_per_second // _WRITES_PER_SECOND, 1)
    for start in range(0, len(piece), step):
        part = piece[start : start + step]
        await response.write(part)
        await request.app[FAULTS].sleep(len(part) / bytes_per_second)
