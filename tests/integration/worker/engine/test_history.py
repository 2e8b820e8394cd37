"""However many swaps went before, and however they ended: the base is the base, bit by bit."""

import gc
import hashlib
import json
import random
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests import adapter_files as files
from tests.adapter_kinds import Maker, spelled
from tests.integration.worker.engine.conftest import activation, open_engine, params, picture
from tests.integration.worker.engine.test_kinds import (
    IN_KERNELS,
    KERNELS,
    KINDS,
    LINEAR,
    NORMS,
    made_for,
    named,
)
from tests.integration.worker.engine.test_merged_weights import everything, weights_of
from worker.engine.adapter import CanonicalAdapter
from worker.engine.contract import AdapterFault, BaseDamaged, Interrupted
from worker.engine.diffusers_engine import DiffusersEngine


class Broken(Exception):
    pass


@contextmanager
def failing_at(call: int, error: type[BaseException] = Broken, *, for_ever: bool = False) -> Iterator[None]:
    """Have a write to weights fail, the n-th from here on or all from then on, and leave rubbish behind."""
    calls = iter(range(1_000_000))
    copy, add = torch._foreach_copy_, torch.addmm

    def fails(weight: torch.Tensor) -> None:
        number = next(calls)
        if number == call or (for_ever and number > call):
            weight.fill_(torch.nan)
            raise error

    def copy_or_fail(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        fails(targets[0])
        copy(targets, sources)

    def add_or_fail(*arguments: torch.Tensor, out: torch.Tensor, **options: float) -> None:
        fails(out)
        add(*arguments, out=out, **options)

    with mock.patch("torch._foreach_copy_", copy_or_fail), mock.patch("torch.addmm", add_or_fail):
        yield


@pytest.fixture(scope="module")
def adapter_paths(opened_xl: DiffusersEngine, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four LoRAs of several ranks; a file of each other kind; learned words."""
    folder = tmp_path_factory.mktemp("adapters")
    pipeline = opened_xl._pipeline
    targets = everything(opened_xl) + files.convolutions(pipeline)
    contents = [
        files.peft(
            files.random_layers(
                pipeline,
                random.Random(seed).sample(targets, 40),  # noqa: S311
                rank=lambda n: 2 + n % 3,
                seed=seed,
                size=0.1,
            )
        )
        for seed in range(4)
    ]
    for seed, (kind, make) in enumerate(KINDS.items()):
        paths = KERNELS if kind in IN_KERNELS else LINEAR + KERNELS
        layers = made_for(opened_xl, make, [("unet", path) for path in paths], Maker(seed, size=0.15))
        contents.append(spelled({named(*target): made for target, made in layers.items()}))
    norms = made_for(opened_xl, Maker.norm, [("unet", path) for path in NORMS])
    contents.append(spelled({named(*target): made for target, made in norms.items()}))
    contents.append({"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 32)})
    return [files.write(folder / f"{number}.safetensors", content) for number, content in enumerate(contents)]


@pytest.fixture(scope="module")
def adapters(opened_xl: DiffusersEngine, adapter_paths: list[Path]) -> list[CanonicalAdapter]:
    return [opened_xl.ingest(path) for path in adapter_paths]


@pytest.fixture(scope="module")
def broken_files(opened_xl: DiffusersEngine, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("broken")
    layers = files.random_layers(opened_xl._pipeline, everything(opened_xl)[:10])
    poisoned = layers[4].up.clone()
    poisoned[3, 1] = torch.nan
    whole = files.write(folder / "whole.safetensors", files.peft(layers))
    truncated = folder / "truncated.safetensors"
    truncated.write_bytes(whole.read_bytes()[:-100])
    made = made_for(opened_xl, KINDS["LoHa"], [("unet", path) for path in KERNELS])
    loha = spelled({named(*target): layer for target, layer in made.items()})
    key = next(key for key in loha if key.endswith("hada_w2_b"))
    return [
        files.write(folder / "infinite.safetensors", loha | {key: loha[key] / 0}),
        files.write(folder / "half.safetensors", {k: t for k, t in loha.items() if k != key}),
        files.write(folder / "nan.safetensors", files.peft(files.with_factor(layers, 4, up=poisoned))),
        truncated,
        files.write(
            folder / "shape.safetensors",
            files.peft(files.with_factor(layers, 4, up=torch.zeros(7, layers[4].rank))),
        ),
        files.write(
            folder / "keys.safetensors",
            {key.replace("down_blocks", "south_blocks"): t for key, t in files.peft(layers).items()},
        ),
    ]


Wanted = list[tuple[int, float]]

IN_A_FRESH_PROCESS = """
import hashlib, json, sys
from pathlib import Path
from tests.integration.worker.engine.conftest import activation, open_engine, picture
folder, paths, mixes = json.loads(sys.argv[1])
engine = open_engine(Path(folder))
adapters = {number: engine.ingest(Path(paths[number])) for number in reversed(range(len(paths)))}
for wanted in mixes:
    engine.activate([activation(adapters[number], strength, str(number)) for number, strength in wanted])
    print(hashlib.sha256(picture(engine, prompt="a <s0> circle")).hexdigest())
    engine.activate([])
"""


def drawn_in_a_fresh_process(folder: Path, paths: list[Path], mixes: list[Wanted]) -> list[str]:
    argument = json.dumps([str(folder), [str(path) for path in paths], mixes])
    output = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, argument], check=True, capture_output=True, text=True
    ).stdout
    return output.split()


def some(chance: random.Random, count: int) -> Wanted:
    numbers = chance.sample(range(count), chance.randint(0, 3))
    return [(number, chance.choice([0.5, 1.0, -0.7])) for number in numbers]


def test_a_thousand_swaps_some_broken_leave_the_base_and_every_picture_as_in_a_fresh_process(
    xl: DiffusersEngine,
    xl_folder: Path,
    adapter_paths: list[Path],
    adapters: list[CanonicalAdapter],
    broken_files: list[Path],
) -> None:
    chance = random.Random(11)  # noqa: S311
    base = weights_of(xl)
    bare = picture(xl)
    last: Wanted = []
    drawn: list[tuple[Wanted, str]] = []
    for number in range(1000):
        wanted = some(chance, len(adapters))
        activations = [activation(adapters[each], strength, str(each)) for each, strength in wanted]
        match chance.randint(0, 9):
            case 0 | 1:
                with pytest.raises(AdapterFault):
                    xl.ingest(chance.choice(broken_files))
            case 2 | 3:
                error = chance.choice([Broken, KeyboardInterrupt, MemoryError])
                with failing_at(chance.randint(0, 60), error):
                    try:
                        xl.activate(activations)
                    except error:
                        wanted = []
                last = wanted
            case 4 if number % 10 == 0:
                with pytest.raises(Interrupted):
                    xl.generate(params(prompt="<s1>"), _stop)
            case _:
                xl.activate(activations)
                last = wanted
        if number % 125 == 0:
            picked = hashlib.sha256(picture(xl, prompt="a <s0> circle")).hexdigest()
            drawn.append((last, picked))
    mixes = [wanted for wanted, _ in drawn]
    assert len({digest for _, digest in drawn}) > 4
    assert drawn_in_a_fresh_process(xl_folder, adapter_paths, mixes) == [digest for _, digest in drawn]
    xl.activate([])
    assert picture(xl) == bare
    assert all(torch.equal(weight, base[name]) for name, weight in weights_of(xl).items())


def _stop(done: int, total: int) -> None:
    raise Interrupted


@pytest.mark.parametrize("call", [0, 3, 100])
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_a_swap_that_fails_anywhere_leaves_the_bare_base(
    xl: DiffusersEngine, adapters: list[CanonicalAdapter], call: int, error: type[BaseException]
) -> None:
    base = weights_of(xl)
    xl.activate([activation(adapters[0])])
    with failing_at(call, error), pytest.raises(error):
        xl.activate([activation(each) for each in adapters])
    assert all(torch.equal(weight, base[name]) for name, weight in weights_of(xl).items())
    assert xl.activate([]).restored == 0, "nothing is active any more"


def test_a_failure_that_cannot_be_undone_ends_the_engine(
    xl_folder: Path, adapters: list[CanonicalAdapter]
) -> None:
    engine = open_engine(xl_folder)
    with failing_at(0, for_ever=True), pytest.raises(BaseDamaged):
        engine.activate([activation(adapters[0])])
    for use in (lambda: engine.activate([]), lambda: picture(engine), engine.verify):
        with pytest.raises(BaseDamaged):
            use()


@pytest.mark.parametrize("part", ["unet.conv_in.bias", "vae.decoder.conv_out.weight"])
def test_a_single_flipped_bit_anywhere_is_found(xl_folder: Path, part: str) -> None:
    engine = open_engine(xl_folder)
    component, _, name = part.partition(".")
    weight = dict(engine._pipeline.components[component].named_parameters())[name]
    engine.verify()
    weight.data.view(torch.int32).view(-1)[0] ^= 1
    with pytest.raises(BaseDamaged):
        engine.verify()
    with pytest.raises(BaseDamaged):
        picture(engine)


def test_a_strength_that_is_no_number_is_refused_before_a_weight_is_written(
    xl: DiffusersEngine, adapters: list[CanonicalAdapter]
) -> None:
    for strength in (float("nan"), float("inf")):
        with pytest.raises(AdapterFault, match="strength"):
            xl.activate([activation(adapters[0], strength)])


def test_a_strength_beyond_the_number_format_is_refused(
    xl_folder: Path, adapters: list[CanonicalAdapter]
) -> None:
    engine = open_engine(xl_folder, torch.float16)
    with pytest.raises(AdapterFault, match="lower the strength"):
        engine.activate([activation(adapters[0], 1e6)])
    engine.verify()


def test_an_adapter_of_another_base_is_refused(sd: DiffusersEngine, adapters: list[CanonicalAdapter]) -> None:
    with pytest.raises(AdapterFault, match="another base"):
        sd.activate([activation(adapters[0])])


def test_damage_to_a_weight_that_is_copied_back_is_found_on_the_way_to_the_bare_base(
    xl_folder: Path, adapters: list[CanonicalAdapter]
) -> None:
    engine = open_engine(xl_folder)
    engine.activate([activation(adapters[0])])
    pristine = engine._swap._weights._merged._pristine
    next(iter(pristine.values())).view(-1)[0] += 1
    with pytest.raises(BaseDamaged, match="copied back"):
        engine.activate([])
    with pytest.raises(BaseDamaged):
        picture(engine)


def test_where_a_gpu_has_no_room_pristine_copies_go_to_the_host(
    xl_folder: Path, adapters: list[CanonicalAdapter]
) -> None:
    engine, usual = open_engine(xl_folder), open_engine(xl_folder)
    usual.activate([activation(adapters[0])])
    clone = torch.Tensor.clone
    with (
        mock.patch.object(torch.Tensor, "clone", side_effect=torch.cuda.OutOfMemoryError),
        mock.patch.object(torch.Tensor, "pin_memory", clone),
    ):
        engine._swap._weights.keep(adapters[0].changes)
    engine.activate([activation(adapters[0])])
    assert all(torch.equal(weight, weights_of(usual)[name]) for name, weight in weights_of(engine).items())
    engine.activate([])
    engine.verify()


def test_of_an_adapter_in_the_weights_nothing_is_kept_that_takes_memory(
    xl: DiffusersEngine, tmp_path: Path
) -> None:
    layers = files.random_layers(xl._pipeline, files.linears(xl._pipeline, "unet"), rank=lambda _: 4)
    adapter = xl.ingest(files.write(tmp_path / "a.safetensors", files.peft(layers)))
    tensors = [weakref.ref(tensor) for tensor in adapter.tensors]
    xl.activate([activation(adapter)])
    with_it = picture(xl)
    del adapter
    gc.collect()
    assert not any(tensor() for tensor in tensors)
    assert picture(xl) == with_it

    report = xl.activate([])
    assert report.restored > 0
    assert picture(xl) != with_it
