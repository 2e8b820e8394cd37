"""What the Hub's client says of a download that fails, in our words."""

import errno
import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.errors import HubUnavailable, WarmbaseError, WorkerFault
from shared.refs import RepoId
from tests.builders import an_adapter
from worker import hub_files
from worker.disk_tier import DiskTier
from worker.hub_files import HubFiles

HUB = "http://hub.example"


@pytest.fixture
def files(tmp_path: Path) -> HubFiles:
    return HubFiles(HUB, 100, DiskTier(tmp_path, 100))


class Download:
    """Stands for `hf_hub_download`, which fails in these ways, one after the other."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    def __call__(self, *_: object, **__: object) -> None:
        if self.failures:
            raise self.failures.pop(0)


XET = "Data processing error: CAS service error : Reqwest Error: HTTP status server error (502 Bad Gateway)"


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError(XET),
        TimeoutError("the read operation timed out"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError("Consistency check failed: file should be of size 40 but has size 20"),
        PermissionError("the storage's token has expired"),  # as hf_xet's own class is one
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_download_that_breaks_off_is_the_hub_s_fault_and_may_be_tried_again(
    files: HubFiles, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(hub_files, "hf_hub_download", Download(failure))
    with pytest.raises(HubUnavailable) as caught:
        files.fetch(an_adapter(), None, 40)
    assert str(failure) not in caught.value.message
    assert caught.value.retryable


def test_a_folder_that_was_removed_as_empty_in_between_is_made_again(
    files: HubFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = FileNotFoundError(errno.ENOENT, "No such file or directory")
    download = Download(lost)
    monkeypatch.setattr(hub_files, "hf_hub_download", download)
    files.fetch(an_adapter(), None, 40)
    assert download.failures == []

    monkeypatch.setattr(hub_files, "hf_hub_download", Download(lost, lost, lost))
    with pytest.raises(FileNotFoundError):
        files.fetch(an_adapter(), None, 40)


def test_a_full_disk_is_the_worker_s_fault(files: HubFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(hub_files, "hf_hub_download", Download(full))
    with pytest.raises(WorkerFault, match="disk is full"):
        files.fetch(an_adapter(), None, 40)


@pytest.mark.parametrize("failure", [OSError, RuntimeError])
def test_a_full_disk_is_known_where_the_client_says_no_number(
    files: HubFiles, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    full = failure("I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(hub_files, "hf_hub_download", Download(full))
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=39))
    with pytest.raises(WorkerFault, match="disk is full"):
        files.fetch(an_adapter(), None, 40)


def test_what_was_damaged_on_disk_is_removed_and_what_the_hub_gave_so_is_not(
    files: HubFiles, tmp_path: Path
) -> None:
    content = b"all of the file"
    blob = tmp_path / "models--a--b" / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir(parents=True)
    ref = an_adapter(repo=RepoId("a/b"))
    link = tmp_path / "models--a--b" / "snapshots" / ref.revision / ref.weight_name
    link.parent.mkdir(parents=True)

    def write(data: bytes) -> None:
        blob.write_bytes(data)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)

    write(content[:5])
    assert files.drop_damaged(ref)
    assert not files.is_here(ref)
    write(content[:5])  # the Hub says so, too
    assert not files.drop_damaged(ref)
    assert files.is_here(ref)


def test_what_is_whole_stays_on_disk(files: HubFiles, tmp_path: Path) -> None:
    ref = an_adapter(repo=RepoId("a/b"))
    for name in (hashlib.sha256(b"whole").hexdigest(), "0" * 40):  # the latter of a small file, by git's hash
        blob = tmp_path / "models--a--b" / "blobs" / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"whole")
        link = tmp_path / "models--a--b" / "snapshots" / ref.revision / ref.weight_name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
        assert not files.drop_damaged(ref)
        assert files.size_here(ref) == 5


def test_a_file_that_the_hub_once_did_not_find_is_found_when_it_is_here(
    files: HubFiles, tmp_path: Path
) -> None:
    ref = an_adapter(repo=RepoId("a/b"))
    for folder in (".no_exist", "snapshots"):
        path = tmp_path / "models--a--b" / folder / ref.revision / ref.weight_name
        path.parent.mkdir(parents=True)
        path.touch()
    assert files.is_here(ref)


def test_what_is_wrong_with_this_machine_is_not_blamed_on_the_hub(
    files: HubFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_files, "hf_hub_download", Download(PermissionError(errno.EACCES, "denied")))
    with pytest.raises(PermissionError) as caught:
        files.fetch(an_adapter(), None, 40)
    assert not isinstance(caught.value, WarmbaseError)
