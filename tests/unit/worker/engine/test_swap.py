"""What a swap makes of strengths, on a base of two layers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.builders import an_adapter as a_ref
from worker.engine.adapter import CanonicalAdapter, Delta
from worker.engine.contract import Activation
from worker.engine.matrices import Product
from worker.engine.swap import Swap
from worker.engine.targets import Targets, find_targets
from worker.engine.unmerged import AdaptableWeights


@pytest.fixture
def targets() -> Targets:
    layers = {"down": nn.Linear(3, 3, bias=False), "up": nn.Linear(3, 3, bias=False)}
    return find_targets({"unet": nn.ModuleDict(layers)})


@pytest.fixture
def swap(targets: Targets) -> Swap:
    return Swap(AdaptableWeights(targets))


def wanted(*, magnitude: torch.Tensor | None = None, **ref: object) -> Activation[CanonicalAdapter]:
    """An adapter of both layers, a DoRA where it has a magnitude."""
    matrix = Product(up=torch.ones(3, 2), down=torch.ones(2, 3))
    delta = Delta(matrix=matrix, scale=1.0, magnitude=magnitude)
    adapter = CanonicalAdapter(
        digest="d", nbytes=0, changes={"unet.down": (delta,), "unet.up": (delta,)}, reach=2.0
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
