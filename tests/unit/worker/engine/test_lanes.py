"""Threads that share out a CPU's weights."""

from collections.abc import Sequence
from threading import Barrier, current_thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.lanes import Lanes, spread


@given(st.lists(st.integers(0, 1000)), st.integers(1, 9))
def test_every_item_is_dealt_to_one_share_and_no_share_is_empty(items: list[int], count: int) -> None:
    shares = spread(items, float, count)
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert all(shares)
    assert len(shares) == min(count, len(items))


@given(st.lists(st.integers(0, 1000)), st.integers(1, 9))
def test_no_share_costs_more_than_another_by_more_than_the_most_expensive_item(
    items: list[int], count: int
) -> None:
    sums = [sum(share) for share in spread(items, float, count)]
    sums += [0] * (count - len(sums))
    assert max(sums) - min(sums) <= max(items, default=0)


def test_shares_are_worked_on_at_the_same_time() -> None:
    together = Barrier(3)

    def work(share: Sequence[int]) -> int:
        together.wait(timeout=30)
        return sum(share)

    assert sorted(Lanes(3).run(work, [1, 2, 3], float)) == [1, 2, 3]


def test_one_lane_is_the_callers_own_thread() -> None:
    assert Lanes(1).run(lambda _: current_thread(), [1, 2], float) == [current_thread()]


def test_in_a_lane_pytorch_uses_one_thread_and_everywhere_else_as_many_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        lanes = Lanes(2)
        assert lanes.run(lambda _: torch.get_num_threads(), [1, 2], float) == [1, 1]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_a_failure_comes_back_when_all_other_shares_have_ended() -> None:
    done = []
    failed = Barrier(2)

    def work(share: Sequence[str]) -> None:
        failed.wait(timeout=30)
        if "bad" in share:
            raise ValueError("of one share")
        done.extend(share)

    with pytest.raises(ValueError, match="of one share"):
        Lanes(2).run(work, ["bad", "good"], len)
    assert done == ["good"]


def test_nothing_to_do_is_no_work() -> None:
    assert Lanes(2).run(lambda share: share, [], float) == []
