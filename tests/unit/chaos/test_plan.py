"""A seed stands for one plan, and the plan is worth a run."""

from itertools import islice

from tests.chaos.plan import Kind, Mischief, calls, faults


def test_a_seed_always_stands_for_the_same_calls_and_faults():
    assert list(calls(3, 50, 2)) == list(calls(3, 50, 2))
    assert list(calls(3, 50, 2)) != list(calls(4, 50, 2))
    assert list(islice(faults(3), 50)) == list(islice(faults(3), 50))
    assert list(islice(faults(3), 50)) != list(islice(faults(4), 50))


def test_no_two_calls_have_a_prompt_or_a_seed_in_common():
    planned = list(calls(1, 2000, 2))
    assert len({call.prompt for call in planned}) == len({call.seed for call in planned}) == 2000


def test_every_kind_of_client_is_there_and_adapters_are_not_equally_wanted():
    planned = list(calls(1, 2000, 2))
    assert {call.kind for call in planned} == set(Kind)
    wanted = [number for call in planned for number, _ in call.adapters]
    assert wanted.count(0) > 3 * wanted.count(30) > 0


def test_also_a_short_run_sees_every_kind_of_mischief():
    kinds = len(Mischief)
    assert {fault.kind for fault in islice(faults(1), kinds)} == set(Mischief)
