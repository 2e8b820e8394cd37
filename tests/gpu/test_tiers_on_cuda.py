"""Adapters in pinned memory and on the device: the same weights come out of either."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from unittest import mock

import pytest
import torch

from shared.refs import AdapterRef, RepoId, Revision
from tests import adapter_files as files
from tests.builders import some_params
from tests.tiny_bases import tiny_xl
from worker.engine import device_memory
from worker.engine.adapter import CanonicalAdapter
from worker.engine.contract import Activation
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import describe
from worker.engine.slab import moved
from worker.engine.snapshot import Snapshot

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

COMMIT = "0" * 40


def buffers(adapter: CanonicalAdapter) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def note(buffer: torch.Tensor) -> torch.Tensor:
        found.append(buffer)
        return buffer

    moved(adapter, note)
    return found


def test_an_adapter_is_pinned_when_ingested_and_swaps_from_the_device_are_the_same(tmp_path: Path) -> None:
    pipeline = tiny_xl().to("cuda", torch.bfloat16)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    engine = DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))
    layers = files.random_layers(pipeline, files.linears(pipeline, "unet"), seed=1)
    pinned = engine.ingest(files.write(tmp_path / "a.safetensors", files.peft(layers)))
    raised = engine.raise_up(pinned)

    assert raised is not None
    assert all(buffer.is_pinned() for buffer in buffers(pinned))
    assert all(buffer.is_cuda for buffer in buffers(raised))
    ref = AdapterRef(repo=RepoId("tests/a"), revision=Revision(COMMIT), weight_name="a.safetensors")
    seen = []
    for adapter in (pinned, raised):
        engine.activate([])
        engine.activate([Activation(ref=ref, adapter=adapter)])
        seen.append({name: weight.clone() for name, weight in engine._targets.weights.items()})
    assert all(torch.equal(weight, seen[1][name]) for name, weight in seen[0].items())
    engine.verify()


def test_adapters_from_the_device_and_from_ram_are_swapped_in_together(tmp_path: Path) -> None:
    pipeline = tiny_xl().to("cuda", torch.bfloat16)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    engine = DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))
    targets = files.linears(pipeline, "unet")
    first, second = (
        engine.ingest(
            files.write(
                tmp_path / f"{seed}.safetensors", files.peft(files.random_layers(pipeline, some, seed=seed))
            )
        )
        for seed, some in enumerate((targets[:40], targets[20:]))
    )
    raised = engine.raise_up(first)
    assert raised is not None
    ref = AdapterRef(repo=RepoId("tests/a"), revision=Revision(COMMIT), weight_name="a.safetensors")
    seen = []
    for adapter in (first, raised):
        engine.activate([])
        engine.activate([Activation(ref=ref, adapter=each) for each in (adapter, second)])
        seen.append({name: weight.clone() for name, weight in engine._targets.weights.items()})
    assert all(torch.equal(weight, seen[1][name]) for name, weight in seen[0].items())
    engine.verify()


def test_adapters_are_raised_on_another_thread_while_swaps_run(tmp_path: Path) -> None:
    pipeline = tiny_xl().to("cuda", torch.bfloat16)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    engine = DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))
    ref = AdapterRef(repo=RepoId("tests/a"), revision=Revision(COMMIT), weight_name="a.safetensors")
    targets = files.linears(pipeline, "unet")
    adapters = [
        engine.ingest(
            files.write(
                tmp_path / f"{seed}.safetensors",
                files.peft(files.random_layers(pipeline, targets, rank=lambda _: 32, seed=seed)),
            )
        )
        for seed in range(2)
    ]

    def swapped_in(adapter: CanonicalAdapter) -> dict[str, torch.Tensor]:
        engine.activate([Activation(ref=ref, adapter=adapter)])
        return {name: weight.clone() for name, weight in engine._targets.weights.items()}

    alone = [swapped_in(adapter) for adapter in adapters]
    handed: Queue[CanonicalAdapter | None] = Queue(maxsize=1)

    def raise_all() -> None:
        for number in range(100):
            handed.put(engine.raise_up(adapters[number % 2]), timeout=60)

    with ThreadPoolExecutor(1) as beside:
        raising = beside.submit(raise_all)
        for number in range(100):
            raised = handed.get(timeout=60)
            assert raised is not None
            seen = swapped_in(raised)
            # let go at once: the next one gets its memory, and must not have it too early
            del raised
            assert all(torch.equal(weight, alone[number % 2][name]) for name, weight in seen.items())
        raising.result()
    engine.verify()


def test_as_much_is_left_alone_as_a_drawing_took() -> None:
    pipeline = tiny_xl().to("cuda", torch.bfloat16)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    engine = DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))
    with mock.patch.object(device_memory, "SPARE_BYTES", 0), mock.patch.dict(device_memory._most_drawn):
        device_memory._most_drawn.clear()
        before = device_memory.room_on(pipeline.device)
        engine.generate(some_params(steps=2), lambda _done, _total: None)
        taken = device_memory._most_drawn[pipeline.device]
        assert 0 < taken < 1 << 30
        assert device_memory.room_on(pipeline.device) < before
