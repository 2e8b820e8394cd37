"""A TCP proxy before a real server that fails as networks do: late, silent, half-way, or at once.

Each `Link` is an address of its own. Give every client one, and each can be cut off alone.
"""

import asyncio
import random
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
PIECE = 65536
MOST_PIECES_HELD = 256
RETRANSMISSION = 0.2
"""Seconds that a lost packet costs beyond the way there, as Linux has it."""

NO_LINGER = struct.pack("ii", 1, 0)
"""Closing a socket with this sends a reset."""


class FaultProxy:
    """An async context manager that owns the links to one server.

    Args of the constructor: `url` of the server; `seed` of the chance by which `Link.delay` loses packets.
    """

    def __init__(self, url: str, *, seed: int = 0) -> None:
        self._url = url
        self._chance = random.Random(seed)  # noqa: S311 - the same losses in every run
        self._links: list[Link] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._links:
            await link.refuse()

    async def listen(self) -> "Link":
        """Return a new link. It passes everything on until told otherwise."""
        link = Link(self._url, self._chance)
        await link.heal()
        self._links.append(link)
        return link


class Link:
    """One way to the server. Faults add up until `heal`.

    Attributes:
        url: its address, in the words of the server's.
        lost_replies: how many replies `lose_replies` has lost.
    """

    def __init__(self, url: str, chance: random.Random) -> None:
        self._parts = urlsplit(url)
        self._chance = chance
        self._port = 0
        self._listening: asyncio.Server | None = None
        self._carrying: dict[asyncio.Task[None], _Connection] = {}
        self._commands, self._replies = asyncio.Event(), asyncio.Event()
        self._seconds, self._loss = 0.0, 0.0
        self._to_lose, self._losses_left = b"", 0
        self.lost_replies = 0

    @property
    def url(self) -> str:
        credentials = self._parts.netloc.rpartition("@")[0]
        host = f"{LOOPBACK}:{self._port}"
        return self._parts._replace(netloc=f"{credentials}@{host}" if credentials else host).geturl()

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._carrying)

    async def heal(self) -> None:
        """Take all faults back. What a black hole holds goes on its way: TCP sends again what was lost."""
        self._seconds = self._loss = 0.0
        self._losses_left = 0
        self._commands.set()
        self._replies.set()
        if self._listening is None:
            self._listening = await asyncio.start_server(self._accept, LOOPBACK, self._port)
            self._port = self._listening.sockets[0].getsockname()[1]

    def delay(self, seconds: float, *, loss: float = 0.0) -> None:
        """Hand on what comes now `seconds` later, each way; of `loss` of it the second sending arrives."""
        self._seconds, self._loss = seconds, loss

    def black_hole(self) -> None:
        """Accept and keep connections, but hand nothing on, not even that one has ended."""
        self._commands.clear()
        self._replies.clear()

    def strand(self) -> None:
        """Hand nothing on for good of the connections there are, not even an end. New ones are welcome."""
        self.black_hole()
        self._commands, self._replies = asyncio.Event(), asyncio.Event()
        self._commands.set()
        self._replies.set()

    def hold_replies(self) -> None:
        """Be a black hole on the way back: the server does what it is told, and nobody learns of it."""
        self._replies.clear()

    def lose_replies(self, to: bytes = b"", count: int = 1) -> None:
        """Lose the replies to the next `count` commands, each with its connection, after the server ran it.

        `to` is a part of the command, looked for in each piece of the stream as it comes. Without it, the
        greetings of a new connection are commands too.
        """
        self._to_lose, self._losses_left = to, count

    async def reset(self) -> None:
        """End all connections with a reset. New ones are welcome."""
        for connection in self._carrying.values():
            connection.send_resets()
        await self._end_connections()

    async def refuse(self) -> None:
        """End all connections and refuse new ones, as if no server were there."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        await self._end_connections()

    async def _end_connections(self) -> None:
        ending = dict(self._carrying)
        for carrying in ending:
            carrying.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for connection in ending.values():  # a task that had not begun yet closed nothing
            await connection.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._listening is None:  # accepted in the moment of the end
            writer.transport.abort()
            return
        connection = _Connection(_End(reader, writer), self._commands, self._replies)
        carrying = asyncio.create_task(self._carry(connection), name="carry a connection")
        self._carrying[carrying] = connection
        carrying.add_done_callback(self._carrying.pop)

    async def _carry(self, connection: "_Connection") -> None:
        try:
            target = await asyncio.open_connection(self._parts.hostname, self._parts.port)
            connection.server = _End(*target)
            to_server: _Way = asyncio.Queue(MOST_PIECES_HELD)
            to_client: _Way = asyncio.Queue(MOST_PIECES_HELD)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._take_commands(connection.client, to_server))
                group.create_task(self._give_commands(connection, connection.server, to_server))
                group.create_task(self._take_replies(connection, connection.server, to_client))
                group.create_task(self._give_replies(connection, to_client))
        except* (_Ended, OSError):
            await connection.close()
        finally:
            await connection.abort()

    async def _take_commands(self, client: "_End", way: "_Way") -> None:
        while piece := await client.read():
            await way.put((self._arrival(), piece))
        await way.put((self._arrival(), b""))

    async def _give_commands(self, connection: "_Connection", server: "_End", way: "_Way") -> NoReturn:
        while piece := await _next(way, connection.commands):
            if self._losses_left and self._to_lose in piece:
                self._losses_left -= 1
                connection.loses_reply = True
            await server.write(piece)
        raise _Ended

    async def _take_replies(self, connection: "_Connection", server: "_End", way: "_Way") -> None:
        while piece := await server.read():
            if connection.loses_reply:
                self.lost_replies += 1
                raise _Ended
            await way.put((self._arrival(), piece))
        await way.put((self._arrival(), b""))

    async def _give_replies(self, connection: "_Connection", way: "_Way") -> NoReturn:
        while piece := await _next(way, connection.replies):
            await connection.client.write(piece)
        raise _Ended

    def _arrival(self) -> float:
        lost = self._chance.random() < self._loss
        return asyncio.get_running_loop().time() + self._seconds + (RETRANSMISSION if lost else 0.0)


class _Ended(Exception):
    """One side has closed the connection, and all that it sent has arrived."""


_Way = asyncio.Queue[tuple[float, bytes]]
"""Pieces under way, and when they arrive. An empty one is the end."""


async def _next(way: _Way, passable: asyncio.Event) -> bytes:
    arrival, piece = await way.get()
    await asyncio.sleep(arrival - asyncio.get_running_loop().time())
    await passable.wait()
    return piece


@dataclass(frozen=True, slots=True)
class _End:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self) -> bytes:
        """Return what has come; nothing when the other side has ended."""
        with suppress(ConnectionError):
            return await self.reader.read(PIECE)
        return b""

    async def write(self, piece: bytes) -> None:
        self.writer.write(piece)
        await self.writer.drain()


@dataclass(slots=True)
class _Connection:
    client: _End
    commands: asyncio.Event
    replies: asyncio.Event
    server: _End | None = None
    loses_reply: bool = False

    def send_resets(self) -> None:
        for end in self._ends():
            with suppress(OSError):  # one that has ended meanwhile
                end.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)

    async def close(self) -> None:
        """End in order: what was written is still sent."""
        for end in self._ends():
            end.writer.close()
        await self._closed()

    async def abort(self) -> None:
        for end in self._ends():
            end.writer.transport.abort()
        await self._closed()

    async def _closed(self) -> None:
        for end in self._ends():
            with suppress(OSError):
                await end.writer.wait_closed()

    def _ends(self) -> tuple[_End, ...]:
        return (self.client,) if self.server is None else (self.client, self.server)
