"""Routes for whoever runs the Hub: is it up, what shall go wrong, what was asked."""

from aiohttp import web

from deploy.local_hub.faults import FaultRuleError, parse_rules
from deploy.local_hub.keys import FAULTS, REQUESTS


async def health(_request: web.Request) -> web.Response:
    """`GET /health`: the Hub listens."""
    return web.json_response({"status": "ok"})


async def put_faults(request: web.Request) -> web.Response:
    """`PUT /_faults`: replace all fault rules by those of the body."""
    try:
        rules = parse_rules(await request.json())
    except (ValueError, FaultRuleError) as error:
        return web.json_response({"error": str(error)}, status=web.HTTPBadRequest.status_code)
    request.app[FAULTS].replace(rules)
    return web.json_response({"rules": len(rules)})


async def get_requests(request: web.Request) -> web.Response:
    """`GET /_requests[?path=pattern&method=GET]`: the requests since the last `DELETE`."""
    query = request.query
    entries = request.app[REQUESTS].as_json(query.get("path", "*"), query.get("method"))
    return web.json_response(entries)


async def delete_requests(request: web.Request) -> web.Response:
    """`DELETE /_requests`: count from here."""
    request.app[REQUESTS].forget()
    return web.Response(status=web.HTTPNoContent.status_code)
