"""Which bases are served now: workers announce themselves, routers look."""

import json
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import cast

from redis.asyncio import Redis

from shared.jobs import WorkerId
from shared.queue.keys import BASES, POOLS
from shared.redis_client import one_round_trip, translate_errors
from shared.refs import RepoId, base_tag

BASES_KEPT = 8 * 24 * 3600.0
"""Seconds for which a base is known that has no workers any more: as long as jobs that were given up, which
an operator may have run again, and a day for them to wait in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerInfo:
    """What a worker says of itself.

    Attributes:
        base_revision: commit of the warm base.
        pipeline_class: the diffusers class of the base, as in its model_index.json.
        default_width: what the base draws when a request leaves that open, as do height and steps.
        adapters: `merged` into the weights, or `unmerged` beside those that cannot be rewritten.
        image_to_image: whether the base draws from a picture as well.
        copy_of: the base that this one is a quantised copy of, whose adapters it therefore takes.
        denoiser_file: the GGUF file of `base` that is its denoiser, if all else is from elsewhere.
        other_parts: from where, as `organisation/name@commit`.
        schedulers: class names of those that it can be run with; empty where a worker does not say.
    """

    id: WorkerId
    base: RepoId
    base_revision: str
    pipeline_class: str
    device: str
    dtype: str
    default_width: int
    default_height: int
    default_steps: int
    adapters: str = "merged"
    image_to_image: bool = False
    copy_of: RepoId | None = None
    denoiser_file: str | None = None
    other_parts: str | None = None
    schedulers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BasePool:
    """The live workers of one base."""

    base: RepoId
    workers: tuple[WorkerInfo, ...]

    @property
    def copy_of(self) -> RepoId | None:
        """The base that this one is a quantised copy of; a worker of an older version does not say."""
        return next((worker.copy_of for worker in self.workers if worker.copy_of), None)


class PoolDirectory:
    """The live workers of all bases.

    Every method raises `QueueUnavailable` when Redis cannot serve it now.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def announce(self, worker: WorkerInfo, ttl: float) -> None:
        """Say that `worker` lives for the next `ttl` seconds."""
        with translate_errors():
            now = await self._now()
            pipeline = one_round_trip(self._redis)
            pipeline.zremrangebyscore(POOLS, "-inf", now)
            pipeline.zadd(POOLS, {_encode(worker): now + ttl})
            pipeline.zadd(BASES, {base_tag(worker.base): now})
            pipeline.zremrangebyscore(BASES, "-inf", now - BASES_KEPT)
            await pipeline.execute()

    async def withdraw(self, worker: WorkerInfo) -> None:
        """Say that `worker` leaves."""
        with translate_errors():
            await self._redis.zrem(POOLS, _encode(worker))

    async def live(self) -> tuple[BasePool, ...]:
        """Return the pools that have a live worker, sorted by base; in them the workers by id."""
        with translate_errors():
            pipeline = one_round_trip(self._redis)
            (seconds, _), members = await pipeline.time().zrange(POOLS, 0, -1, withscores=True).execute()
        alive = [_decode(member) for member, expiry in members if expiry > seconds]
        workers = sorted((worker for worker in alive if worker), key=lambda worker: (worker.base, worker.id))
        return tuple(
            BasePool(base=base, workers=tuple(group))
            for base, group in groupby(workers, key=lambda worker: worker.base)
        )

    async def left(self) -> list[str]:
        """Return the tags of bases that had workers within `BASES_KEPT`, and have none now."""
        served = {base_tag(pool.base) for pool in await self.live()}
        with translate_errors():
            since = await self._now() - BASES_KEPT
            tags = await self._redis.zrange(BASES, since, "+inf", byscore=True)
        return [tag for tag in map(bytes.decode, cast("list[bytes]", tags)) if tag not in served]

    async def _now(self) -> float:
        seconds, microseconds = await self._redis.time()
        return seconds + microseconds / 1_000_000


_NAMES = frozenset(field.name for field in fields(WorkerInfo))


def _encode(worker: WorkerInfo) -> str:
    return json.dumps(asdict(worker), sort_keys=True)


def _decode(member: bytes) -> WorkerInfo | None:
    """Return the worker, without what a newer one says beside; None for one that this process cannot use."""
    said = {name: value for name, value in json.loads(member).items() if name in _NAMES}
    try:
        return WorkerInfo(**said | {"schedulers": tuple(said.get("schedulers", ()))})
    except TypeError:
        return None
