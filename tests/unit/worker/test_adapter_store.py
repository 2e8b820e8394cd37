"""Room in RAM under several jobs at once: never more than the budget, and nobody waits for ever."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from unittest import mock

import pytest

from shared.errors import AdapterRejected, WorkerFault
from shared.refs import AdapterRef, RepoId
from tests.builders import BASE, an_adapter, known
from worker.adapter_store import AdapterStore, Threads, WeightFile, weight_file
from worker.disk_tier import NotOnDisk
from worker.engine.contract import BrokenFile
from worker.gpu_tier import GpuTier
from worker.metrics import WorkerMetrics
from worker.tier import Tier


@dataclass(frozen=True)
class Blob:
    nbytes: int
    file_nbytes: int
    digest: Future[str] = field(default_factory=known, compare=False)


class Files:
    """Files whose name is their size, all on disk until `lost` says otherwise."""

    def __init__(self) -> None:
        self.lost = 0
        self.fetched = 0
        self.damaged = 0

    def is_here(self, _ref: AdapterRef) -> bool:
        return self.lost == 0

    def size_here(self, ref: AdapterRef) -> int | None:
        return None if self.lost else int(ref.weight_name)

    def size(self, ref: AdapterRef, _token: str | None) -> int:
        return int(ref.weight_name)

    def fetch(self, _ref: AdapterRef, _token: str | None, _nbytes: int) -> None:
        self.fetched += 1

    @contextmanager
    def reading(self, ref: AdapterRef) -> Iterator[Path]:
        if self.lost:
            self.lost -= 1
            raise NotOnDisk(ref.repo)
        yield Path(ref.weight_name)

    def drop_damaged(self, _ref: AdapterRef) -> bool:
        self.damaged -= 1
        self.lost = 1 if self.damaged >= 0 else 0
        return self.damaged >= 0


class Ingests:
    """Adapters `growth` times as large as their files; the most bytes at once, with those in `ram`.

    The first so many files are refused as `broken`.
    """

    def __init__(self, ram: Tier[WeightFile, Blob]) -> None:
        self.growth = 1
        self.busy = self.most = self.broken = 0
        self._ram = ram
        self._lock = Lock()

    def __call__(self, path: Path) -> Blob:
        size = int(path.name)
        with self._lock:
            self.busy += size
            self.most = max(self.most, self.busy + self._ram.nbytes)
        time.sleep(0.005)  # for others to begin, if they may
        with self._lock:
            self.busy -= size
            self.broken -= 1
            if self.broken >= 0:
                raise BrokenFile("not a whole safetensors file")
        return Blob(size * self.growth, size)


@dataclass
class Rig:
    store: AdapterStore[Blob]
    ram: Tier[WeightFile, Blob]
    gpu: GpuTier[WeightFile, Blob]
    files: Files
    ingests: Ingests


GPU_BUDGET = 50


@pytest.fixture
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A store without a GPU tier; with one where a test's parameter says so."""
    files, ram = Files(), Tier[WeightFile, Blob](100)
    ingests = Ingests(ram)
    pools = [ThreadPoolExecutor(2) for _ in range(4)]
    gpu = GpuTier(Tier[WeightFile, Blob](GPU_BUDGET), lambda blob: blob, pools[3])
    store = AdapterStore(
        files=files,  # type: ignore[arg-type] # a stand-in
        ingest=ingests,
        ram=ram,
        gpu=gpu if getattr(request, "param", "") == "gpu" else None,
        most_bytes=100,
        threads=Threads(download=pools[0], lookup=pools[1], ingest=pools[2], raising=pools[3]),
        metrics=WorkerMetrics(BASE),
    )
    yield Rig(store, ram, gpu, files, ingests)
    for pool in pools:
        pool.shutdown()


def a_ref(name: str, size: int) -> AdapterRef:
    return an_adapter(repo=RepoId(f"someone/{name}"), weight_name=str(size))


async def test_a_job_waits_for_room_while_the_running_one_uses_it_and_gets_it_then(rig: Rig) -> None:
    waiting_ref = a_ref("waiting", 60)
    async with rig.store.hold([a_ref("running", 60)], None):
        with rig.store.expected([waiting_ref]):
            waiting = asyncio.create_task(rig.store.fetch([waiting_ref], None))
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done
            assert rig.ram.nbytes == 60
    async with asyncio.timeout(10):
        await waiting
    assert rig.store.holds([waiting_ref])


async def test_adapters_that_grow_beyond_the_budget_do_not_make_their_job_wait_for_ever(rig: Rig) -> None:
    rig.ingests.growth = 3
    async with asyncio.timeout(10), rig.store.hold([a_ref("a", 30), a_ref("b", 40)], None) as activations:
        assert [each.adapter.nbytes for each in activations] == [90, 120]
    assert rig.ram.nbytes <= 100


async def test_what_was_taken_once_is_taken_again_whatever_it_has_grown_to(rig: Rig) -> None:
    rig.ingests.growth = 3
    for _ in range(2):
        async with asyncio.timeout(10), rig.store.hold([a_ref("a", 30), a_ref("b", 40)], None) as held:
            assert len(held) == 2


async def test_many_at_once_never_take_more_than_the_budget(rig: Rig) -> None:
    refs = [a_ref(f"n{number}", 60 if number % 2 else 30) for number in range(20)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(rig.store.fetch([ref], None) for ref in refs))
    assert rig.ingests.most <= 100


async def test_who_left_while_waiting_for_room_pushes_nothing_out(rig: Rig) -> None:
    expected = a_ref("expected", 40)
    with rig.store.expected([expected]):
        async with rig.store.hold([a_ref("running", 60)], None):
            await rig.store.fetch([expected], None)
            leaving = asyncio.create_task(rig.store.fetch([a_ref("left", 70)], None))
            await asyncio.wait([leaving], timeout=0.2)
            leaving.cancel()
            await asyncio.wait([leaving])
        await asyncio.sleep(0.1)
        assert rig.store.holds([expected])
        assert not rig.store.holds([a_ref("left", 70)])
    async with asyncio.timeout(10):
        await rig.store.fetch([a_ref("left", 70)], None)


async def test_a_file_that_was_damaged_here_is_fetched_again(rig: Rig) -> None:
    told: list[str] = []
    rig.files.damaged = rig.ingests.broken = 1
    await rig.store.fetch([a_ref("a", 10)], None, on_absent=lambda: told.append("a"))
    assert rig.store.holds([a_ref("a", 10)])
    assert told  # it seemed to be here

    rig.ingests.broken = 1  # and is what the Hub has
    with pytest.raises(AdapterRejected, match="not a whole safetensors file"):
        await rig.store.fetch([a_ref("b", 10)], None)


async def test_a_file_that_was_evicted_before_it_was_read_is_fetched_again(rig: Rig) -> None:
    rig.files.lost = 2
    await rig.store.fetch([a_ref("a", 10)], None)
    assert rig.files.fetched == 2


async def test_who_fetches_is_told_of_adapters_that_only_the_hub_has(rig: Rig) -> None:
    told: list[str] = []

    async def fetch(name: str) -> None:
        await rig.store.fetch([a_ref(name, 10)], None, on_absent=lambda: told.append(name))

    await fetch("on disk")
    rig.files.lost = 1
    await fetch("on the Hub")
    rig.files.lost = 1
    await fetch("on disk")  # by now in RAM
    assert set(told) == {"on the Hub"}  # before its size is asked for, and before it is downloaded


async def test_a_disk_that_keeps_nothing_is_said_to_be_too_small(rig: Rig) -> None:
    rig.files.lost = 100
    with pytest.raises(WorkerFault, match="disk tier is too small"):
        await rig.store.fetch([a_ref("a", 10)], None)


async def test_what_is_brought_ahead_leaves_what_is_expected_alone(rig: Rig) -> None:
    async with rig.store.ahead(a_ref("first", 70)) as first_is_here:
        async with rig.store.ahead(a_ref("second", 40)) as second_is_here:
            assert (first_is_here, second_is_here) == (True, False)
        async with rig.store.ahead(a_ref("third", 30)) as third_is_here:
            assert third_is_here
    assert rig.store.holds([a_ref("first", 70), a_ref("third", 30)])


async def test_a_job_takes_the_room_of_what_is_only_expected(rig: Rig) -> None:
    async with rig.store.ahead(a_ref("hinted", 70)), asyncio.timeout(10):
        async with rig.store.hold([a_ref("needed", 100)], None):
            assert rig.ram.nbytes == 100
        assert not rig.store.holds([a_ref("hinted", 70)])


@pytest.mark.parametrize("rig", ["gpu"], indirect=True)
async def test_what_the_gpu_has_no_room_for_is_kept_in_ram_ahead_of_its_job(rig: Rig) -> None:
    hinted, other = a_ref("hinted", GPU_BUDGET + 10), a_ref("other", 40)
    async with rig.store.ahead(hinted) as is_kept:
        assert is_kept
        async with rig.store.ahead(a_ref("another", 50)) as has_room:
            assert not has_room
        await rig.store.fetch([other], None)
        assert rig.store.holds([hinted])


@pytest.mark.parametrize("rig", ["gpu"], indirect=True)
async def test_a_job_s_adapters_are_on_the_gpu_before_its_turn_as_far_as_they_fit(rig: Rig) -> None:
    small, large = a_ref("small", 20), a_ref("large", 40)

    async def fetch(ref: AdapterRef) -> bool:
        await rig.store.lift([ref], await rig.store.fetch([ref], None))
        return rig.gpu.holds(weight_file(ref))

    with rig.store.expected([small]):
        assert await fetch(small)
        assert not await fetch(large)
        assert rig.gpu.holds(weight_file(small))
        async with rig.store.hold([large], None) as (activation,):
            assert activation.adapter.nbytes == 40
    assert await fetch(large)
    assert not rig.gpu.holds(weight_file(small))


@pytest.mark.parametrize(("rig", "size"), [("ram", 40), ("gpu", 20)], indirect=["rig"])
async def test_what_is_used_again_outlives_what_came_after_it(rig: Rig, size: int) -> None:
    def is_here(ref: AdapterRef) -> bool:
        return rig.gpu.holds(weight_file(ref)) if rig.store._gpu else rig.store.holds([ref])

    often, once, new = (a_ref(name, size) for name in ("often", "once", "new"))
    for ref in (often, once, often, new):
        async with rig.store.hold([ref], None):
            assert is_here(ref)
    assert (is_here(often), is_here(once)) == (True, False)


async def test_who_waited_for_a_download_of_his_own_gets_what_another_has_read_meanwhile(rig: Rig) -> None:
    ref, begun, go_on = a_ref("a", 10), Event(), Event()

    def fetch(_ref: AdapterRef, token: str | None, _nbytes: int) -> None:
        if token == "late":
            begun.set()
            go_on.wait()

    with (
        mock.patch.object(rig.files, "is_here", return_value=False),
        mock.patch.object(rig.files, "fetch", fetch),
    ):
        late = asyncio.create_task(rig.store.fetch([ref], "late"))
        await asyncio.to_thread(begun.wait)
        try:
            async with asyncio.timeout(10):
                (early,) = await rig.store.fetch([ref], "early")
        finally:
            go_on.set()
        assert (await late)[0] is early
