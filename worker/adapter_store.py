"""From an adapter's reference to its ingested form: RAM tier first, then disk, then the Hub."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from shared.errors import AdapterRejected
from shared.refs import AdapterRef, RepoId, Revision
from worker.engine.contract import Activation, Adapter, AdapterFault
from worker.hub_files import HubFiles
from worker.metrics import WorkerMetrics
from worker.ram_tier import RamTier

A = TypeVar("A", bound=Adapter)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What an adapter is kept under: the reference without the strength, which is the job's affair."""

    repo: RepoId
    revision: Revision
    weight_name: str


class AdapterStore(Generic[A]):
    """Ingested adapters of one base. Lives on one event loop; blocking work goes to `threads`.

    A hit in RAM or on disk is given to any job that names the file. Whether the caller may read it was asked
    by the router, with the caller's own token, for this very request; the store cannot ask again, because a
    job's token may be older than a grant that was withdrawn, and a worker speaks for nobody.
    """

    def __init__(
        self,
        *,
        files: HubFiles,
        ingest: Callable[[Path], A],
        ram: RamTier[WeightFile, A],
        most_bytes: int,
        threads: Executor,
        metrics: WorkerMetrics,
    ) -> None:
        """`most_bytes` is what the adapters of one job may have together: all are in RAM at once."""
        self._files = files
        self._ingest = ingest
        self._ram = ram
        self._most_bytes = most_bytes
        self._threads = threads
        self._metrics = metrics
        self._ingesting = asyncio.Lock()
        self._flights: dict[tuple[WeightFile, str | None], asyncio.Task[A]] = {}

    @asynccontextmanager
    async def hold(
        self, refs: Sequence[AdapterRef], token: str | None
    ) -> AsyncIterator[tuple[Activation[A], ...]]:
        """Give the adapters, in order, ready to be activated; none leaves RAM while the context is open.

        Args:
            refs: the adapters of one job.
            token: the caller's Hub token, for what has to be downloaded.

        Raises:
            AdapterRejected: a file is broken, made for another base, or too large, alone or with the others.
            RepoNotFound, RepoForbidden, HubUnavailable, WorkerFault: as `HubFiles.fetch`.
        """
        with self._ram.in_use(frozenset(map(_weight_file, refs))):
            await self._check_sizes(refs, token)
            adapters = await asyncio.gather(*(self._get(ref, token) for ref in refs))
            yield tuple(
                Activation(ref=ref, adapter=adapter) for ref, adapter in zip(refs, adapters, strict=True)
            )

    def holds(self, refs: Sequence[AdapterRef]) -> bool:
        """Whether all of them are in RAM now."""
        return all(_weight_file(ref) in self._ram for ref in refs)

    async def _check_sizes(self, refs: Sequence[AdapterRef], token: str | None) -> None:
        """Refuse what does not fit into RAM together, before any of it is downloaded."""
        files = {_weight_file(ref): ref for ref in refs}
        sizes = await asyncio.gather(*(self._size(ref, token) for ref in files.values()))
        if sum(sizes) > self._most_bytes:
            named = ", ".join(f"{file.repo} {size}" for file, size in zip(files, sizes, strict=True))
            raise AdapterRejected(
                f"the adapters have {sum(sizes)} bytes together ({named}); "
                f"at most {self._most_bytes} are taken here: use fewer or smaller ones"
            )

    async def _size(self, ref: AdapterRef, token: str | None) -> int:
        adapter = self._ram.get(_weight_file(ref))
        if adapter is not None:
            return adapter.nbytes
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._files.size, ref, token)

    async def _get(self, ref: AdapterRef, token: str | None) -> A:
        file = _weight_file(ref)
        adapter = self._ram.get(file)
        if adapter is not None:
            self._metrics.ram_hits.inc()
            return adapter
        self._metrics.ram_misses.inc()
        # One flight per token: a refusal of one caller is no answer to another.
        flight = self._flights.get((file, token))
        if flight is None:
            flight = asyncio.create_task(self._bring(ref, token))
            self._flights[file, token] = flight
            flight.add_done_callback(lambda done: self._land((file, token), done))
        # A job that is stopped leaves; the flight goes on, for the next job that wants the same.
        return await asyncio.shield(flight)

    async def _bring(self, ref: AdapterRef, token: str | None) -> A:
        loop = asyncio.get_running_loop()
        path = await loop.run_in_executor(self._threads, self._files.fetch, ref, token)
        # One after the other: the engine allows an ingest beside a generation, not beside another ingest.
        async with self._ingesting:
            try:
                adapter = await loop.run_in_executor(self._threads, self._ingest, path)
            except AdapterFault as error:
                raise AdapterRejected(f"{ref.repo}: {ref.weight_name}: {error}") from error
        self._ram.put(_weight_file(ref), adapter)
        return adapter

    def _land(self, key: tuple[WeightFile, str | None], flight: asyncio.Task[A]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, even when nobody waits any more


def _weight_file(ref: AdapterRef) -> WeightFile:
    return WeightFile(ref.repo, ref.revision, ref.weight_name)
