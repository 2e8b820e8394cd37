"""Child processes: each in a process group of its own, its output read line by line, its end bounded.

A child never outlives its parent (`deploy.parent_death`), and `stop` ends whatever its process group holds.
Start children from the main thread.
"""

import asyncio
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Self

from deploy.parent_death import with_parent
from deploy.plan import ChildSpec

TAIL_LINES = 20
_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 20
_END_OF_LINE = re.compile(rb"[\r\n]+")


LineHandler = Callable[[ChildSpec, str], None]
"""Called with each line that a child writes to its standard output or error."""


class Child:
    """A running child. `tail` holds its last lines."""

    def __init__(self, spec: ChildSpec, process: Process, on_line: LineHandler) -> None:
        self.spec = spec
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = process
        self._on_line = on_line
        self._end = asyncio.create_task(self._read_to_the_end(), name=f"output of {spec.name}")

    @classmethod
    async def start(cls, spec: ChildSpec, on_line: LineHandler) -> Self:
        """Start the child.

        Raises:
            OSError: its program cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *with_parent(spec.argv),
            env=spec.environ,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            process_group=0,  # Ctrl-C in the terminal reaches the parent alone, which then stops in order
        )
        return cls(spec, process, on_line)

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""
        return self._process.pid

    async def wait(self) -> int:
        """Return its exit code once it has ended and all it wrote is read; negative for a signal."""
        return await asyncio.shield(self._end)

    async def stop(self) -> int:
        """Ask it to end, kill it after its grace, leave nothing of its group; return its exit code."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), self.spec.grace)
        except TimeoutError:
            self.tail.append(f"did not end within {self.spec.grace:g} s and was killed")
        finally:
            self.kill()
        return await self.wait()

    def kill(self) -> None:
        """Kill it and all of its process group at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
            os.killpg(self.pid, number)

    async def _read_to_the_end(self) -> int:
        output = self._process.stdout
        if output is not None:
            async for line in _lines(output):
                self.tail.append(line)
                self._on_line(self.spec, line)
        return await self._process.wait()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield lines without their ends, a progress bar's carriage returns counted as ends.

    Not `StreamReader.readline`, which raises on a line that is longer than its buffer.
    """
    rest = b""
    while chunk := await stream.read(_CHUNK):
        *lines, rest = _END_OF_LINE.split(rest + chunk)
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
