"""Whether the router may put jobs on the server that it has: looked at again and again, not per request.

Who asks while the server is silent is told so at once; only those who came before that was known have to
wait for their time-out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from shared.errors import QueueUnavailable
from shared.redis_client import SILENT
from shared.server_check import WrongServer, log_unchecked

logger = logging.getLogger(__name__)

LOOK_EVERY = 10.0
LOOK_AGAIN = 1.0
"""Seconds between looks: at a server that was good, and at one that was not or did not answer."""

PING_EVERY = 1.0
PONG_WITHIN = 0.7
"""Seconds. A server that is later than that is taken for silent, and so is one that is overrun. Less than a
connection may take, so that a server which refuses at once is told from one that says nothing."""

CLOSED = "the queue cannot be used as it is set up; /ready tells its operator why"


class ServerGuard:
    """Remembers what the last look at the server found. An async context manager that owns the looking.

    Args of the constructor: `check` is `shared.server_check.check_server` with its arguments; `ping` returns
    once the server has answered.
    """

    def __init__(
        self,
        check: Callable[[], Awaitable[tuple[str, ...]]],
        ping: Callable[[], Awaitable[None]],
        *,
        look_every: float = LOOK_EVERY,
        look_again: float = LOOK_AGAIN,
    ) -> None:
        self._check = check
        self._ping = ping
        self._look_every = look_every
        self._look_again = look_again
        self._looked = asyncio.Event()
        self._wrong: WrongServer | None = None
        self._silent = False
        self._said: tuple[str, ...] = ()
        # Beside cancelling: until Python 3.12, asyncio.wait_for inside redis-py may swallow a cancel.
        self._closing = False

    async def __aenter__(self) -> Self:
        self._loops = (
            asyncio.create_task(self._look(), name="look at the server"),
            asyncio.create_task(self._listen(), name="listen to the server"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def diagnose(self) -> None:
        """Return if the server can hold the queue, as far as it has answered; for the operator.

        Raises:
            WrongServer: what has to be changed.
        """
        await self._looked.wait()
        if self._wrong:
            raise WrongServer(self._wrong.message)

    async def admit(self) -> None:
        """Return if jobs may be put there; for clients, to whom the reason says nothing.

        Raises:
            QueueUnavailable: they may not.
        """
        if self._silent:
            raise QueueUnavailable(SILENT)
        await self._looked.wait()
        if self._wrong:
            raise QueueUnavailable(CLOSED)

    async def _look(self) -> None:
        while not self._closing:
            good = False
            try:
                self._told(await self._check())
                good = True
            except WrongServer as error:
                self._found(error)
            except QueueUnavailable:
                pass  # what was found before holds until it answers; each request sees the outage itself
            except Exception:  # a look that fails is no reason to refuse jobs, nor to look no more
                logger.exception("the server could not be checked", extra={"action": "server_check_failed"})
            self._looked.set()
            await asyncio.sleep(self._look_every if good else self._look_again)

    async def _listen(self) -> None:
        while not self._closing:
            try:
                async with asyncio.timeout(PONG_WITHIN):
                    await self._ping()
                silent = False
            except TimeoutError:
                silent = True
            except QueueUnavailable:
                silent = False  # it is gone, and says so to each request at once
            except Exception:  # as for a look
                logger.exception("the server could not be asked", extra={"action": "ping_failed"})
                silent = False
            if silent != self._silent:
                self._silent = silent
                say = logger.warning if silent else logger.info
                say("server %s", "silent" if silent else "answers again", extra={"action": "ping"})
            await asyncio.sleep(PING_EVERY)

    def _told(self, unchecked: tuple[str, ...]) -> None:
        if self._wrong:
            logger.info("the server is good now", extra={"action": "server_good"})
        self._wrong = None
        if unchecked != self._said:
            log_unchecked(unchecked)
            self._said = unchecked

    def _found(self, error: WrongServer) -> None:
        if self._wrong is None or self._wrong.message != error.message:
            logger.error("no jobs are taken: %s", error.message, extra={"action": "server_wrong"})
        self._wrong = error
