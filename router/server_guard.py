"""Whether the router may put jobs on the server that it has: looked at again and again, not per request.

Who asks while the server is silent or nearly full is told so at once; only those who came before that was
known have to wait for their time-out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from shared.errors import QueueUnavailable
from shared.redis_client import SILENT
from shared.server_check import WrongServer, log_unchecked

logger = logging.getLogger(__name__)

LOOK_EVERY = 10.0
LOOK_AGAIN = 1.0
"""Seconds between looks: at a server that was good, and at one that was not or did not answer."""

ASK_EVERY = 1.0
ANSWER_WITHIN = 0.7
"""Seconds. A server that is later than that is taken for silent until it answers, and so is one that is
overrun. Less than a connection may take: one that refuses at once is told from one that is silent."""

NEARLY_FULL = "the queue has hardly any memory left; try again in a moment"
CLOSED = "the queue cannot be used as it is set up; /ready tells its operator why"


class ServerGuard:
    """Remembers what the last look at the server found. An async context manager that owns the looking.

    Args of the constructor: `check` is `shared.server_check.check_server` with its arguments, `has_room` is
    `shared.server_check.has_room` with its; None where no one server speaks for all, as in a cluster.
    """

    def __init__(
        self,
        check: Callable[[], Awaitable[tuple[str, ...]]],
        has_room: Callable[[], Coroutine[Any, Any, bool]] | None,
        *,
        look_every: float = LOOK_EVERY,
        look_again: float = LOOK_AGAIN,
    ) -> None:
        self._check = check
        self._has_room = has_room
        self._look_every = look_every
        self._look_again = look_again
        self._looked = asyncio.Event()
        self._wrong: WrongServer | None = None
        self._refusal = ""
        self._failed = False
        self._said: tuple[str, ...] = ()
        # Beside cancelling: until Python 3.12, asyncio.wait_for inside redis-py may swallow a cancel.
        self._closing = False

    async def __aenter__(self) -> Self:
        self._loops = [asyncio.create_task(self._look(), name="look at the server")]
        if self._has_room:
            self._loops.append(asyncio.create_task(self._ask(self._has_room), name="ask the server"))
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
        if self._refusal:
            raise QueueUnavailable(self._refusal)
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

    async def _ask(self, has_room: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        while not self._closing:
            asking = asyncio.create_task(has_room())
            try:
                in_time, _ = await asyncio.wait({asking}, timeout=ANSWER_WITHIN)
                if not in_time:
                    self._refuse(SILENT)
                # Not cut short: by its own time-out the client learns to look for another way.
                self._refuse(await self._answer(asking, late=not in_time))
            finally:
                asking.cancel()
            await asyncio.sleep(ASK_EVERY)

    async def _answer(self, asking: "asyncio.Task[bool]", *, late: bool) -> str:
        """Return why jobs are refused now; empty when they are not."""
        try:
            refusal = "" if await asking else NEARLY_FULL
        except QueueUnavailable:
            return SILENT if late else ""  # what is gone says so to each request at once
        except Exception:  # as for a look
            if not self._failed:
                logger.exception("the server could not be asked", extra={"action": "ask_failed"})
            self._failed = True
            return ""
        self._failed = False
        return refusal

    def _refuse(self, refusal: str) -> None:
        if refusal != self._refusal:
            say = logger.warning if refusal else logger.info
            say("new jobs: %s", refusal or "taken again", extra={"action": "admission"})
        self._refusal = refusal

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
