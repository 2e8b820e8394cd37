"""The swap on CUDA: bit-exact restore, and the weights of an independent merge."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shared.refs import AdapterRef, RepoId, Revision
from tests import adapter_files as files
from tests.adapter_kinds import Maker, spelled
from tests.builders import some_params
from tests.tiny_bases import tiny_xl
from worker.engine.adapter import CanonicalAdapter, Delta
from worker.engine.contract import Activation
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import describe
from worker.engine.matrices import Product
from worker.engine.snapshot import Snapshot
from worker.engine.weights import BaseWeights

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


def activations(
    engine: DiffusersEngine, folder: Path, shares: Iterable[list[tuple[str, str]]]
) -> list[Activation[CanonicalAdapter]]:
    """An adapter of each share of the layers, with ranks of its own."""
    made = []
    for seed, share in enumerate(shares):
        layers = files.random_layers(
            engine._pipeline, share, rank=lambda n, seed=seed: 2 + seed + n % 3, seed=seed
        )
        path = files.write(folder / f"{seed}.safetensors", files.peft(layers))
        ref = AdapterRef(repo=RepoId("tests/a"), revision=Revision(COMMIT), weight_name=path.name)
        made.append(Activation(ref=ref, adapter=engine.ingest(path)))
    return made


def weights_of(engine: DiffusersEngine) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in engine._targets.weights.items()}


def test_from_nothing_to_an_adapter_is_the_same_as_from_another_one(
    engine: DiffusersEngine, tmp_path: Path
) -> None:
    targets = files.linears(engine._pipeline, "unet") + files.convolutions(engine._pipeline)
    first, second = activations(engine, tmp_path, (targets[:-20], targets[20:]))
    engine.activate([second])
    from_nothing = weights_of(engine)
    engine.activate([first])
    between = weights_of(engine)
    engine.activate([second])
    assert any(not torch.equal(weight, from_nothing[name]) for name, weight in between.items())
    assert all(torch.equal(weight, from_nothing[name]) for name, weight in weights_of(engine).items())
    engine.verify()


@pytest.mark.filterwarnings("ignore")  # diffusers speaks of its own future; the CPU's tests listen to it
def test_a_picture_of_the_bare_base_is_the_same_after_one_with_an_adapter(
    engine: DiffusersEngine, tmp_path: Path
) -> None:
    def drawn() -> bytes:
        return engine.generate(some_params(steps=2), lambda _done, _total: None).image.tobytes()

    (adapter,) = activations(engine, tmp_path, [files.linears(engine._pipeline, "unet")])
    bare = drawn()
    engine.activate([adapter])
    changed = drawn()
    engine.activate([])
    assert drawn() == bare != changed
    engine.activate([adapter])
    assert drawn() == changed


COUNTS = {(640, 320): 7, (320, 640): 3, (48, 32): 1}
"""Weights of each shape; of the first a batch holds three, so that the third batch is not full."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("kept_on_device", [True, False])
def test_weights_come_in_several_batches_the_last_of_which_is_not_full(
    dtype: torch.dtype,
    on_device: bool,
    kept_on_device: bool,
) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    base = {
        f"{rows}x{columns}.{number}": torch.randn(rows, columns, device=device).to(dtype)
        for (rows, columns), count in COUNTS.items()
        for number in range(count)
    }
    pristine = {name: weight.double().cpu() for name, weight in base.items()}
    weights = BaseWeights(
        base,
        batch_bytes=3 * 4 * 640 * 320,
        room=lambda _device: float("inf") if kept_on_device else 0.0,
    )
    deltas = {name: a_delta(weight.shape, device if on_device else None) for name, weight in base.items()}
    weights.keep(base)
    weights.write({name: [(delta, 0.5)] for name, delta in deltas.items()})
    for name, delta in deltas.items():
        product = delta.low_rank
        wanted = pristine[name] + 0.5 * delta.scale * product.up.double().cpu() @ product.down.double().cpu()
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(base[name].double().cpu(), wanted, rtol=rounding, atol=1e-5)
    weights.restore()
    assert weights.are_pristine(base)


def a_delta(shape: Iterable[int], device: torch.device | None) -> Delta:
    """Factors on the device, or in page-locked memory where that is None."""
    rows, columns = shape
    up, down = torch.randn(rows, 8).half() * 0.1, torch.randn(8, columns).half() * 0.1
    up, down = (each.pin_memory() if device is None else each.to(device) for each in (up, down))
    return Delta(matrix=Product(up=up, down=down), scale=0.5)
