"""The rule by itself. That the server follows it is shown by the model test."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shared.queue.rule import TURN, Bounds, Choice, Head, choose

BOUNDS = Bounds(slack=100.0, max_overtakes=16, max_age=60.0)
HEAD = Head(score=1000, waited=0.0, overtaken=0, hot=())

scores = st.integers(0, 2000)
heads = st.builds(
    Head,
    score=st.integers(0, 1000),
    waited=st.floats(0, 120),
    overtaken=st.integers(0, 20),
    hot=st.lists(st.none() | scores, max_size=4),
)


def chosen(head, passed=0):
    choice = choose([head], passed, BOUNDS)
    assert choice is not None
    return choice.hot


def test_nothing_waits():
    assert choose([None, None], 0, BOUNDS) is None


def test_a_worker_that_holds_nothing_takes_the_head():
    assert choose([HEAD], 0, BOUNDS) == Choice(priority=0, hot=None)


def test_what_is_in_the_weights_is_taken_before_what_is_in_memory():
    assert chosen(replace(HEAD, hot=(1090, 1010))) == 0


def test_of_what_is_in_memory_the_first_in_line_is_taken():
    assert chosen(replace(HEAD, hot=(None, 1050, 1010))) == 2


def test_more_work_than_the_slack_is_not_passed():
    assert chosen(replace(HEAD, hot=(1100,))) == 0
    assert chosen(replace(HEAD, hot=(1101,))) is None


def test_a_job_is_passed_only_so_often():
    assert chosen(replace(HEAD, hot=(1010,), overtaken=15)) == 0
    assert chosen(replace(HEAD, hot=(1010,), overtaken=16)) is None


def test_what_is_only_in_memory_may_use_up_half_of_that():
    assert chosen(replace(HEAD, hot=(None, 1010), overtaken=7)) == 1
    assert chosen(replace(HEAD, hot=(None, 1010), overtaken=8)) is None


def test_a_job_that_has_waited_for_long_is_not_passed():
    assert chosen(replace(HEAD, hot=(1010,), waited=60.1)) is None


def test_a_higher_priority_comes_first():
    assert choose([None, HEAD, HEAD], 0, BOUNDS) == Choice(priority=1, hot=None)


def test_a_lower_priority_that_has_waited_for_long_gets_one_claim_in_a_few():
    late = replace(HEAD, waited=61.0)
    turns = [choose([HEAD, late], passed, BOUNDS) for passed in range(TURN)]
    assert [turn and turn.priority for turn in turns] == [0] * (TURN - 1) + [1]


@given(st.lists(st.none() | heads, max_size=3), st.integers(0, TURN))
def test_whatever_waits_the_choice_keeps_its_bounds(waiting, passed):
    choice = choose(waiting, passed, BOUNDS)
    assert (choice is None) == (not any(waiting))
    if choice is None or choice.hot is None:
        return
    head = waiting[choice.priority]
    assert head.hot[choice.hot] <= head.score + BOUNDS.slack
    assert head.overtaken < BOUNDS.max_overtakes
    assert head.waited <= BOUNDS.max_age
