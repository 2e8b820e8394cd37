"""Does what the plan says to the stage, one piece after the other, many at a time, and undoes it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from shared.queue.scripts import Script
from tests.chaos.plan import Fault, Mischief
from tests.chaos.stage import Place, Stage

TENTH = 0.1


class Mischiefs:
    """Runs until told to stop; then every trouble it made is over."""

    def __init__(self, stage: Stage, faults: Iterator[Fault], answers: Callable[[], int]) -> None:
        """`answers` tells how many there were so far: the more go through, the more is done to them."""
        self._stage = stage
        self._faults = faults
        self._answers = answers
        self._numbers = iter(range(1_000_000))
        self._server_in_trouble = False
        self._stopping = asyncio.Event()
        self.done = 0

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()

    async def run(self) -> None:
        """Do the mischief."""
        async with asyncio.TaskGroup() as group:
            for fault in self._faults:
                await self._until_due(fault.after)
                if self._stopping.is_set():
                    return
                if work := self._begun(fault):
                    group.create_task(work)
                    self.done += 1

    async def _until_due(self, after: int) -> None:
        due = self._answers() + after
        for _ in range(after):
            if self._answers() >= due:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(TENTH):
                    await self._stopping.wait()
                    return

    def _begun(self, fault: Fault) -> Awaitable[None] | None:
        """Return the work, or None when whom it would hit is in trouble already."""
        match fault.kind:
            case Mischief.KILL_SERVER | Mischief.FREEZE_SERVER:
                if self._server_in_trouble:
                    return None
                self._server_in_trouble = True
                return self._to_server(fault)
            case Mischief.KILL_ROUTER:
                places = self._stage.routers
            case Mischief.KILL_WORKER | Mischief.FREEZE_WORKER | Mischief.DRAIN_WORKER:
                places = self._stage.workers
            case _:
                place = self._stage.places[fault.target % len(self._stage.places)]
                return self._to_link(fault, place)
        place = places[fault.target % len(places)]
        if place.in_trouble:
            return None
        place.in_trouble = True
        return self._to_process(fault, place)

    async def _to_server(self, fault: Fault) -> None:
        server = self._stage.server
        number = self._note(fault, "server")
        if fault.kind is Mischief.KILL_SERVER:
            server.kill()
            await asyncio.sleep(fault.seconds)
            server.start_again()
            await self._stage.server_answers()
        else:
            server.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            server.process.send_signal(signal.SIGCONT)
        self._server_in_trouble = False
        self._stage.history.note("over", number=number)

    async def _to_process(self, fault: Fault, place: Place) -> None:
        number = self._note(fault, place.name, pid=place.process.pid)
        match fault.kind:
            case Mischief.FREEZE_WORKER:
                place.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                place.signal(signal.SIGCONT)
            case Mischief.DRAIN_WORKER:
                place.signal(signal.SIGTERM)
                code = await place.ended()
                self._stage.history.note("exited", process=place.name, code=code, asked=True)
                await asyncio.sleep(fault.seconds)
                place.start()
            case _:
                place.kill()
                await asyncio.sleep(fault.seconds)
                place.start()
        await self._stage.answers(place)
        place.in_trouble = False
        self._stage.history.note("over", number=number)

    async def _to_link(self, fault: Fault, place: Place) -> None:
        link = place.link
        number = self._note(fault, f"link of {place.name}", step=fault.step)
        match fault.kind:
            case Mischief.LOSE_REPLIES:
                link.lose_replies(_digest(fault.step), fault.count)
            case Mischief.RESET:
                await link.reset()
            case Mischief.BLACK_HOLE:
                link.black_hole()
            case Mischief.HOLD_REPLIES:
                link.hold_replies()
            case _:
                link.delay(0.05, loss=0.05)
        if fault.seconds:
            await asyncio.sleep(fault.seconds)
            await link.heal()
        self._stage.history.note("over", number=number)

    def _note(self, fault: Fault, target: str, **more: object) -> int:
        number = next(self._numbers)
        self._stage.history.note("fault", number=number, kind=fault.kind, target=target, **more)
        return number


def _digest(step: str) -> bytes:
    """Return what the command that runs a script holds; nothing for any command."""
    return Script(None, step)._sha.encode() if step else b""
