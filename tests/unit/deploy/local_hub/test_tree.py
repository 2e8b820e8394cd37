import pytest

from deploy.local_hub.tree import list_tree, paths_info

FILES = ("README.md", "unet/config.json", "unet/deep/model.safetensors", "unet-2/config.json")


@pytest.fixture
def repo(a_repo):
    return a_repo(files=FILES)


def names(entries):
    return [(entry["type"], entry["path"]) for entry in entries]


def test_a_folder_shows_what_lies_directly_in_it(repo):
    assert names(list_tree(repo, "", recursive=False, expand=False)) == [
        ("file", "README.md"),
        ("directory", "unet"),
        ("directory", "unet-2"),
    ]


def test_a_folder_can_show_all_below_it(repo):
    assert names(list_tree(repo, "unet", recursive=True, expand=False)) == [
        ("file", "unet/config.json"),
        ("directory", "unet/deep"),
        ("file", "unet/deep/model.safetensors"),
    ]
    assert len(list_tree(repo, "", recursive=True, expand=False)) == len(FILES) + 3


@pytest.mark.parametrize("folder", ["absent", "README.md", "unet/", "/", ".", "..", "unet/../unet"])
def test_only_folders_can_be_shown(repo, folder):
    assert list_tree(repo, folder, recursive=False, expand=False) is None


def test_paths_are_described_in_the_order_they_were_asked_for(repo):
    entries = paths_info(repo, ["unet", "absent", "unet/deep/model.safetensors"], expand=False)

    assert names(entries) == [("directory", "unet"), ("file", "unet/deep/model.safetensors")]
    assert entries[0]["size"] == 0
    assert entries[1]["lfs"]["size"] == entries[1]["size"]


def test_expanded_entries_name_their_commit(repo):
    (entry,) = paths_info(repo, ["README.md"], expand=True)

    assert entry["lastCommit"]["id"] == repo.snapshot.commit
