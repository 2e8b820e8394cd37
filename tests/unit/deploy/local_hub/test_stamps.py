import os

import pytest

from deploy.local_hub.stamps import CLOCK_TICK_NS, Stamp, WatchedFile

LONG_AFTER = 2**62


@pytest.fixture
def parsed():
    """Every text that was parsed."""
    return []


@pytest.fixture
def watch(tmp_path, parsed):
    def parse(text):
        parsed.append(text)
        return text.upper()

    return lambda now_ns: WatchedFile(tmp_path / "settings", parse, lambda: now_ns)


def test_a_file_is_parsed_once_while_it_stays_the_same(tmp_path, watch, parsed):
    (tmp_path / "settings").write_text("one")
    watched = watch(LONG_AFTER)

    assert [watched.read(), watched.read()] == ["ONE", "ONE"]
    assert parsed == ["one"]


def test_a_changed_file_is_parsed_again(tmp_path, watch):
    (tmp_path / "settings").write_text("one")
    watched = watch(LONG_AFTER)
    watched.read()
    (tmp_path / "settings").write_text("three")

    assert watched.read() == "THREE"


def test_a_file_written_this_moment_is_not_trusted_to_show_the_next_change(tmp_path, watch, parsed):
    file = tmp_path / "settings"
    file.write_text("one")
    watched = watch(file.stat().st_ctime_ns)

    assert [watched.read(), watched.read()] == ["ONE", "ONE"]
    assert parsed == ["one", "one"]


def test_a_missing_file_reads_as_empty(tmp_path, watch):
    watched = watch(LONG_AFTER)
    assert watched.read() == ""
    (tmp_path / "settings").write_text("one")
    assert watched.read() == "ONE"
    (tmp_path / "settings").unlink()
    assert watched.read() == ""


def test_a_stamp_settles_after_a_tick_of_the_clock():
    stamp = Stamp(inode=1, size=1, modified_ns=5, changed_ns=10)

    assert not stamp.is_settled(10 + CLOCK_TICK_NS)
    assert stamp.is_settled(11 + CLOCK_TICK_NS)


def test_another_file_in_the_same_place_has_another_stamp(tmp_path):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("same")
    other.write_text("size")
    before = Stamp.of(file.stat())
    os.utime(other, ns=(before.modified_ns, before.modified_ns))
    other.replace(file)

    assert Stamp.of(file.stat()) != before
