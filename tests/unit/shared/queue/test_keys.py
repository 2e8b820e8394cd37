import fnmatch
import re

from hypothesis import given
from hypothesis import strategies as st

from shared.queue.keys import DONE_PATTERN, POOLS, BaseKeys
from shared.refs import base_tag

KEYS = BaseKeys(base_tag("warmbase/shapes-xl"))
ALL = [*KEYS.of_queue(), KEYS.job("id"), KEYS.worker("id"), KEYS.blob("name")]


@given(st.text(st.characters(codec="utf-8")))
def test_a_tag_is_sixteen_hexadecimal_digits_of_any_text(base):
    assert re.fullmatch(r"[0-9a-f]{16}", base_tag(base))


def test_different_bases_have_different_tags():
    assert base_tag("a/b") != base_tag("a/c")


def test_all_keys_of_a_base_hash_to_one_slot():
    assert {re.search(r"\{(.*?)\}", key)[1] for key in ALL} == {base_tag("warmbase/shapes-xl")}


def test_no_two_keys_are_one():
    assert len({*ALL, POOLS}) == len(ALL) + 1


def test_the_pattern_hears_the_end_of_jobs_of_every_base():
    assert fnmatch.fnmatchcase(KEYS.done, DONE_PATTERN)
    assert not fnmatch.fnmatchcase(KEYS.control, DONE_PATTERN)
