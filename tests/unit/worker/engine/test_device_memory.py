"""Room on a device, from what CUDA and PyTorch say about it."""

from unittest import mock

import torch

from worker.engine.device_memory import SPARE_BYTES, page_locked, room_on


def test_what_pytorch_holds_unused_is_room_and_what_a_drawing_needs_is_not() -> None:
    with (
        mock.patch("torch.cuda.mem_get_info", return_value=(SPARE_BYTES, 10 * SPARE_BYTES)),
        mock.patch("torch.cuda.memory_reserved", return_value=700),
        mock.patch("torch.cuda.memory_allocated", return_value=500),
    ):
        assert room_on(torch.device("cuda")) == 200


def test_what_cannot_be_page_locked_stays_as_it_is() -> None:
    tensor = torch.ones(3)
    with mock.patch.object(torch.Tensor, "pin_memory", side_effect=RuntimeError("cudaHostAlloc")):
        assert page_locked(tensor) is tensor
