"""Clients as they are: patient or not, careful or not. They note what they ask for and what they get."""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import aiohttp

from tests import null_engine
from tests.builders import BASE
from tests.chaos.history import History
from tests.chaos.plan import Call, Kind
from tests.chaos.stage import REQUEST_TIMEOUT, Stage, repository, token

LONGEST_TRY = REQUEST_TIMEOUT + 30
"""Seconds after which a client takes a request for hung."""
LONGEST_CALL = 2 * LONGEST_TRY
LONGEST_PAUSE = 1.0
"""Seconds that a client heeds of `Retry-After`: it is here to make trouble."""
BETWEEN_ARRIVALS = 0.05
"""Seconds: all at once would only show that a router which has just started is slow."""
FIRST_LOOK, LONGEST_LOOK = 0.05, 0.4


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `status` is 0 when nothing did, and -1 when nothing can have been sent."""

    status: int
    image: Any = None
    job: str | None = None
    body: Any = None
    retry_after: float = 0.1


class Clients:
    """As many at a time as told; each does one call after the other."""

    def __init__(self, stage: Stage, history: History) -> None:
        self._stage = stage
        self._history = history
        self._tries = iter(range(1_000_000_000))
        self.answered = 0

    async def run(self, calls: Iterable[Call], count: int, seconds: float) -> None:
        """Return when all calls have ended. After `seconds` no further one is begun."""
        self._calls = iter(calls)
        self._until = time.monotonic() + seconds
        # A connection for each request: else one that its router has just closed looks like a lost answer.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=LONGEST_TRY)
        http = aiohttp.ClientSession(connector=connector, timeout=timeout)
        async with http as self._http, asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._live(number * BETWEEN_ARRIVALS))

    async def _live(self, arrival: float) -> None:
        await asyncio.sleep(arrival)
        for call in self._calls:
            if time.monotonic() > self._until:
                return
            adapters = [[self._stage.digests[number], scale] for number, scale in call.adapters]
            self._history.note(
                "asked",
                call=call.number,
                kind=call.kind,
                keyed=call.is_keyed,
                prompt=call.prompt,
                seed=call.seed,
                adapters=adapters,
            )
            outcome = "gave up"
            with suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_CALL):
                    outcome = await self._do(call)
            self._history.note("ended", call=call.number, outcome=outcome)
            self.answered += 1

    async def _do(self, call: Call) -> str:
        match call.kind:
            case Kind.WAITS:
                return await self._wait(call)
            case Kind.KEYED:
                return await self._insist(call, call.router)
            case Kind.REPEATS:
                both = await asyncio.gather(*(self._insist(call, call.router + more) for more in (0, 1)))
                return both[0]
            case Kind.POLLS | Kind.POLLS_KEYED:
                return await self._poll(call)
            case Kind.LEAVES:
                return await self._leave(call)

    async def _wait(self, call: Call) -> str:
        """Ask again after a refusal; after a broken connection nobody knows, and this client leaves it."""
        router = call.router
        while True:
            answer = await self._draw(call, router)
            if answer.image is not None:
                return "image"
            if answer.status not in {-1, 429, 503}:
                return "broken" if answer.status == 0 else "refused"
            await asyncio.sleep(answer.retry_after)
            router += 1

    async def _insist(self, call: Call, router: int) -> str:
        """Ask this router and the other one until there is an image."""
        while True:
            answer = await self._draw(call, router)
            if answer.image is not None:
                return "image"
            if answer.status not in {-1, 0, 429, 503}:
                return "refused"
            await asyncio.sleep(answer.retry_after)
            router += 1

    async def _leave(self, call: Call) -> str:
        try:
            async with asyncio.timeout(call.patience):
                return await self._wait(call)
        except TimeoutError:
            return "left"

    async def _poll(self, call: Call) -> str:
        router = call.router
        while True:
            answer = await self._draw(call, router)
            if answer.status == 202:
                break
            if answer.status not in {-1, 0, 429, 503}:
                return "refused"
            await asyncio.sleep(answer.retry_after)
            router += 1
        pause = FIRST_LOOK
        while True:
            await asyncio.sleep(pause)
            pause = min(LONGEST_LOOK, 1.5 * pause)
            router += 1
            found = await self._get(call, router, f"/jobs/{answer.job}")
            if found.status == 200 and found.body["status"] in {"failed", "cancelled"}:
                return str(found.body["status"])
            if found.status not in {-1, 0, 200, 503}:
                return "refused"
            if found.status == 200 and found.body["status"] == "succeeded":
                image = await self._get(call, router + 1, f"/jobs/{answer.job}/image")
                if image.image is not None:
                    return "image"
                if image.status not in {-1, 0, 503}:
                    return "refused"

    async def _draw(self, call: Call, router: int) -> Answer:
        path, *others = call.adapters or ((None, 1.0),)
        parameters: dict[str, Any] = {"seed": call.seed, "num_inference_steps": call.steps}
        if path[0] is not None:
            parameters["lora_scale"] = path[1]
        if others:
            parameters["loras"] = [{"model": repository(number), "scale": scale} for number, scale in others]
        headers = {"Accept": "image/png"}
        if call.tenant is not None:
            headers["Authorization"] = f"Bearer {token(call.tenant)}"
        if call.is_keyed:
            headers["Idempotency-Key"] = f"call-{call.number}"
        if call.polls:
            headers["Prefer"] = "respond-async"
        model = BASE if path[0] is None else repository(path[0])
        body = {"inputs": call.prompt, "parameters": parameters}
        return await self._try(call, router, "POST", f"/models/{model}", headers=headers, json=body)

    async def _get(self, call: Call, router: int, path: str) -> Answer:
        return await self._try(call, router, "GET", path)

    async def _try(self, call: Call, router: int, method: str, path: str, **what: Any) -> Answer:
        place = self._stage.routers[router % len(self._stage.routers)]
        it = {"call": call.number, "try": next(self._tries), "router": place.name, "method": method}
        is_look = method == "GET" and not path.endswith("/image")
        if not is_look:
            self._history.note("sent", **it)
        try:
            async with self._http.request(method, place.url + path, **what) as response:
                data = await response.read()
                status, headers = response.status, response.headers
        except TimeoutError:  # the session's; the end of the call's patience is a cancel here
            self._history.note("hung", **it)
            return Answer(0)
        except aiohttp.ClientError as error:
            self._history.note("broken", **it, what=f"{type(error).__name__}: {error}"[:200])
            return Answer(-1 if isinstance(error, aiohttp.ClientConnectorError) else 0)
        except asyncio.CancelledError:
            self._history.note("left", **it)
            raise
        answer = _read(status, headers, data)
        if not is_look or status != 200 or answer.body.get("status") in {"failed", "cancelled"}:
            self._history.note("answer", **it, **_told(answer, headers, data))
        return answer


def _read(status: int, headers: Mapping[str, str], data: bytes) -> Answer:
    pause = min(LONGEST_PAUSE, float(headers.get("Retry-After", 0.1)))
    job = headers.get("X-Job-Id")
    if headers.get("Content-Type") == "image/png":
        return Answer(status, image=null_engine.read(data), job=job)
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    return Answer(status, body=body if isinstance(body, dict) else None, job=job, retry_after=pause)


def _told(answer: Answer, headers: Mapping[str, str], data: bytes) -> dict[str, Any]:
    """Return what the history says of an answer."""
    body = answer.body or {}
    return {
        "status": answer.status,
        "job": answer.job,
        "image": answer.image,
        "digest": sha256(data).hexdigest()[:16] if answer.image else None,
        "error_type": body.get("error_type"),
        "job_status": body.get("status"),
        "error": body.get("error") if answer.status >= 400 or body.get("error") else None,
        "retry_after": headers.get("Retry-After"),
        "trace": b"Traceback" in data,
    }
