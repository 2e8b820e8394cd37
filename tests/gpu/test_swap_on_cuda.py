"""The swap on CUDA: bit-exact restore, and the weights of an independent merge."""

from pathlib import Path

import pytest
import torch

from shared.refs import AdapterRef, RepoId, Revision
from tests import adapter_files as files
from tests.adapter_kinds import Maker, spelled
from tests.tiny_bases import tiny_xl
from worker.engine.contract import Activation
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import describe
from worker.engine.snapshot import Snapshot

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

COMMIT = "0" * 40


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16])
def engine(request: pytest.FixtureRequest) -> DiffusersEngine:
    pipeline = tiny_xl().to("cuda", request.param)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    return DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))


def test_swaps_are_exact_and_leave_the_base_bit_by_bit(engine: DiffusersEngine, tmp_path: Path) -> None:
    pipeline = engine._pipeline
    targets = files.linears(pipeline, "unet") + files.convolutions(pipeline)
    base = {name: weight.clone() for name, weight in engine._targets.weights.items()}
    for seed in range(5):
        layers = files.random_layers(pipeline, targets[seed * 7 :], rank=lambda n: 2 + n % 3, seed=seed)
        adapter = engine.ingest(files.write(tmp_path / f"{seed}.safetensors", files.peft(layers)))
        ref = AdapterRef(
            repo=RepoId("tests/a"), revision=Revision(COMMIT), weight_name="a.safetensors", scale=0.5
        )
        engine.activate([Activation(ref=ref, adapter=adapter)])
        for each in layers:
            name = f"{each.component}.{each.module}"
            wanted = base[name].double().cpu() + 0.5 * each.delta()
            actual = engine._targets.weights[name]
            rounding = torch.finfo(actual.dtype).eps
            torch.testing.assert_close(actual.double().cpu(), wanted, rtol=rounding, atol=1e-6)
    engine.verify()
    assert all(torch.equal(weight, base[name]) for name, weight in engine._targets.weights.items())


MAKERS = {
    "DoRA": lambda maker, shape: maker.decomposed(maker.lora(shape), shape, per_output=True),
    "LoHa": Maker.loha,
    "LoKr": Maker.lokr_in_factors,
    "full": Maker.full,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_other_kinds_are_exact_too(engine: DiffusersEngine, tmp_path: Path, kind: str) -> None:
    pipeline = engine._pipeline
    targets = files.linears(pipeline, "unet", ".to_q", "proj_in")
    base = {name: weight.clone() for name, weight in engine._targets.weights.items()}
    made = {
        path: MAKERS[kind](Maker(n), pipeline.unet.get_submodule(path).weight.shape)
        for n, (_, path) in enumerate(targets)
    }
    tensors = {
        key: tensor
        for key, tensor in spelled({f"unet.{path}": each for path, each in made.items()}).items()
        if not key.endswith("diff_b")
    }
    adapter = engine.ingest(files.write(tmp_path / "a.safetensors", tensors))
    ref = AdapterRef(
        repo=RepoId("tests/a"), revision=Revision(COMMIT), weight_name="a.safetensors", scale=0.5
    )
    engine.activate([Activation(ref=ref, adapter=adapter)])
    for path, each in made.items():
        wanted = each.weight(base[f"unet.{path}"].double().cpu(), 0.5)
        actual = engine._targets.weights[f"unet.{path}"]
        rounding = torch.finfo(actual.dtype).eps
        torch.testing.assert_close(actual.double().cpu(), wanted, rtol=rounding, atol=2e-6)
    engine.verify()
    assert all(torch.equal(weight, base[name]) for name, weight in engine._targets.weights.items())
