"""How the worker's parts are put together, where that alone decides what a job waits for."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from unittest import mock

import pytest

from shared.config import WorkerConfig
from shared.jobs import WorkerId
from shared.queue.terms import QueueSettings
from shared.refs import FileRef, RepoId, Revision
from tests.builders import BASE, a_worker_config, known
from tests.null_engine import NullAdapter, NullEngine
from worker.adapter_store import WeightFile
from worker.assembly import INGEST_THREADS, PINNED_EXACTLY, Assembly, load_engine
from worker.metrics import WorkerMetrics

FILE = WeightFile(RepoId("someone/a"), Revision("0" * 40), "a.safetensors")


@pytest.fixture
def config(tmp_path: Path) -> WorkerConfig:
    return a_worker_config(tmp_path, "redis://127.0.0.1:9", device="auto")


@pytest.fixture
def assembly(config: WorkerConfig) -> Iterator[Assembly[NullAdapter]]:
    assembly = an_assembly(config)
    yield assembly
    assembly.close()


def an_assembly(config: WorkerConfig) -> Assembly[NullAdapter]:
    return Assembly[NullAdapter](config, QueueSettings(), WorkerId("w"), WorkerMetrics(config.served))


def test_a_base_of_a_file_is_announced_as_the_files_own_and_as_the_operator_calls_it(
    config: WorkerConfig,
) -> None:
    file = FileRef(repo=RepoId("someone/flux-gguf"), name="flux.gguf")
    told = replace(NullEngine(BASE).info, denoiser_file=file.name, copy_of=RepoId("as/its-card-says"))
    engine = mock.Mock(info=told)
    config = replace(config, denoiser=file)
    info = an_assembly(config).worker_info(engine)
    assert (info.base, info.denoiser_file, info.copy_of) == (file.repo, file.name, told.copy_of)

    config = replace(config, copy_of=RepoId("lab/flux"))
    assert an_assembly(config).worker_info(engine).copy_of == "lab/flux"


async def test_a_job_whose_adapters_are_in_ram_waits_for_no_other_file_to_be_read(
    assembly: Assembly[NullAdapter],
) -> None:
    gpu = assembly._gpu(NullEngine(BASE, device="cuda:0"))
    assert gpu is not None
    read = Event()
    for _ in range(INGEST_THREADS):
        assembly._threads.ingest.submit(read.wait)
    try:
        async with asyncio.timeout(10):
            raised = await gpu.use(FILE, NullAdapter(nbytes=10, digest=known("d")))
        assert raised.raised
    finally:
        read.set()


async def test_adapters_of_a_pinned_repository_leave_ram_and_gpu_last(config: WorkerConfig) -> None:
    config = replace(config, pinned=frozenset({FILE.repo}), ram_budget=100, gpu_budget=100)
    assembly, engine = an_assembly(config), NullEngine(BASE, device="cuda:0")
    gpu, ram = assembly._gpu(engine), assembly._store(engine)._ram
    assert gpu is not None
    others = [replace(FILE, repo=RepoId(f"someone/{name}")) for name in "bc"]
    for file in (FILE, *others):
        adapter = NullAdapter(nbytes=40, digest=known("d"))
        ram.put(file, adapter)
        await gpu.use(file, adapter)
    assembly.close()

    assert FILE in ram
    assert gpu.holds(FILE)


@pytest.mark.parametrize(("device", "has_tier"), [("cuda:0", True), ("cpu", False), ("mps:0", False)])
def test_only_cuda_has_a_tier_of_its_own(
    assembly: Assembly[NullAdapter], device: str, has_tier: bool
) -> None:
    assert (assembly._gpu(NullEngine(BASE, device=device)) is not None) == has_tier


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": PINNED_EXACTLY}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
    ],
)
def test_page_locked_memory_has_the_size_asked_for_unless_the_operator_says_otherwise(
    config: WorkerConfig, given: dict[str, str], wanted: dict[str, str]
) -> None:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")

    def set_ones(*_: object, **__: object) -> dict[str, str]:
        return {name: os.environ[name] for name in names if name in os.environ}

    environ = {name: value for name, value in os.environ.items() if name not in names} | given
    with (
        mock.patch.dict(os.environ, environ, clear=True),
        mock.patch("worker.engine.load.load_base", set_ones),
    ):
        assert load_engine(config, lambda _stage: None) == wanted
