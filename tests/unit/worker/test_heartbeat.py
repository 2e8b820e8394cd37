import asyncio
import logging

import pytest

from shared.queue.queue import QueueSettings
from tests.builders import a_worker
from worker.exit_codes import ExitCode
from worker.heartbeat import Heartbeat
from worker.pulse import Pulse
from worker.running import RunningJobs


async def test_a_heartbeat_that_cannot_go_on_gives_the_process_up(caplog: pytest.LogCaptureFixture) -> None:
    given_up: asyncio.Queue[ExitCode] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def no_client() -> None:
        raise LookupError("a fault of our own")

    heartbeat = Heartbeat(
        jobs=RunningJobs(),
        pulse=Pulse(),
        worker=a_worker(),
        settings=QueueSettings(),
        stall=1.0,
        commands=no_client,
        subscriptions=no_client,
        give_up=lambda code: loop.call_soon_threadsafe(given_up.put_nowait, code),
    )
    with caplog.at_level(logging.ERROR):
        async with heartbeat:
            assert await given_up.get() is ExitCode.HEARTBEAT_LOST
    assert "a fault of our own" in caplog.text
