"""Images in Redis: on the queue's server, or on one of their own."""

import hashlib
import math
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    ClusterCrossSlotError,
    NoScriptError,
    OutOfMemoryError,
    RedisClusterException,
)

from shared.errors import NoRoom, ResultGone
from shared.jobs import JobId, job_base_tag
from shared.queue.keys import ALL_BASES, BaseKeys
from shared.queue.terms import Lease
from shared.redis_client import translate_errors
from shared.refs import RepoId
from shared.results.store import GONE, NO_ROOM, ImageTooLarge, attempt_name, source_name

LUA = Path(__file__).parent / "lua"
SHARED_BY_ALL = "index"


class RedisResults:
    """A `ResultStore` in Redis.

    On a cluster, where no script can touch the images of two bases, the cap holds for each base by itself.
    """

    def __init__(self, redis: Redis, *, ttl: int, most_bytes: int) -> None:
        """`ttl` is in seconds."""
        self._redis = redis
        self._ttl = ttl
        self._most_bytes = most_bytes
        self._put = _Script(redis, "put")
        self._free = _Script(redis, "free")
        self._one_index = True

    async def put(self, lease: Lease, data: bytes) -> str:
        """Keep the image. A server without memory is first relieved of the oldest ones."""
        name = attempt_name(lease)
        await self._put_named(name, data, self._ttl)
        return name

    async def put_source(self, base: RepoId, digest: str, data: bytes, seconds: float) -> None:
        """Keep a picture that jobs start from."""
        await self._put_named(source_name(base, digest), data, max(self._ttl, math.ceil(seconds)))

    async def _put_named(self, name: str, data: bytes, ttl: int) -> None:
        if len(data) > self._most_bytes:
            raise ImageTooLarge(len(data), self._most_bytes)
        keys, wanted = _keys_of(name), len(data)
        with translate_errors():
            while True:
                try:
                    await self._keep(keys, name, data, ttl)
                except OutOfMemoryError as error:
                    # Twice as much each time: what the server counts is more than the images' bytes.
                    if not await self._free.run(self._index(keys), wanted, self._ttl):
                        raise NoRoom(NO_ROOM) from error
                    wanted *= 2
                else:
                    return

    async def get(self, name: str) -> bytes:
        """Return the image."""
        with translate_errors():
            data = await self._redis.get(_keys_of(name).blob(name))
        if not isinstance(data, bytes):
            raise ResultGone(GONE)
        return data

    async def _keep(self, keys: BaseKeys, name: str, data: bytes, ttl: int) -> None:
        arguments = data, ttl, self._most_bytes
        if self._one_index:
            try:
                await self._put.run([*self._index(keys), keys.blob(name)], *arguments)
            except (ClusterCrossSlotError, RedisClusterException):  # the server's refusal, the client's
                self._one_index = False
            else:
                return
        await self._put.run([*self._index(keys), keys.blob(name)], *arguments)

    def _index(self, keys: BaseKeys) -> list[str]:
        indexed = BaseKeys(ALL_BASES) if self._one_index else keys
        return [indexed.blobs, indexed.blob_bytes]


async def trim_images(redis: Redis, most_bytes: int) -> None:
    """Have the server forget its oldest images until all together have no more than so many bytes."""
    index = BaseKeys(ALL_BASES)
    await _Script(redis, "trim").run([index.blobs, index.blob_bytes], most_bytes)


class _Script:
    """One atomic step. Unlike the queue's, it tells why the server refuses it."""

    def __init__(self, redis: Redis, name: str) -> None:
        # the header with the flags has to be the first line
        header, _, body = _read(name).partition("\n")
        self._redis = redis
        self._text = f"{header}\n{_read(SHARED_BY_ALL)}\n{body}"
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, keys: list[str], *arguments: bytes | int) -> Any:  # noqa: ANN401 - each script has its reply
        try:
            return await self._redis.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self._redis.eval(self._text, len(keys), *keys, *arguments)


def _keys_of(name: str) -> BaseKeys:
    return BaseKeys(job_base_tag(JobId(name)))


def _read(name: str) -> str:
    return (LUA / f"{name}.lua").read_text(encoding="utf-8")
