"""Sums of weights' bits, whatever device each weight is on."""

from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from worker.engine.fingerprint import sums_of


def test_sums_are_taken_of_tensors_on_several_devices() -> None:
    stack = torch.stack

    def strict_stack(tensors: list[Tensor]) -> Tensor:
        assert len({each.device for each in tensors}) == 1, "CUDA refuses this, the fake lets it pass"
        return stack(tensors)

    with FakeTensorMode(), mock.patch("torch.stack", strict_stack):
        tensors = [torch.empty(4, device=device) for device in ("cuda", "cpu", "cuda")]
        sums = sums_of(tensors)
    assert (sums.shape, sums.device.type) == ((3,), "cpu")


def test_sums_come_in_the_order_of_the_tensors() -> None:
    tensors = [torch.full((2,), number, dtype=torch.int64) for number in (3, 1, 2)]
    assert sums_of(tensors).tolist() == [6, 2, 4]


def test_no_tensors_have_no_sums() -> None:
    assert sums_of([]).tolist() == []
