"""Where images wait for the router: written before the job completes, read once it has."""

from redis.asyncio import Redis

from shared.errors import ResultGone
from shared.queue.keys import BaseKeys
from shared.queue.queue import Lease
from shared.redis_client import translate_errors


class ResultStore:
    """Images of one base, in Redis, under a name that only one attempt writes.

    Every method raises `QueueUnavailable` when Redis cannot serve it now.
    """

    def __init__(self, redis: Redis, tag: str, ttl: int) -> None:
        self._redis = redis
        self._keys = BaseKeys(tag)
        self._ttl = ttl

    async def put(self, lease: Lease, data: bytes) -> str:
        """Keep `data` for `ttl` seconds and return the name to put into the job's result."""
        name = f"{lease.job.id}-{lease.fence}"
        with translate_errors():
            await self._redis.set(self._keys.blob(name), data, ex=self._ttl)
        return name

    async def get(self, name: str) -> bytes:
        """Return the image.

        Raises:
            ResultGone: its time is over.
        """
        with translate_errors():
            data = await self._redis.get(self._keys.blob(name))
        if not isinstance(data, bytes):
            raise ResultGone("the image has expired; run the job again")
        return data
