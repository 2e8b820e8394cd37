"""From an adapter's reference to what the engine applies: GPU and RAM tier first, then disk, then the Hub."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from shared.errors import AdapterRejected, WorkerFault
from shared.refs import AdapterRef, RepoId, Revision
from worker.disk_tier import NotOnDisk
from worker.engine.contract import Activation, Adapter, AdapterFault, BrokenFile
from worker.flights import Flights
from worker.gpu_tier import GpuTier
from worker.hub_files import HubFiles
from worker.metrics import TierName, WorkerMetrics
from worker.tier import Tier

A = TypeVar("A", bound=Adapter)

MOST_FETCHES = 8
"""Of one file for one job: what was fetched may be evicted, by another process too, before it is read."""

MOST_AHEAD = 16
"""Downloads on their way beyond which none is begun ahead of its job: the threads are the jobs' own."""


OnAbsent = Callable[[], object]
"""Called when an adapter has to come from the Hub, before the Hub is asked for it; perhaps more than once."""


def _unheard() -> None:
    """Tell nobody of what is absent."""


class NotWanted(Exception):
    """Nobody waits for the adapter any more."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What an adapter is kept under: the reference without the strength, which is the job's affair."""

    repo: RepoId
    revision: Revision
    weight_name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Threads:
    """Where blocking work is done. Apart, so that downloads that hang hold up nothing that is here already.

    Attributes:
        download: what waits for the Hub.
        lookup: what asks the disk whether a file is there.
        ingest: what reads files; each thread takes computing time from the generation.
        raising: what moves adapters to the GPU. A job that only needs this waits for nobody's file.
    """

    download: Executor
    lookup: Executor
    ingest: Executor
    raising: Executor


class AdapterStore(Generic[A]):
    """Ingested adapters of one base. Lives on one event loop; blocking work goes to threads.

    A hit in RAM or on disk is given to any job that names the file. Whether the caller may read it was asked
    by the router, with the caller's own token; the store cannot ask again, because a job's token may be older
    than a grant that was withdrawn, and a worker speaks for nobody.
    """

    def __init__(
        self,
        *,
        files: HubFiles,
        ingest: Callable[[Path], A],
        ram: Tier[WeightFile, A],
        gpu: GpuTier[WeightFile, A] | None,
        most_bytes: int,
        threads: Threads,
        metrics: WorkerMetrics,
    ) -> None:
        """`most_bytes` is what the adapters of one job may have together: all are in RAM at once.

        `gpu` is None where the engine computes in RAM.
        """
        self._files = files
        self._ingest = ingest
        self._ram = ram
        self._gpu = gpu
        self._most_bytes = most_bytes
        self._threads = threads
        self._metrics = metrics
        self._downloads = Flights[tuple[WeightFile, str | None], None]()
        self._ingests = Flights[WeightFile, A]()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(
        self, refs: Sequence[AdapterRef], token: str | None
    ) -> AsyncIterator[tuple[Activation[A], ...]]:
        """Give the adapters, in order, ready to be activated; none leaves its tier while the context is open.

        Raises:
            As `fetch`.
        """
        files = [weight_file(ref) for ref in refs]
        with self._in_use(frozenset(files)):
            adapters = await self.fetch(refs, token, count=False)
            for file in files:
                self._ram.use(file)
            if self._gpu is not None:
                pairs = zip(files, adapters, strict=True)
                adapters = await asyncio.gather(*(self._gpu.use(file, adapter) for file, adapter in pairs))
            yield tuple(
                Activation(ref=ref, adapter=adapter) for ref, adapter in zip(refs, adapters, strict=True)
            )

    async def fetch(
        self,
        refs: Sequence[AdapterRef],
        token: str | None,
        *,
        count: bool = True,
        on_absent: OnAbsent = _unheard,
    ) -> list[A]:
        """Bring the adapters of one job to RAM and return them.

        Args:
            refs: the adapters.
            token: the caller's Hub token, for what has to be downloaded.
            count: whether the metrics count where they were found.
            on_absent: called when one is neither in RAM nor on disk, before the Hub is asked for it.

        Raises:
            AdapterRejected: a file is broken, made for another base, or too large, alone or with the others.
            RepoNotFound, RepoForbidden, HubUnavailable, WorkerFault: as `HubFiles.fetch`.
        """
        held = [adapter for ref in refs if (adapter := self._ram.peek(weight_file(ref))) is not None]
        if len(held) == len(refs):
            for _ in range(len(refs) if count else 0):
                self._metrics.looked_up(TierName.RAM, hit=True)
            return held
        sizes = await self._check_sizes(refs, token, on_absent)
        if count:
            for file in sizes:
                self._metrics.looked_up(TierName.RAM, hit=file in self._ram)
        with self._ram.expected(sizes):  # so that no hint takes the room of what is on its way here
            getting = (self._get(ref, token, sizes[weight_file(ref)], count, on_absent) for ref in refs)
            return await asyncio.gather(*getting)

    async def lift(self, refs: Sequence[AdapterRef], adapters: Sequence[A]) -> None:
        """Move what `fetch` gave for `refs` to the GPU, as far as it fits beside what is wanted there.

        Before the job's turn: in it, the device would wait.
        """
        if self._gpu is None:
            return
        for file, adapter in zip(map(weight_file, refs), adapters, strict=True):
            self._metrics.looked_up(TierName.GPU, hit=self._gpu.holds(file))
            async with self._gpu.ahead(file, adapter):
                pass  # what keeps it from now on is `expected`

    @contextmanager
    def expected(self, refs: Sequence[AdapterRef]) -> Iterator[None]:
        """Keep the adapters in RAM and on the GPU while inside, unless what is in use needs their place."""
        files = frozenset(map(weight_file, refs))
        with (
            self._ram.expected(dict.fromkeys(files, 0)),
            self._gpu.kept(files) if self._gpu else nullcontext(),
        ):
            yield

    @asynccontextmanager
    async def ahead(self, ref: AdapterRef) -> AsyncIterator[bool]:
        """Bring an adapter up ahead of its job and keep it while inside; give whether RAM has room for that.

        Where the GPU has none, it stays in RAM. Without a caller's token. Raises what `fetch` raises, which
        is nobody's failure yet.
        """
        nbytes = await self._ahead_on_disk(ref)
        file = weight_file(ref)
        if nbytes is None or (file not in self._ram and nbytes > self._ram.room):
            yield False
            return
        with self._ram.expected({file: nbytes}):
            adapter = await self._get(ref, None, nbytes, False, _unheard)
            if self._gpu is None:
                yield True
                return
            async with self._gpu.ahead(file, adapter):
                yield True

    async def _ahead_on_disk(self, ref: AdapterRef) -> int | None:
        """Have the adapter on disk or above; return its bytes, None when enough others are on their way."""
        adapter = self._ram.peek(weight_file(ref))
        if adapter is not None:
            return adapter.nbytes
        if not await self._is_on_disk(ref) and len(self._downloads) >= MOST_AHEAD:
            return None
        nbytes = await self._size(ref, None, _unheard)
        await self._download(ref, None, nbytes, False, _unheard)
        return nbytes

    def holds(self, refs: Sequence[AdapterRef]) -> bool:
        """Whether all of them are in RAM now."""
        return all(weight_file(ref) in self._ram for ref in refs)

    @contextmanager
    def _in_use(self, files: frozenset[WeightFile]) -> Iterator[None]:
        try:
            with self._ram.in_use(files):
                self._look_again()
                if self._gpu is None:
                    yield
                else:
                    with self._gpu.in_use(files):
                        yield
        finally:
            self._look_again()

    async def _check_sizes(
        self, refs: Sequence[AdapterRef], token: str | None, on_absent: OnAbsent
    ) -> dict[WeightFile, int]:
        """Refuse what does not fit into RAM together, before any of it is downloaded; return the sizes."""
        files = {weight_file(ref): ref for ref in refs}
        found = await asyncio.gather(*(self._size(ref, token, on_absent) for ref in files.values()))
        sizes = dict(zip(files, found, strict=True))
        if sum(found) > self._most_bytes:
            named = ", ".join(f"{file.repo} {size}" for file, size in sizes.items())
            raise AdapterRejected(
                f"the adapters have {sum(found)} bytes together ({named}); "
                f"at most {self._most_bytes} are taken here: use fewer or smaller ones"
            )
        return sizes

    async def _size(self, ref: AdapterRef, token: str | None, on_absent: OnAbsent) -> int:
        adapter = self._ram.peek(weight_file(ref))
        if adapter is not None:
            # not what it takes here, which is more: what was taken once would be refused the next time
            return adapter.file_nbytes
        run = asyncio.get_running_loop().run_in_executor
        nbytes = await run(self._threads.lookup, self._files.size_here, ref)
        if nbytes is None:
            on_absent()
            nbytes = await run(self._threads.download, self._files.size, ref, token)
        return nbytes

    async def _get(
        self, ref: AdapterRef, token: str | None, nbytes: int, count: bool, on_absent: OnAbsent
    ) -> A:
        file = weight_file(ref)
        for _ in range(MOST_FETCHES):
            adapter = self._ram.peek(file)
            if adapter is not None:
                return adapter
            await self._download(ref, token, nbytes, count, on_absent)
            try:
                return await self._ingests.join(file, lambda: self._ingested(ref, nbytes))
            except (NotOnDisk, NotWanted):  # the latter is of one who left just before
                continue
        raise WorkerFault(f"{ref.repo}: the worker's disk tier is too small for what is asked for at once")

    async def _download(
        self, ref: AdapterRef, token: str | None, nbytes: int, count: bool, on_absent: OnAbsent
    ) -> None:
        here = await self._is_on_disk(ref)
        if count:
            self._metrics.looked_up(TierName.DISK, hit=here)
        if not here:
            on_absent()
            fetch = asyncio.get_running_loop().run_in_executor
            # One flight per token: a refusal of one caller is no answer to another.
            await self._downloads.join(
                (weight_file(ref), token),
                lambda: fetch(self._threads.download, self._files.fetch, ref, token, nbytes),
            )

    async def _ingested(self, ref: AdapterRef, nbytes: int) -> A:
        """Read the file into RAM. Its place is made first, so that the tier's budget holds at any moment.

        A file that goes on to page-locked memory takes twice its place while it is read, one whose tensors a
        converter makes anew up to three times. Until they are hashed, files may stay beside the budget.
        """
        file = weight_file(ref)
        adapter = self._ram.peek(file)
        if adapter is not None:  # by now: another flight has landed since this one was wanted
            return adapter
        await self._reserve(file, nbytes)
        try:
            loop = asyncio.get_running_loop()
            adapter = await loop.run_in_executor(self._threads.ingest, self._read, ref)
        except AdapterFault as error:
            raise AdapterRejected(f"{ref.repo}: {ref.weight_name}: {error}") from error
        finally:
            self._ram.release(file, nbytes)
            self._look_again()
        self._ram.put(file, adapter)
        return adapter

    def _read(self, ref: AdapterRef) -> A:
        try:
            with self._files.reading(ref) as path:
                return self._ingest(path)
        except BrokenFile as fault:
            if self._files.drop_damaged(ref):
                raise NotOnDisk(ref.repo) from fault
            raise

    async def _reserve(self, file: WeightFile, nbytes: int) -> None:
        """Wait for room beside what is in use. Who is about to draw waits for other ingests only.

        Raises:
            NotWanted: whoever waited has left, and must not push out what others need.
        """
        while not self._ram.reserve(file, nbytes):
            if self._ram.is_in_use(file) and not self._ram.has_reserved:
                self._ram.reserve(file, nbytes, at_any_rate=True)
                return
            await self._freed.wait()
            if not self._ram.is_wanted(file):
                raise NotWanted

    def _look_again(self) -> None:
        """Have those who wait for room look whether there is some now."""
        self._freed.set()
        self._freed = asyncio.Event()

    async def _is_on_disk(self, ref: AdapterRef) -> bool:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads.lookup, self._files.is_here, ref)


def weight_file(ref: AdapterRef) -> WeightFile:
    """Return what the adapter is kept under."""
    return WeightFile(ref.repo, ref.revision, ref.weight_name)
