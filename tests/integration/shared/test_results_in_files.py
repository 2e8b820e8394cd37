"""Images in files: age, foreign files, crashes in between, full disks."""

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import NoRoom, ResultGone, WorkerFault
from shared.results.file_store import FileResults
from tests.builders import BASE, a_lease

DIGEST = "ab" * 32
IMAGE = bytes(range(256)) * 100
WRITER = """
import asyncio, sys
from pathlib import Path
from shared.results.file_store import FileResults
from tests.builders import a_lease
results = FileResults(Path(sys.argv[1]), ttl=60, most_bytes=3000)
async def main():
    for _ in range(50):
        await results.put(a_lease(), b"x" * 1000)
        sizes = []
        for path in results._directory.iterdir():
            try:
                sizes.append(0 if path.suffix else path.stat().st_size)
            except FileNotFoundError:
                pass
        assert sum(sizes) <= 5000, sizes  # a listing may see old and new ones
asyncio.run(main())
"""


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def results(tmp_path, clock):
    return FileResults(tmp_path, ttl=60, most_bytes=3 * len(IMAGE), clock=clock)


def images(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


async def test_an_image_is_gone_after_its_time_and_swept_with_the_next_one(results, clock, tmp_path):
    name = await results.put(a_lease(), IMAGE)
    clock.now += 59.0
    assert await results.get(name) == IMAGE
    clock.now += 1.0
    with pytest.raises(ResultGone):
        await results.get(name)
    other = await results.put(a_lease(), IMAGE)
    assert images(tmp_path) == [other]


async def test_what_a_writer_that_died_left_is_swept_and_is_no_image(results, tmp_path, clock):
    part = tmp_path / f"{await results.put(a_lease(), IMAGE)}.0123abcd.part"
    part.write_bytes(IMAGE)
    os.utime(part, (clock.now, clock.now))
    with pytest.raises(ResultGone):
        await results.get(part.name)
    clock.now += 61.0
    name = await results.put(a_lease(), IMAGE)
    assert images(tmp_path) == [name]


async def test_foreign_files_are_left_alone(results, tmp_path, clock):
    (tmp_path / "notes.txt").write_bytes(IMAGE * 9)
    (tmp_path / "folder").mkdir()
    os.utime(tmp_path / "notes.txt", (0, 0))
    for _ in range(5):
        clock.now += 1.0
        await results.put(a_lease(), IMAGE)
    assert {"notes.txt", "folder"} < set(images(tmp_path))
    assert len(images(tmp_path)) == 5


async def test_a_full_disk_gives_up_the_oldest_images(results, clock, tmp_path, monkeypatch):
    names = []
    for _ in range(3):
        clock.now += 1.0
        names.append(await results.put(a_lease(), IMAGE))
    write = Path.write_bytes

    def on_a_small_disk(path, data):
        if len(images(tmp_path)) > 1:
            write(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", on_a_small_disk)
    clock.now += 1.0
    names.append(await results.put(a_lease(), IMAGE))
    assert images(tmp_path) == sorted(names[2:])


async def test_a_disk_that_others_filled_fails_the_attempt_which_may_be_repeated(
    results, tmp_path, monkeypatch
):
    def no_space(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(NoRoom) as caught:
        await results.put(a_lease(), IMAGE)
    assert caught.value.retryable
    with pytest.raises(NoRoom):
        await results.put_source(BASE, DIGEST, IMAGE, 30.0)
    assert images(tmp_path) == []


async def test_a_full_disk_takes_an_image_that_it_keeps_already_no_second_time_and_does_not_lose_it(
    results, tmp_path, clock, monkeypatch
):
    attempts = iter(range(5))

    def no_space(*_arguments):
        assert next(attempts, None) is not None, "it is tried again for ever"
        raise OSError(errno.ENOSPC, "No space left on device")

    lease = a_lease()
    name = await results.put(lease, IMAGE)
    clock.now += 1.0
    await results.put(a_lease(), b"later")
    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(NoRoom):
        await results.put(lease, IMAGE)
    assert images(tmp_path) == [name]
    assert await results.get(name) == IMAGE


async def test_a_directory_that_is_none_is_said_so(tmp_path, clock):
    (tmp_path / "file").touch()
    results = FileResults(tmp_path / "file", ttl=60, most_bytes=1 << 20, clock=clock)
    with pytest.raises(WorkerFault, match="cannot be written"):
        await results.put(a_lease(), IMAGE)


async def test_writers_at_once_stay_within_the_room(results, tmp_path):
    await asyncio.gather(*(results.put(a_lease(), IMAGE) for _ in range(40)))
    assert len(images(tmp_path)) == 3


def test_processes_at_once_stay_within_the_room(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(images(tmp_path)) == 3
