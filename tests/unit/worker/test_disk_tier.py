"""The disk tier over folders laid out as huggingface_hub lays them out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.disk_tier import STALE_SECONDS, DiskTier, NotOnDisk

NOW_NS = 2_000_000_000 * 10**9


def store(folder: Path, name: str, nbytes: int, used: float, commit: str = "c1") -> Path:
    """Write a file that was last used `used` seconds ago; return the link to it."""
    repo = folder / f"models--someone--{name}"
    blob = repo / "blobs" / f"etag-of-{name}"
    link = repo / "snapshots" / commit / "sub" / f"{name}.safetensors"
    blob.parent.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True)
    blob.write_bytes(bytes(nbytes))
    os.utime(blob, ns=(NOW_NS, NOW_NS - int(used * 1e9)))
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def a_tier(folder: Path, budget: int, **options) -> DiskTier:
    return DiskTier(folder, budget, clock_ns=lambda: NOW_NS, **options)


def test_a_folder_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    tier = a_tier(tmp_path / "new", 10)
    tier.sweep()
    assert tier.nbytes == 0
    assert (tmp_path / "new").is_dir()


def test_the_least_recently_used_files_make_room_and_their_links_go_with_them(tmp_path: Path) -> None:
    evictions: list[None] = []
    tier = a_tier(tmp_path, 100, on_evict=lambda: evictions.append(None))
    old, older, recent = (
        store(tmp_path, "a", 40, 20),
        store(tmp_path, "b", 40, 30),
        store(tmp_path, "c", 10, 1),
    )
    also = store(tmp_path, "b", 40, 30, commit="c2")

    with tier.room_for(50):
        assert not older.is_symlink()
        assert not also.is_symlink()
        assert old.exists()
        assert recent.exists()
    assert tier.nbytes == 50
    assert len(evictions) == 1


def test_room_that_one_download_was_given_is_not_given_to_another(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 100)
    kept = store(tmp_path, "a", 20, 5)
    with tier.room_for(40), tier.room_for(40):
        assert kept.exists()
        with tier.room_for(10):
            assert not kept.exists()


def test_reading_a_file_makes_it_the_most_recently_used(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 100)
    read, other = store(tmp_path, "a", 40, 30), store(tmp_path, "b", 40, 20)
    with tier.reading(read):
        pass
    with tier.room_for(50):
        assert read.exists()
        assert not other.exists()


def test_a_file_in_use_is_never_evicted_however_little_room_there_is(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 10)
    link = store(tmp_path, "a", 40, 30)
    with tier.reading(link):
        with tier.room_for(10):
            assert link.exists()
        assert not tier.free(1)
        assert link.read_bytes() == bytes(40)
    assert tier.free(1)
    assert not link.exists()


def test_a_file_that_another_process_reads_is_not_evicted_until_that_one_dies(tmp_path: Path) -> None:
    link = store(tmp_path, "a", 40, 30)
    code = (
        "import sys; from pathlib import Path; from worker.disk_tier import DiskTier\n"
        "with DiskTier(Path(sys.argv[1]), 10).reading(Path(sys.argv[2])):\n"
        "    print('reading', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(link)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reading\n"
        assert not a_tier(tmp_path, 10).free(1)
        assert link.exists()
        reader.kill()
    assert a_tier(tmp_path, 10).free(1)
    assert not link.exists()


def test_a_file_that_was_evicted_before_it_is_read_is_said_to_be_gone(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 10)
    link = store(tmp_path, "a", 40, 30)
    tier.free(40)
    with pytest.raises(NotOnDisk), tier.reading(link):
        pass


def test_what_is_of_a_pinned_repository_stays(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 10, is_pinned="someone/a".__eq__)
    pinned, other = store(tmp_path, "a", 40, 30), store(tmp_path, "b", 40, 20)
    tier.sweep()
    assert pinned.exists()
    assert not other.exists()


def test_unfinished_downloads_are_swept_once_nobody_writes_them_any_more(tmp_path: Path) -> None:
    store(tmp_path, "a", 1, 1)
    blobs = tmp_path / "models--someone--a" / "blobs"
    for name, age in (("dead", STALE_SECONDS + 1), ("alive", STALE_SECONDS - 1)):
        unfinished = blobs / f"{name}.0123abcd.incomplete"
        unfinished.write_bytes(bytes(7))
        os.utime(unfinished, ns=(NOW_NS, NOW_NS - age * 10**9))
    tier = a_tier(tmp_path, 1)
    tier.sweep()

    assert {path.name for path in blobs.glob("*.incomplete")} == {"alive.0123abcd.incomplete"}
    assert tier.nbytes == 7  # the finished file had to go for it


def test_full_disks_are_freed_of_as_much_as_is_asked_for_and_no_more(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 1000)
    links = [store(tmp_path, name, 10, 30 - number) for number, name in enumerate("abc")]
    assert tier.free(15)
    assert [link.exists() for link in links] == [False, False, True]


def test_what_a_download_has_written_so_far_is_not_counted_beside_its_place(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 100)
    kept, oldest = store(tmp_path, "a", 20, 5), store(tmp_path, "b", 20, 50)
    with tier.room_for(40):
        growing = tmp_path / "models--someone--a" / "blobs" / "c.0123abcd.incomplete"
        growing.write_bytes(bytes(39))
        os.utime(growing, ns=(NOW_NS, NOW_NS))
        with tier.room_for(40):
            assert kept.exists()
            assert not oldest.exists()
        assert tier.nbytes == 59
        assert tier.free(20)
        assert not kept.exists()


def test_what_other_processes_download_is_counted_as_far_as_it_is_here(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 100)
    old = store(tmp_path, "a", 40, 5)
    growing = tmp_path / "models--someone--a" / "blobs" / "c.0123abcd.incomplete"
    growing.write_bytes(bytes(30))
    os.utime(growing, ns=(NOW_NS, NOW_NS))
    with tier.room_for(40):
        assert not old.exists()


def test_folders_from_which_all_was_evicted_go_after_a_while(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 10)
    store(tmp_path, "a", 40, 30)
    kept = store(tmp_path, "b", 5, 20)
    tier.sweep()
    repo = tmp_path / "models--someone--a"
    for age, is_there in ((STALE_SECONDS - 1, True), (STALE_SECONDS + 1, False)):
        os.utime(repo / "blobs", ns=(NOW_NS, NOW_NS - age * 10**9))
        tier.sweep()
        assert repo.exists() is is_there
    assert kept.exists()


def test_a_folder_that_something_lies_in_stays_whatever_its_age(tmp_path: Path) -> None:
    tier = a_tier(tmp_path, 10)
    store(tmp_path, "a", 40, 30)
    tier.sweep()
    repo = tmp_path / "models--someone--a"
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("c1")
    os.utime(repo / "blobs", ns=(NOW_NS, 0))
    tier.sweep()
    assert (repo / "refs" / "main").exists()
