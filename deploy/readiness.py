"""Asking a part whether it is ready."""

from dataclasses import dataclass

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """Whether a part is ready, and what it is doing if not."""

    ready: bool
    stage: str


def judge(status: int, body: object) -> Readiness:
    """Return what an answer of a part's readiness URL says; `body` is its JSON, or None."""
    if status == 200:
        return Readiness(ready=True, stage="ready")
    stage = body.get("stage") if isinstance(body, dict) else None
    return Readiness(ready=False, stage=str(stage or "starting"))


async def ask(http: aiohttp.ClientSession, url: str) -> Readiness:
    """Ask the part behind `url` whether it is ready. One that does not answer yet is starting."""
    try:
        async with http.get(url, timeout=_TIMEOUT) as response:
            is_json = response.content_type == "application/json"
            return judge(response.status, await response.json() if is_json else None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return Readiness(ready=False, stage="starting")
