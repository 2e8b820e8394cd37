"""The greatest magnitudes of tensors, against what PyTorch finds for each alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from worker.engine import peaks
from worker.engine.peaks import peaks_by, searches_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def peaks_of(tensors: list[Tensor]) -> list[float]:
    return peaks_by(searches_of(tensors), len(tensors)).tolist()


def agree(tensors: list[Tensor]) -> None:
    found = peaks_of(tensors)
    for tensor, peak in zip(tensors, found, strict=True):
        alone = tensor.double().abs().max().item() if tensor.numel() else 0.0
        assert peak == alone or (math.isnan(peak) and math.isnan(alone))


@given(
    st.sampled_from(DTYPES),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), st.booleans()), max_size=20),
    st.integers(0, 2**32),
)
def test_views_of_one_slab_have_the_peaks_that_they_have_alone(
    dtype: torch.dtype, cuts: list[tuple[int, int, bool]], seed: int
) -> None:
    """With gaps between them and without, mirrored, empty, twice, overlapping, and in any order."""
    slab = (torch.randn(200, generator=torch.Generator().manual_seed(seed)) * 100).to(dtype)
    tensors = [
        (view.mT if mirrored else view)
        for start, rows, mirrored in cuts
        for view in [slab[start * 3 : start * 3 + rows * 4].view(rows, 4)]
    ]
    agree(tensors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "value", [math.nan, -math.nan, math.inf, -math.inf, -0.0, torch.finfo(torch.float16).tiny]
)
def test_what_is_no_number_is_found_and_its_neighbours_keep_their_peaks(
    dtype: torch.dtype, value: float
) -> None:
    slab = torch.ones(12, dtype=dtype)
    slab[5] = value
    tensors = [slab[:4], slab[4:8], slab[8:], slab[5:6]]
    agree(tensors)


def test_tensors_of_several_slabs_and_dtypes_are_searched_together() -> None:
    slab = torch.randn(64)
    others = [
        torch.randn(3, 5, dtype=torch.float64),
        torch.randn(4).half(),
        torch.randn(6, 6)[:, ::2],
        torch.arange(9.0)[::2],
    ]
    agree([slab[:10], slab.view(torch.bfloat16)[40:80], *others, torch.tensor(-3.0)])


def test_more_than_is_searched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "AT_ONCE", 50)
    agree(list(torch.randn(40, 30).unbind()))


def test_of_no_tensors_there_are_no_peaks() -> None:
    assert peaks_of([]) == []
