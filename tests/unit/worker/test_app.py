"""How the worker's parts are put together, where that alone decides what a job waits for."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from unittest import mock

import pytest

from shared.refs import FileRef, RepoId, Revision
from tests.builders import BASE, a_worker_config
from tests.null_engine import NullAdapter, NullEngine
from worker.adapter_store import WeightFile
from worker.app import INGEST_THREADS, PINNED_EXACTLY, WorkerApp, load_engine

FILE = WeightFile(RepoId("someone/a"), Revision("0" * 40), "a.safetensors")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[WorkerApp[NullAdapter]]:
    config = a_worker_config(tmp_path, "redis://127.0.0.1:9", device="auto")
    app = WorkerApp[NullAdapter](config, lambda _on_stage: NullEngine(BASE))
    yield app
    for threads in (app._threads.ingest, app._threads.raising):
        threads.shutdown()


def test_a_base_of_a_file_is_announced_as_the_files_own_and_as_the_operator_calls_it(
    app: WorkerApp[NullAdapter],
) -> None:
    file = FileRef(repo=RepoId("someone/flux-gguf"), name="flux.gguf")
    told = replace(NullEngine(BASE).info, denoiser_file=file.name, copy_of=RepoId("as/its-card-says"))
    engine = mock.Mock(info=told)
    app._config = replace(app._config, denoiser=file)
    info = app._worker_info(engine)
    assert (info.base, info.denoiser_file, info.copy_of) == (file.repo, file.name, told.copy_of)

    app._config = replace(app._config, copy_of=RepoId("lab/flux"))
    assert app._worker_info(engine).copy_of == "lab/flux"


async def test_a_job_whose_adapters_are_in_ram_waits_for_no_other_file_to_be_read(
    app: WorkerApp[NullAdapter],
) -> None:
    gpu = app._gpu(NullEngine(BASE, device="cuda:0"))
    assert gpu is not None
    read = Event()
    for _ in range(INGEST_THREADS):
        app._threads.ingest.submit(read.wait)
    try:
        async with asyncio.timeout(10):
            raised = await gpu.use(FILE, NullAdapter(nbytes=10, digest="d"))
        assert raised.raised
    finally:
        read.set()


@pytest.mark.parametrize(("device", "has_tier"), [("cuda:0", True), ("cpu", False), ("mps:0", False)])
def test_only_cuda_has_a_tier_of_its_own(app: WorkerApp[NullAdapter], device: str, has_tier: bool) -> None:
    assert (app._gpu(NullEngine(BASE, device=device)) is not None) == has_tier


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": PINNED_EXACTLY}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
    ],
)
def test_page_locked_memory_has_the_size_asked_for_unless_the_operator_says_otherwise(
    app: WorkerApp[NullAdapter], given: dict[str, str], wanted: dict[str, str]
) -> None:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")

    def set_ones(*_: object, **__: object) -> dict[str, str]:
        return {name: os.environ[name] for name in names if name in os.environ}

    environ = {name: value for name, value in os.environ.items() if name not in names} | given
    with (
        mock.patch.dict(os.environ, environ, clear=True),
        mock.patch("worker.engine.load.load_base", set_ones),
    ):
        assert load_engine(app._config, lambda _stage: None) == wanted
