"""What the Hub's client says of a download that fails, in our words."""

import errno
from pathlib import Path

import pytest

from shared.errors import HubUnavailable, WarmbaseError, WorkerFault
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


def test_what_is_wrong_with_this_machine_is_not_blamed_on_the_hub(
    files: HubFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_files, "hf_hub_download", Download(PermissionError(errno.EACCES, "denied")))
    with pytest.raises(PermissionError) as caught:
        files.fetch(an_adapter(), None, 40)
    assert not isinstance(caught.value, WarmbaseError)
