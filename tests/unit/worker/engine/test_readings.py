"""What tells readings of files apart."""

import hashlib
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from unittest import mock

import pytest

from worker.engine.readings import HASHED_AT_ONCE, Readings


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


def test_a_reading_is_there_before_its_digest_unless_many_are_hashed() -> None:
    """What is hashed stays in memory, so a file more waits until one of them is done."""
    readings, go_on = Readings(), Event()

    def hashed(_content: memoryview) -> mock.Mock:
        go_on.wait()
        return mock.Mock()

    with mock.patch("hashlib.sha256", hashed), ThreadPoolExecutor(1) as beside:
        begun = [readings.of(memoryview(b"")) for _ in range(HASHED_AT_ONCE)]
        one_more = beside.submit(readings.of, memoryview(b""))
        assert not wait([one_more, *(each.digest for each in begun)], timeout=0.1).done
        go_on.set()
        assert one_more.result().number > max(each.number for each in begun)
        wait([one_more.result().digest])
