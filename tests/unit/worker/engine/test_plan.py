"""The laws of a swap's plan."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.plan import AdapterKey, Mix, mix, plan_swap
from worker.engine.strengths import Strength

A, B, AGAIN, D = ("a", 1), ("b", 1), ("b", 2), ("d", 3)
WEIGHTS_OF = {A: ("u", "v"), B: ("v", "w"), AGAIN: ("x",), D: ("u", "v", "w", "x")}

Wanted = list[tuple[AdapterKey, Strength]]

strengths = st.builds(
    Strength, scale=st.floats(-4, 4), blocks=st.sampled_from([(), (("u", 0.5),), (("u", 0.0), ("v", 2.0))])
)
wanteds = st.lists(st.tuples(st.sampled_from(sorted(WEIGHTS_OF)), strengths), max_size=5)
mixes = wanteds.map(mix)

State = Mapping[str, Mix]


def state_of(active: Mix) -> State:
    """What each weight has to hold: its own part of the mix; pristine weights are left out."""
    parts = {
        weight: tuple(part for part in active if weight in WEIGHTS_OF[part[0]])
        for weights in WEIGHTS_OF.values()
        for weight in weights
    }
    return {weight: part for weight, part in parts.items() if part}


@given(mixes, mixes)
def test_the_plan_leads_from_what_is_active_to_what_is_wanted(active: Mix, wanted: Mix) -> None:
    plan = plan_swap(active, wanted, WEIGHTS_OF)
    state = dict(state_of(active))
    for weight in plan.restore:
        del state[weight]
    for weight in plan.write:
        state[weight] = state_of(wanted)[weight]
    assert state == state_of(wanted)


@given(mixes)
def test_nothing_is_done_when_it_is_active_already(active: Mix) -> None:
    plan = plan_swap(active, active, WEIGHTS_OF)
    assert not plan.write
    assert not plan.restore


@given(mixes, mixes)
def test_no_weight_is_touched_twice(active: Mix, wanted: Mix) -> None:
    plan = plan_swap(active, wanted, WEIGHTS_OF)
    touched = plan.write + plan.restore
    assert len(set(touched)) == len(touched)


@given(mixes, mixes, mixes)
def test_what_is_written_depends_on_what_is_wanted_alone(one: Mix, other: Mix, wanted: Mix) -> None:
    plans = [plan_swap(active, wanted, WEIGHTS_OF) for active in (one, other) if active != wanted]
    assert len({plan.write for plan in plans}) <= 1


@given(wanteds, st.randoms())
def test_the_order_of_a_request_does_not_matter(wanted: Wanted, random: st.randoms) -> None:
    shuffled = wanted.copy()
    random.shuffle(shuffled)
    assert mix(shuffled) == mix(wanted)


@given(wanteds)
def test_an_adapter_is_in_a_mix_once_for_the_same_blocks_and_with_an_effect(
    wanted: Wanted,
) -> None:
    parts = [(key, strength.blocks) for key, strength in mix(wanted)]
    assert len(set(parts)) == len(parts)
    assert all(strength.scale != 0 for _, strength in mix(wanted))


def test_the_same_adapter_twice_counts_twice() -> None:
    assert mix([(A, of(0.5)), (A, of(0.25))]) == ((A, of(0.75)),)


def test_strengths_that_cancel_out_leave_the_base() -> None:
    assert mix([(A, of(0.5)), (B, of(0.0)), (A, of(-0.5))]) == ()


def of(scale: float) -> Strength:
    return Strength(scale=scale)
