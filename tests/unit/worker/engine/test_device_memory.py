"""Room on a device, from what CUDA and PyTorch say about it."""

from unittest import mock

import pytest
import torch

from worker.engine.device_memory import SPARE_BYTES, drawing_on, page_locked, room_on


def test_what_pytorch_holds_unused_is_room_and_what_a_drawing_needs_is_not() -> None:
    with (
        mock.patch("torch.cuda.mem_get_info", return_value=(SPARE_BYTES, 10 * SPARE_BYTES)),
        mock.patch("torch.cuda.memory_reserved", return_value=700),
        mock.patch("torch.cuda.memory_allocated", return_value=500),
    ):
        assert room_on(torch.device("cuda")) == 200


def test_as_much_is_left_as_the_largest_drawing_took() -> None:
    device = torch.device("cuda", 7)
    with (
        mock.patch("torch.cuda.mem_get_info", return_value=(10 * SPARE_BYTES, 10 * SPARE_BYTES)),
        mock.patch("torch.cuda.memory_reserved", return_value=500),
        mock.patch("torch.cuda.memory_allocated", return_value=500) as allocated,
        mock.patch("torch.cuda.reset_peak_memory_stats"),
        mock.patch("torch.cuda.max_memory_allocated") as most,
    ):
        for most.return_value, left in ((600, 1), (500 + 3 * SPARE_BYTES, 3), (500 + 2 * SPARE_BYTES, 3)):
            with drawing_on(device):
                pass
            assert room_on(device) == (10 - left) * SPARE_BYTES
        most.return_value = 500 + 9 * SPARE_BYTES
        with pytest.raises(torch.OutOfMemoryError), drawing_on(device):
            raise torch.OutOfMemoryError
        assert room_on(device) == 7 * SPARE_BYTES
        allocated.side_effect = [500, 500 + 7 * SPARE_BYTES]  # adapters that were raised beside it
        with drawing_on(device):
            pass
        allocated.side_effect = None
        assert room_on(device) == 7 * SPARE_BYTES


def test_what_cannot_be_page_locked_stays_as_it_is() -> None:
    tensor = torch.ones(3)
    with mock.patch.object(torch.Tensor, "pin_memory", side_effect=RuntimeError("cudaHostAlloc")):
        assert page_locked(tensor) is tensor
