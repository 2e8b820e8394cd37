"""The atomic steps of the queue: the files of `lua/`, run by their digest."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from shared.redis_client import translate_errors

LUA = Path(__file__).parent / "lua"
SHARED_BY_ALL = "record"


class Script:
    """One atomic step. A server that does not know it, after a restart or a flush, is given its text."""

    def __init__(self, redis: Redis, name: str) -> None:
        # the header with the flags has to be the first line
        header, _, body = _read(LUA / f"{name}.lua").partition("\n")
        self._redis = redis
        self._text = f"{header}\n{_read(LUA / f'{SHARED_BY_ALL}.lua')}\n{body}"
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, keys: list[str], *arguments: str | bytes | float) -> Any:  # noqa: ANN401 - each script has its reply
        """Run the script and return its reply.

        Raises:
            QueueUnavailable: the server cannot run it now.
        """
        with translate_errors():
            try:
                return await self._redis.evalsha(self._sha, len(keys), *keys, *arguments)
            except NoScriptError:
                # EVAL rather than SCRIPT LOAD and again EVALSHA: no flush can come in between.
                return await self._redis.eval(self._text, len(keys), *keys, *arguments)


@cache
def _read(path: Path) -> str:
    """Return a script's text. A router makes a queue for each tag that a client's job id names."""
    return path.read_text(encoding="utf-8")
