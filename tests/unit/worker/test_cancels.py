import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.jobs import JobId
from tests.builders import a_job
from worker import cancels
from worker.cancels import follow_cancels

MISSED, LOST = "the server is away", "connected, then lost"


class ScriptedServer:
    """A client whose connections end as told; the last one stays, and carries `job`."""

    def __init__(self, endings: list[str], job: JobId) -> None:
        self._endings = iter(endings)
        self._job = job
        self._ending: str | None = None

    @asynccontextmanager
    async def pubsub(self) -> AsyncIterator["ScriptedServer"]:
        self._ending = next(self._endings, None)
        yield self

    async def subscribe(self, _channel: str) -> None:
        if self._ending == MISSED:
            raise RedisConnectionError(MISSED)

    async def listen(self) -> AsyncIterator[dict[str, Any]]:
        yield {"type": "subscribe", "data": 1}
        if self._ending == LOST:
            raise RedisConnectionError(LOST)
        yield {"type": "message", "data": self._job.encode()}
        await asyncio.Event().wait()


async def test_the_pauses_begin_anew_after_a_good_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[int] = []

    def counted(_first: float, _longest: float) -> Iterator[float]:
        for number in range(10):
            paused.append(number)
            yield 0.0

    monkeypatch.setattr(cancels, "backoff", counted)
    job = a_job().id
    heard: asyncio.Queue[JobId] = asyncio.Queue()
    server: Any = ScriptedServer([MISSED, MISSED, MISSED, LOST, MISSED], job)

    following = asyncio.create_task(follow_cancels(server, "control", heard.put_nowait))

    assert await heard.get() == job
    assert paused == [0, 1, 2, 0, 1]
    following.cancel()
