import hashlib
import os

import pytest

from deploy.local_hub.gitobjects import lfs_pointer, object_oid
from deploy.local_hub.repository import (
    FileChangedError,
    OpenFile,
    Repository,
    UnsettledError,
)
from shared.refs import RepoId

LONG_AFTER = 2**62


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def repository(folder):
    return Repository(RepoId("someone/crayon"), folder, lambda: LONG_AFTER)


@pytest.fixture
def reads(monkeypatch):
    """The name of every file that is opened."""
    opened = []
    make = OpenFile.__init__

    def noted(self, path, stamp):
        opened.append(path.name)
        make(self, path, stamp)

    monkeypatch.setattr(OpenFile, "__init__", noted)
    return opened


def test_a_folder_is_read_as_files_with_the_ids_of_git(repository):
    snapshot = repository.read().snapshot

    readme, weights = snapshot.files.values()
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert readme.etag == readme.oid == object_oid("blob", b"---\nlicense: mit\n---\n")
    assert weights.path == "unet/model.safetensors"
    assert weights.etag == weights.sha256 == sha256
    assert weights.oid == object_oid("blob", lfs_pointer(sha256, 7))
    assert set(snapshot.folders) == {"unet"}


def test_what_did_not_change_is_not_read_again(repository, reads):
    first = repository.read()
    before = len(reads)

    assert repository.read() == first
    assert len(reads) == before


def test_only_a_changed_file_is_read_again(repository, folder, reads):
    first = repository.read()
    reads.clear()
    (folder / "unet" / "config.json").write_text("{}")

    assert repository.read().snapshot.commit != first.snapshot.commit
    assert "model.safetensors" not in reads


def test_a_file_written_within_one_tick_of_the_clock_is_read_again(folder):
    clock = (folder / "README.md").stat().st_ctime_ns
    repository = Repository(RepoId("someone/crayon"), folder, lambda: clock)
    readme = folder / "README.md"
    before = repository.read()
    times = readme.stat()
    readme.write_text("---\nlicense: xit\n---\n")
    os.utime(readme, ns=(times.st_atime_ns, times.st_mtime_ns))

    after = repository.read()

    assert after.snapshot.commit != before.snapshot.commit
    assert after.documents.card == {"license": "xit"}


def test_a_removed_file_is_gone(repository, folder):
    repository.read()
    (folder / "README.md").unlink()

    after = repository.read()

    assert list(after.snapshot.files) == ["unet/model.safetensors"]
    assert after.documents.card is None


def test_the_same_contents_are_the_same_commit_wherever_they_lie(repository, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "unet").mkdir()
    (other / "unet" / "model.safetensors").write_bytes(b"weights")
    (other / "README.md").write_text("---\nlicense: mit\n---\n")
    copy = Repository(RepoId("someone/copy"), other, lambda: LONG_AFTER)

    assert copy.read().snapshot.commit == repository.read().snapshot.commit


def test_an_empty_folder_is_a_repository_without_files(tmp_path):
    read = Repository(RepoId("a/b"), tmp_path, lambda: LONG_AFTER).read()

    assert read.snapshot.files == {}
    assert len(read.snapshot.commit) == 40
    assert read.snapshot.modified_at.year == 2022


def test_hidden_files_links_and_settings_are_no_part_of_it(repository, folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text("secret")
    (folder / ".hub.yaml").write_text("likes: 1")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.txt").write_text("x")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "outside").symlink_to(outside)
    os.mkfifo(folder / "pipe")

    read = repository.read()

    assert list(read.snapshot.files) == ["README.md", "unet/model.safetensors"]
    assert read.settings.likes == 1


def test_a_file_that_changed_since_it_was_listed_is_not_opened(repository, folder):
    listed = repository.read().snapshot.files["README.md"]
    (folder / "README.md").write_text("changed")

    with pytest.raises(FileChangedError):
        repository.open(listed)


def test_a_link_put_in_the_place_of_a_file_is_not_followed(repository, folder):
    listed = repository.read().snapshot.files["README.md"]
    (folder / "README.md").rename(folder / "elsewhere.md")
    (folder / "README.md").symlink_to(folder / "elsewhere.md")

    with pytest.raises(FileChangedError):
        repository.open(listed)


def test_a_file_that_changes_while_it_is_read_is_not_read_on(repository, folder):
    listed = repository.read().snapshot.files["README.md"]
    with repository.open(listed) as file:
        assert file.read(0, 3) == b"---"
        (folder / "README.md").write_text("changed")
        with pytest.raises(FileChangedError):
            file.read(3, 3)


def test_a_folder_that_never_holds_still_cannot_be_read(repository, folder, monkeypatch):
    sizes = iter(range(1, 1000))
    make = OpenFile.__init__

    def changed_first(self, path, stamp):
        path.write_text("x" * next(sizes))
        make(self, path, stamp)

    monkeypatch.setattr(OpenFile, "__init__", changed_first)

    with pytest.raises(UnsettledError):
        repository.read()


def test_weights_whose_header_claims_too_much_are_not_counted(repository, folder):
    (folder / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")

    assert repository.read().documents.parameters is None
