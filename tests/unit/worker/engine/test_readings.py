"""What tells readings of files apart."""

import hashlib
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from unittest import mock

import numpy as np
import pytest

from worker.engine import readings as readings_module
from worker.engine.readings import Readings


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_the_digest_is_that_of_all_bytes(size: int) -> None:
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    assert Readings().of(memoryview(content)).digest.result() == hashlib.sha256(content).hexdigest()


def test_each_reading_has_a_number_of_its_own_whatever_was_read() -> None:
    readings = Readings()
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda _: readings.of(memoryview(b"the same")), range(200)))
    assert len({each.number for each in read}) == 200
    assert len({each.digest.result() for each in read}) == 1


@pytest.fixture
def go_on() -> Iterator[Event]:
    """Have no file hashed before it is set."""
    go_on, sha256 = Event(), hashlib.sha256

    def when_told(content: memoryview) -> object:
        go_on.wait()
        return sha256(content)

    with mock.patch("hashlib.sha256", when_told):
        yield go_on
        go_on.set()


def test_a_reading_is_there_before_its_digest(go_on: Event) -> None:
    reading = Readings().of(memoryview(b"a file"))
    assert not reading.digest.done()
    go_on.set()
    assert reading.digest.result() == hashlib.sha256(b"a file").hexdigest()


def test_a_reading_keeps_nothing_of_a_file_that_is_hashed(go_on: Event) -> None:
    content = np.ones(1 << 10, np.uint8)
    kept = weakref.ref(content)
    readings = Readings()
    reading = readings.of(memoryview(content))
    go_on.set()
    reading.digest.result()
    readings.of(memoryview(b"another")).digest.result()  # the thread lets go of the one before
    del content
    assert kept() is None


@pytest.mark.parametrize("sizes", [(60, 60), (101,), (1, 101), (60, 40, 1)])
def test_no_more_bytes_are_kept_for_their_hash_than_there_may_be(
    go_on: Event, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    """The file of the last size is one too many, or too large alone."""
    monkeypatch.setattr(readings_module, "MOST_PENDING", 100)
    readings = Readings()
    *begun, last = (memoryview(bytes(size)) for size in sizes)
    digests = [readings.of(content).digest for content in begun]
    with ThreadPoolExecutor(1) as beside:
        one_more = beside.submit(readings.of, last)
        early = wait([one_more, *digests], timeout=0.1).done
        go_on.set()
        assert not early
        reading = one_more.result()
    assert reading.digest.done() or sizes[-1] <= 100
    assert reading.digest.result() == hashlib.sha256(last).hexdigest()


def test_what_could_not_be_begun_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings_module, "MOST_PENDING", 100)
    readings = Readings()
    with mock.patch.object(readings._threads, "submit", side_effect=RuntimeError("no thread")):
        for _ in range(3):
            with pytest.raises(RuntimeError, match="no thread"):
                readings.of(memoryview(bytes(60)))
    assert readings.of(memoryview(bytes(60))).number == 1
