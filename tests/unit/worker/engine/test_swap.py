"""What a swap makes of strengths, on a base of two layers."""

from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import nn

from tests.builders import an_adapter as a_ref
from tests.builders import known
from worker.engine.adapter import CanonicalAdapter, Delta, Word
from worker.engine.contract import Activation, AdapterFault, SwapReport
from worker.engine.matrices import Product
from worker.engine.readings import Reading
from worker.engine.swap import Swap
from worker.engine.targets import Targets, find_targets
from worker.engine.unmerged import AdaptableWeights


def targets_of(dtype: torch.dtype) -> Targets:
    layers = {name: nn.Linear(3, 3, bias=False, dtype=dtype) for name in ("down", "up")}
    return find_targets({"unet": nn.ModuleDict(layers)})


@pytest.fixture
def targets() -> Targets:
    return targets_of(torch.float32)


@pytest.fixture
def swap(targets: Targets) -> Swap:
    return Swap(AdaptableWeights(targets))


def wanted(
    *, magnitude: torch.Tensor | None = None, number: int = 1, size: float = 1.0, **ref: object
) -> Activation[CanonicalAdapter]:
    """An adapter of both layers, a DoRA where it has a magnitude."""
    matrix = Product(up=torch.full((3, 2), size), down=torch.ones(2, 3))
    delta = Delta(matrix=matrix, scale=1.0, magnitude=magnitude)
    adapter = CanonicalAdapter(
        reading=Reading(number=number, nbytes=0, digest=known()),
        nbytes=0,
        changes={"unet.down": (delta,), "unet.up": (delta,)},
        reach=2.0 * size,
        fixed_reach=0.0 if magnitude is None else float(magnitude.max()),
    )
    return Activation(ref=replace(a_ref(), **ref), adapter=adapter)


@pytest.mark.parametrize("magnitude", [None, torch.full((3, 1), 5.0)])
def test_a_part_of_the_base_at_strength_0_is_pristine_whatever_was_there_before(
    swap: Swap, targets: Targets, magnitude: torch.Tensor | None
) -> None:
    base = {name: weight.clone() for name, weight in targets.weights.items()}
    swap.activate([wanted(magnitude=magnitude)])
    assert not torch.equal(targets.weights["unet.up"], base["unet.up"])

    swap.activate([wanted(magnitude=magnitude, blocks=(("unet.up", 0.0),))])

    assert torch.equal(targets.weights["unet.up"], base["unet.up"])
    assert not torch.equal(targets.weights["unet.down"], base["unet.down"])


def test_a_check_that_fails_for_want_of_memory_leaves_the_base_bare_and_sound(
    swap: Swap, targets: Targets
) -> None:
    base = {name: weight.clone() for name, weight in targets.weights.items()}
    swap.activate([wanted()])
    no_memory = mock.patch.object(AdaptableWeights, "are_pristine", side_effect=torch.OutOfMemoryError)
    with no_memory, pytest.raises(torch.OutOfMemoryError):
        swap.activate([])
    assert swap.active == ()
    assert all(torch.equal(weight, base[name]) for name, weight in targets.weights.items())
    assert swap.activate([wanted()]) == SwapReport(written=2, restored=0)


def test_words_are_known_from_the_first_step_on_though_their_adapter_counts_only_later(swap: Swap) -> None:
    word = Word(token="mine", vectors={"clip_l": torch.ones(1, 4)})
    each = wanted(schedule=((0.0, 0.0), (0.5, 1.0)))
    each = replace(each, adapter=replace(each.adapter, words=(word,)))
    swap.activate([each])
    assert not swap.active
    assert [known.token for known in swap.words] == ["mine"]
    swap.follow(0.5)
    assert [known.token for known in swap.words] == ["mine"]

    swap.activate([replace(each, ref=replace(each.ref, scale=0.0))])
    assert not swap.words


def test_what_is_wanted_is_checked_once_and_not_at_each_step(swap: Swap) -> None:
    each = wanted(schedule=((0.5, 0.5),), blocks=(("unet.up", 0.5),))
    with mock.patch("worker.engine.swap.unknown_path", return_value=None) as check:
        swap.activate([each])
        for progress in (0.25, 0.5, 0.75):
            swap.follow(progress)
    check.assert_called_once()


def test_nothing_is_written_while_the_strength_stays_the_same(swap: Swap) -> None:
    each = wanted(schedule=((0.5, 0.5),))
    swap.activate([each])
    assert swap.follow(0.25) == SwapReport(written=0, restored=0)
    assert swap.follow(0.5) == SwapReport(written=2, restored=0)
    assert swap.follow(0.75) == SwapReport(written=0, restored=0)
    assert swap.activate([each]) == SwapReport(written=2, restored=0)


def test_what_a_weight_becomes_does_not_depend_on_which_file_was_read_first(
    swap: Swap, targets: Targets
) -> None:
    """Sums of floats depend on their order, and each process reads files in another one."""
    sizes = {"a": 0.1, "b": 1e7, "c": -1e7}
    sums = []
    for names in ("abc", "bca", "cab"):
        swap.activate([wanted(number=n, size=sizes[name], weight_name=name) for n, name in enumerate(names)])
        sums.append(targets.weights["unet.up"].clone())
        swap.activate([])
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_a_file_that_is_another_one_by_now_is_another_adapter_under_the_same_name(
    swap: Swap, targets: Targets
) -> None:
    swap.activate([wanted(number=1)])
    before = targets.weights["unet.up"].clone()
    assert swap.activate([wanted(number=1)]) == SwapReport(written=0, restored=0)
    assert swap.activate([wanted(number=2, size=2.0)]) == SwapReport(written=2, restored=0)
    assert not torch.equal(targets.weights["unet.up"], before)


BEYOND_FP16 = {
    "two adapters that alone would fit": [
        wanted(number=1, size=1e4, weight_name="a"),
        wanted(number=2, size=1e4, weight_name="b"),
    ],
    "a magnitude": [wanted(magnitude=torch.full((3, 1), 1e5))],
    "the beginning of a schedule": [wanted(size=1e4, scale=4.0, schedule=((0.5, 0.25),))],
}


@pytest.mark.parametrize("name", BEYOND_FP16)
def test_what_could_leave_the_bases_number_format_is_refused_before_a_weight_is_written(name: str) -> None:
    """A base of wider numbers takes it."""
    targets = targets_of(torch.float16)
    base = {name: weight.clone() for name, weight in targets.weights.items()}
    with pytest.raises(AdapterFault, match="exceed the base's number format"):
        Swap(AdaptableWeights(targets)).activate(BEYOND_FP16[name])
    assert all(torch.equal(weight, base[name]) for name, weight in targets.weights.items())

    wider = Swap(AdaptableWeights(targets_of(torch.bfloat16)))
    assert wider.activate(BEYOND_FP16[name]) == SwapReport(written=2, restored=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_numbers_whose_squares_float32_cannot_hold_are_refused_though_the_weights_could(
    dtype: torch.dtype,
) -> None:
    """A DoRA's norm would be infinite, and its weight zero."""
    swap = Swap(AdaptableWeights(targets_of(dtype)))
    with pytest.raises(AdapterFault, match="exceed the base's number format"):
        swap.activate([wanted(magnitude=torch.ones(3, 1), size=1e20)])


def with_words(
    each: Activation[CanonicalAdapter], reading: Reading, *tokens: str, rows: int = 1
) -> Activation[CanonicalAdapter]:
    words = tuple(Word(token=token, vectors={"clip_l": torch.ones(rows, 4)}) for token in tokens)
    return replace(each, adapter=replace(each.adapter, words=words, reading=reading))


@pytest.mark.parametrize(("other", "may"), [("d", True), ("e", False)])
def test_a_word_may_be_in_two_files_if_they_are_the_same_and_counts_once(
    swap: Swap, other: str, may: bool
) -> None:
    wanteds = [
        with_words(wanted(weight_name=name), Reading(number=number, nbytes=0, digest=known(digest)), token)
        for number, (name, digest, token) in enumerate(
            (("a", "d", "mine"), ("b", other, "mine"), ("c", "f", "w"))
        )
    ]
    with nullcontext() if may else pytest.raises(AdapterFault, match="the learned word 'mine' is in"):
        swap.activate(wanteds)
    assert [word.token for word in swap.words] == (["mine", "w"] if may else [])


@pytest.mark.parametrize("turn", [1, -1])
def test_what_a_word_of_several_vectors_is_spelled_as_is_no_other_files_word(swap: Swap, turn: int) -> None:
    wanteds = [
        with_words(
            wanted(weight_name=token), Reading(number=rows, nbytes=0, digest=known(token)), token, rows=rows
        )
        for token, rows in (("w", 2), ("w_1", 1))
    ]
    with pytest.raises(AdapterFault, match="the learned word 'w_1' is in"):
        swap.activate(wanteds[::turn])


def test_words_do_not_wait_until_their_file_is_hashed(swap: Swap) -> None:
    reading = Reading(number=1, nbytes=0, digest=Future())
    each = with_words(wanted(), reading, "mine", "yours")
    swap.activate([each, replace(each, ref=replace(each.ref, scale=0.5))])
    assert [word.token for word in swap.words] == ["mine", "yours"]
