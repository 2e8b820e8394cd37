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
        self._redis = redis
        self._text, self._sha = _text_and_digest(LUA, name)

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
def _text_and_digest(folder: Path, name: str) -> tuple[str, str]:
    """Return a script as a server is given it. A router makes a queue for each tag that a job id names."""
    common, script = ((folder / f"{each}.lua").read_text(encoding="utf-8") for each in (SHARED_BY_ALL, name))
    header, _, body = script.partition("\n")  # its flags have to stand in the first line
    text = f"{header}\n{common}\n{body}"
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
