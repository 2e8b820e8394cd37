"""Sums of weights' bits, whatever device each weight is on."""

from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from worker.engine import fingerprint
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


@pytest.mark.parametrize("most", [1, 64, 1 << 20], ids="{} bytes at once".format)
def test_what_a_gpu_sums_side_by_side_is_what_each_sums_alone(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(fingerprint, "BATCH_BYTES", most)
    random = torch.Generator().manual_seed(1)
    bits = [
        torch.randint(-(2**15), 2**15, (numel,), generator=random).to(dtype)
        for numel in (1, 5, 8, 0)
        for dtype in (torch.int64, torch.int16)
        for _ in range(5)
    ]
    found = torch.full((len(bits) + 1,), -1, dtype=torch.int64)
    fingerprint._sum_together(bits, [*range(3), *range(4, len(bits))], found)
    wanted = [int(each.sum(dtype=torch.int64)) for each in bits]
    assert found.tolist() == [*wanted[:3], -1, *wanted[4:], -1]
