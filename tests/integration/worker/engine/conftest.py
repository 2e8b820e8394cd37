"""Engines over small random bases, and a plain diffusers pipeline of the same weights to compare with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from shared.jobs import GenerationParams
from shared.refs import AdapterRef, RepoId, Revision
from tests.tiny_bases import tiny_sd, tiny_xl
from tests.tiny_families import build
from worker.engine.adapter import CanonicalAdapter
from worker.engine.contract import Activation
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import open_base
from worker.engine.snapshot import Snapshot

COMMIT = "0" * 40


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let pass what diffusers' schedulers do to numpy, here only."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"))


def open_engine(
    folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> DiffusersEngine:
    snapshot = Snapshot(folder=folder, revision=COMMIT, variant=variant)
    return open_base(RepoId("tests/tiny"), snapshot, device=torch.device("cpu"), dtype=dtype)


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xl")
    tiny_xl().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    tiny_sd().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def opened_xl(xl_folder: Path) -> DiffusersEngine:
    return open_engine(xl_folder)


@pytest.fixture(scope="session")
def opened_sd(sd_folder: Path) -> DiffusersEngine:
    return open_engine(sd_folder)


@pytest.fixture
def xl(opened_xl: DiffusersEngine) -> Iterator[DiffusersEngine]:
    """The SDXL engine; whatever a test does to it, the base has to come out of it bit by bit."""
    yield opened_xl
    opened_xl.verify()


@pytest.fixture
def sd(opened_sd: DiffusersEngine) -> Iterator[DiffusersEngine]:
    yield opened_sd
    opened_sd.verify()


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    build("FluxPipeline").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def opened_flux(flux_folder: Path) -> DiffusersEngine:
    return open_engine(flux_folder)


@pytest.fixture
def flux(opened_flux: DiffusersEngine) -> Iterator[DiffusersEngine]:
    yield opened_flux
    opened_flux.verify()


@pytest.fixture
def reference(xl_folder: Path) -> StableDiffusionXLPipeline:
    """Plain diffusers on the same weights."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def activation(
    adapter: CanonicalAdapter, strength: float = 1.0, weight_name: str = "adapter.safetensors"
) -> Activation[CanonicalAdapter]:
    ref = AdapterRef(
        repo=RepoId("tests/adapter"),
        revision=Revision(COMMIT),
        weight_name=weight_name,
        scale=strength,
    )
    return Activation(ref=ref, adapter=adapter)


def params(**changes: object) -> GenerationParams:
    return GenerationParams(**{"prompt": "a red circle", "seed": 7, "steps": 2} | changes)


def picture(engine: DiffusersEngine, **changes: object) -> bytes:
    return engine.generate(params(**changes), lambda *_: None).image.tobytes()


def assert_equal(one: CanonicalAdapter, other: CanonicalAdapter) -> None:
    """Both are the same in every bit, and written alike."""
    assert list(one.changes) == list(other.changes)
    for name, deltas in one.changes.items():
        for left, right in zip(deltas, other.changes[name], strict=True):
            assert (type(left.matrix), left.scale) == (type(right.matrix), right.scale)
            assert left.matrix.shape == right.matrix.shape
            assert (left.magnitude is None) == (right.magnitude is None)
    for (name, left), (other_name, right) in zip(one.named_tensors, other.named_tensors, strict=True):
        assert (name, left.dtype, left.stride()) == (other_name, right.dtype, right.stride())
        assert torch.equal(left, right)
    assert [word.token for word in one.words] == [word.token for word in other.words]
    assert (one.digest.result(), one.nbytes) == (other.digest.result(), other.nbytes)
    assert (one.reach, one.fixed_reach, one.warnings) == (other.reach, other.fixed_reach, other.warnings)
