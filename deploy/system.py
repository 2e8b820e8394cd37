"""The running parts of one machine: started together, watched, and ended in order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deploy.children import Child, LineHandler
from deploy.embedded_valkey import EmbeddedValkey
from deploy.plan import STOP_ORDER, ChildSpec, Role
from deploy.progress import Screen, Status
from deploy.readiness import Readiness

_LOOK_SECONDS = 0.1


class Part(Protocol):
    """Something that runs beside the launcher and may end."""

    @property
    def tail(self) -> Sequence[str]:
        """The last lines that it wrote."""
        ...

    async def wait(self) -> int:
        """Return its exit code once it has ended; negative for a signal."""
        ...

    async def stop(self) -> int:
        """End it within its grace and return its exit code."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """A part that ended although nobody asked it to."""

    name: str
    exit_code: int
    tail: tuple[str, ...]


class ValkeyPart:
    """The embedded server as a part."""

    def __init__(self, server: EmbeddedValkey) -> None:
        self.tail: Sequence[str] = ()
        self._server = server

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        return await asyncio.to_thread(self._server.process.wait)

    async def stop(self) -> int:
        """End it."""
        await asyncio.to_thread(self._server.stop)
        return self._server.process.returncode

    def kill(self) -> None:
        """End it at once."""
        self._server.process.kill()


class System:
    """The running parts.

    Args:
        ask: asks the part behind a URL whether it is ready.
        on_line: called with each line that a child writes.
    """

    def __init__(
        self, screen: Screen, ask: Callable[[str], Awaitable[Readiness]], on_line: LineHandler
    ) -> None:
        self._screen = screen
        self._ask = ask
        self._on_line = on_line
        self._parts: list[tuple[Role, str, Part]] = []
        self._watches: list[asyncio.Task[None]] = []
        self._death: asyncio.Future[Death] = asyncio.get_running_loop().create_future()

    async def start(self, spec: ChildSpec) -> None:
        """Start a child; return once it runs, not once it is ready."""
        self.adopt(spec.role, spec.name, await Child.start(spec, self._on_line))

    def adopt(self, role: Role, name: str, part: Part) -> None:
        """Take a running part in: watch it, and end it with the others."""
        self._parts.append((role, name, part))
        self._watches.append(asyncio.create_task(self._watch(name, part), name=f"watch over {name}"))

    async def until_ready(self, *specs: ChildSpec) -> None:
        """Return once all of these are ready, showing how far they are."""
        await asyncio.gather(*(self._until_ready(spec) for spec in specs))

    async def first_death(self) -> Death:
        """Return the first part that ends unasked, once one does."""
        return await asyncio.shield(self._death)

    async def stop(self) -> None:
        """End all parts, one role after the other."""
        for watch in self._watches:
            watch.cancel()
        for role in STOP_ORDER:
            parts = [(name, part) for part_role, name, part in self._parts if part_role is role]
            await asyncio.gather(*(self._stop(name, part) for name, part in parts))

    def kill(self) -> None:
        """End all parts at once."""
        for _, _, part in self._parts:
            part.kill()

    async def _until_ready(self, spec: ChildSpec) -> None:
        started = time.monotonic()
        while True:
            readiness = await self._ask(spec.ready_url)
            seconds = time.monotonic() - started
            self._screen.show(
                Status(name=spec.name, stage=readiness.stage, seconds=seconds, ready=readiness.ready)
            )
            if readiness.ready:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _watch(self, name: str, part: Part) -> None:
        exit_code = await part.wait()
        if not self._death.done():
            self._death.set_result(Death(name=name, exit_code=exit_code, tail=tuple(part.tail)))

    async def _stop(self, name: str, part: Part) -> None:
        started = time.monotonic()
        await part.stop()
        if self._death.done() and self._death.result().name == name:
            return
        self._screen.say(f"[{name}] stopped in {time.monotonic() - started:.1f} s")
