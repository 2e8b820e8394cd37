"""A compiled denoiser: swaps recompile nothing, and the pictures are those of the plain one.

The graphs are run by PyTorch's eager backend: what recompiles is decided before a backend sees a graph, and
not every machine has the C++ compiler that the default one needs.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import RecompileError

from tests import adapter_files as files
from tests.integration.worker.engine.conftest import activation, open_engine, params
from tests.tiny_families import build
from worker.engine.compilation import compile_denoiser
from worker.engine.contract import Activation
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.families import denoiser_name, denoiser_of

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")

TOLERANCE = 1
"""Of 255."""


class Counting:
    """A backend that counts graphs and the times that they ran."""

    def __init__(self) -> None:
        self.graphs = 0
        self.runs = 0

    def __call__(self, module: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return module(*args)

        return run


@pytest.fixture(params=["StableDiffusionXLPipeline", "FluxPipeline"])
def engines(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[DiffusersEngine, DiffusersEngine, Counting]]:
    """One base twice: plain, and compiled."""
    build(request.param).save_pretrained(tmp_path)
    plain, compiled = open_engine(tmp_path), open_engine(tmp_path)
    backend = Counting()
    torch.compiler.reset()
    compile_denoiser(denoiser_of(compiled._pipeline), backend)
    yield plain, compiled, backend
    torch.compiler.reset()


def pixels(engine: DiffusersEngine, side: int = 64) -> np.ndarray:
    image = engine.generate(params(width=side, height=side), lambda *_: None).image
    return np.asarray(image).astype(int)


def adapters(engine: DiffusersEngine, folder: Path) -> list[list[Activation[Any]]]:
    """Mixes of adapters: ranks 4 to 128, each of other layers, at several strengths, several at once."""
    targets = files.linears(engine._pipeline, denoiser_name(engine._pipeline.components))
    ingested = []
    for number, rank in enumerate((4, 16, 64, 128)):
        some = targets[number::4]
        layers = files.random_layers(
            engine._pipeline, some, rank=lambda _, rank=rank: rank, size=rank**-0.5 / 2, seed=number
        )
        ingested.append(engine.ingest(files.write(folder / f"{rank}.safetensors", files.peft(layers))))
    alone = [
        [activation(adapter, strength)] for adapter, strength in zip(ingested, (1, 0.5, -1, 2), strict=True)
    ]
    return [*alone, [activation(each, 0.3) for each in ingested], [activation(ingested[0], 0.1)], []]


def test_swaps_recompile_nothing_and_the_pictures_are_those_of_the_plain_base(
    engines: tuple[DiffusersEngine, DiffusersEngine, Counting], tmp_path: Path
) -> None:
    plain, compiled, backend = engines
    bare = pixels(compiled)
    graphs = backend.graphs
    assert graphs, "the point is a compiled base"
    assert np.abs(bare - pixels(plain)).max() <= TOLERANCE
    with torch._dynamo.config.patch(error_on_recompile=True):
        for mix in adapters(compiled, tmp_path):
            plain.activate(mix)
            compiled.activate(mix)
            before = backend.runs
            drawn = pixels(compiled)
            assert backend.runs - before >= 2, "a graph for each step, at least"
            assert np.abs(drawn - pixels(plain)).max() <= TOLERANCE
            assert not mix or np.abs(drawn - bare).max() > 2 * TOLERANCE
    assert backend.graphs == graphs
    assert (drawn == bare).all()
    compiled.verify()


def test_a_change_that_does_recompile_would_be_seen(
    engines: tuple[DiffusersEngine, DiffusersEngine, Counting],
) -> None:
    _, compiled, _ = engines
    pixels(compiled)
    with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(RecompileError):
        pixels(compiled, side=96)
