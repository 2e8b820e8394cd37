"""A compiled denoiser on CUDA: no swap has anything compiled anew, and it draws with what is active."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shared.refs import AdapterRef, RepoId, Revision
from tests import adapter_files as files
from tests.builders import some_params
from tests.tiny_bases import tiny_xl
from worker.engine.adapter import CanonicalAdapter
from worker.engine.compilation import compile_denoiser
from worker.engine.contract import Activation
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import describe
from worker.engine.snapshot import Snapshot

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore"),  # PyTorch's compiler speaks of what it could do better
]

COMMIT = "0" * 40
RANKS = (4, 16, 64, 128)


@pytest.fixture
def engine() -> Iterator[DiffusersEngine]:
    pipeline = tiny_xl().to("cuda", torch.bfloat16)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    torch.compiler.reset()
    engine = DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))
    compile_denoiser(pipeline.unet)
    yield engine
    torch.compiler.reset()


def drawn(engine: DiffusersEngine) -> bytes:
    return engine.generate(some_params(steps=2), lambda _done, _total: None).image.tobytes()


def ingested(engine: DiffusersEngine, folder: Path, rank: int) -> CanonicalAdapter:
    """An adapter of layers of its own."""
    place = RANKS.index(rank)
    some = files.linears(engine._pipeline, "unet")[place :: len(RANKS)]
    layers = files.random_layers(
        engine._pipeline, some, rank=lambda _: rank, size=rank**-0.5 / 2, seed=rank, dtype=torch.float16
    )
    return engine.ingest(files.write(folder / f"{rank}.safetensors", files.peft(layers)))


def test_swaps_recompile_nothing_and_show(engine: DiffusersEngine, tmp_path: Path) -> None:
    ref = AdapterRef(repo=RepoId("tests/a"), revision=Revision(COMMIT), weight_name="a.safetensors")
    adapters = [ingested(engine, tmp_path, rank) for rank in RANKS]
    raised = [there for adapter in adapters if (there := engine.raise_up(adapter)) is not None]
    assert len(raised) == len(adapters)
    alone = [[Activation(ref=ref, adapter=adapter)] for adapter in (*adapters, *raised)]
    together = [Activation(ref=ref, adapter=adapter) for adapter in adapters]
    bare = drawn(engine)
    pictures = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for mix in (*alone, together):
            engine.activate(mix)
            pictures.append(drawn(engine))
            engine.activate([])
            assert drawn(engine) == bare
    assert bare not in pictures
    assert pictures[: len(RANKS)] == pictures[len(RANKS) : 2 * len(RANKS)]
    assert len(set(pictures)) == len(RANKS) + 1
    engine.verify()
