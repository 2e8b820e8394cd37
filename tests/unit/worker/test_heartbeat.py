import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.errors import QueueUnavailable
from shared.jobs import JobId, WorkerId
from shared.queue.terms import LeaseState, Progress, QueueSettings
from tests.builders import a_lease, a_worker
from worker.exit_codes import ExitCode
from worker.heartbeat import Heartbeat
from worker.pulse import Pulse
from worker.running import RunningJob, RunningJobs


def a_heartbeat(**changes: Any) -> Heartbeat:
    """Return one that is not started."""
    given = {
        "jobs": RunningJobs(),
        "pulse": Pulse(),
        "worker": a_worker(),
        "settings": QueueSettings(lease=0.04),
        "stall": 1.0,
        "commands": Any,
        "subscriptions": Any,
        "on_announced": lambda: None,
        "give_up": Any,
    }
    return Heartbeat(**{**given, **changes})


async def test_a_heartbeat_that_cannot_go_on_gives_the_process_up(caplog: pytest.LogCaptureFixture) -> None:
    given_up: asyncio.Queue[ExitCode] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def no_client() -> None:
        raise LookupError("a fault of our own")

    heartbeat = a_heartbeat(
        commands=no_client,
        subscriptions=no_client,
        give_up=lambda code: loop.call_soon_threadsafe(given_up.put_nowait, code),
    )
    with caplog.at_level(logging.ERROR):
        async with heartbeat:
            assert await given_up.get() is ExitCode.HEARTBEAT_LOST
    assert "a fault of our own" in caplog.text


@dataclass(slots=True)
class ScriptedServer:
    """Stands in for the queue and the directory: away while told so, and notes its calls."""

    is_away: bool = False
    calls: list[str] = field(default_factory=list)
    announced: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def reaps(self) -> int:
        return self.calls.count("reap")

    async def announce(self, *_arguments: object) -> None:
        self.announced.set()
        if self.is_away:
            raise QueueUnavailable("the server is away")

    async def heartbeat(self, _worker: WorkerId, _jobs: Sequence[Progress]) -> dict[JobId, LeaseState]:
        self.calls.append("renew")
        return {}

    async def reap(self) -> int:
        self.calls.append("reap")
        return 0

    async def beats(self, count: int) -> None:
        """Return once the house was kept `count` times from now on."""
        for _ in range(count + 1):  # the first may have begun before
            self.announced.clear()
            await self.announced.wait()


@dataclass(slots=True)
class SlowServer:
    """Stands in for the queue: its answer to the first beat waits, all others are there at once."""

    answers: asyncio.Event = field(default_factory=asyncio.Event)
    beats: int = 0
    beat_again: asyncio.Event = field(default_factory=asyncio.Event)

    async def heartbeat(self, _worker: WorkerId, jobs: Sequence[Progress]) -> dict[JobId, LeaseState]:
        self.beats += 1
        if self.beats > 1:
            self.beat_again.set()
            return {}
        await self.answers.wait()
        return {progress.lease.job.id: LeaseState.CANCELLED for progress in jobs}


async def test_a_beat_that_is_not_heard_in_time_holds_up_no_other_and_counts_when_it_is() -> None:
    jobs, running = RunningJobs(), RunningJob(a_lease())
    jobs.add(running)
    heartbeat, slow = a_heartbeat(jobs=jobs), SlowServer()
    server: Any = slow
    renewing = asyncio.create_task(heartbeat._renew(server))
    await slow.beat_again.wait()
    assert running.state is LeaseState.HELD

    slow.answers.set()
    heartbeat._stopping.set()
    await renewing
    assert running.state is LeaseState.CANCELLED


async def test_the_worker_hears_of_an_announcement_that_the_server_has_taken_and_of_no_other() -> None:
    heard = asyncio.Event()
    heartbeat = a_heartbeat(on_announced=heard.set)
    server: Any = ScriptedServer(is_away=True)
    keeping = asyncio.create_task(heartbeat._keep_house(server, server))
    await server.beats(2)
    assert not heard.is_set()

    server.is_away = False
    await heard.wait()
    keeping.cancel()


async def test_after_an_outage_the_living_get_a_lease_s_time_before_any_lease_is_reaped() -> None:
    now = 100.0
    heartbeat = a_heartbeat(clock=lambda: now)
    server: Any = ScriptedServer()
    keeping = asyncio.create_task(heartbeat._keep_house(server, server))
    await server.beats(1)
    assert server.reaps > 0

    server.is_away = True
    await server.beats(1)
    before = server.reaps
    server.is_away = False
    await server.beats(3)
    assert server.reaps == before

    now += 0.04
    await server.beats(1)
    assert server.reaps > before
    keeping.cancel()


async def test_leases_of_others_are_reaped_once_the_worker_s_own_are_renewed() -> None:
    jobs = RunningJobs()
    jobs.add(RunningJob(a_lease()))
    server: Any = ScriptedServer()
    keeping = asyncio.create_task(a_heartbeat(jobs=jobs)._keep_house(server, server))
    await server.beats(1)
    keeping.cancel()

    assert server.calls[:2] == ["renew", "reap"]
