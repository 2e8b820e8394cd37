from random import Random

import pytest

from tests.bench.affinity import BACKLOG, longest_wait, most_overtaken
from tests.bench.fairness import jain


def test_the_one_that_was_passed_most_is_found():
    assert most_overtaken([0, 1, 2]) == 0
    assert most_overtaken([1, 2, 0, 3]) == 2


def test_one_that_still_waits_was_passed_too():
    assert most_overtaken([1, 2, 3]) == 3


def test_counting_agrees_with_counting_by_hand():
    chance = Random(5)  # noqa: S311 - the same orders in every run
    for _ in range(50):
        order = chance.sample(range(30), 20)
        passed = [
            sum(came > each for came in (order[: order.index(each)] if each in order else order))
            for each in range(max(order) + 1)
        ]

        assert most_overtaken(order) == max(passed)


def test_in_turn_nobody_waits_longer_than_the_backlog():
    assert longest_wait(range(3 * BACKLOG)) == BACKLOG - 1


def test_one_that_is_left_behind_has_waited_all_along():
    assert longest_wait([*range(1, 3 * BACKLOG)]) == 3 * BACKLOG - 1


def test_equal_shares_are_fair_and_all_for_one_is_not():
    assert jain([2.0] * 10) == pytest.approx(1.0)
    assert jain([1.0] + [0.0] * 9) == pytest.approx(0.1)
