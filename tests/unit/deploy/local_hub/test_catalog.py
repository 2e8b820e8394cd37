import pytest

from deploy.local_hub.catalog import Catalog
from deploy.local_hub.settings import SettingsError


@pytest.fixture
def root(tmp_path):
    for name in ("house/base", "someone/crayon", "someone/.hidden", ".cache/x", "someone/bad--name"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "README.md").write_text("x")
    (tmp_path / "someone" / "stray.txt").write_text("x")
    (tmp_path / "someone" / "crayon" / ".hub.yaml").write_text("renamed_from: [someone/wax, crayon]")
    return tmp_path


def test_every_folder_of_an_organisation_with_a_proper_name_is_a_repository(root):
    assert [repo.id for repo in Catalog(root).all()] == ["house/base", "someone/crayon"]


@pytest.mark.parametrize("name", ["someone/crayon", "someone/wax", "Someone/WAX", "SOMEONE/crayon", "crayon"])
def test_a_repository_is_found_by_all_its_names(root, name):
    assert Catalog(root).find(name).id == "someone/crayon"


@pytest.mark.parametrize(
    "name", ["someone/absent", "someone/stray.txt", "someone/.hidden", "house", "", "..", "../x", "a/b/c"]
)
def test_what_is_no_repository_is_not_found(root, name):
    assert Catalog(root).find(name) is None


def test_a_new_repository_takes_its_name_back_from_a_renamed_one(root):
    catalog = Catalog(root)
    assert catalog.find("someone/wax").id == "someone/crayon"
    (root / "someone" / "wax").mkdir()

    assert catalog.find("someone/wax").id == "someone/wax"


def test_a_removed_repository_is_not_found(root):
    catalog = Catalog(root)
    catalog.prepare()
    (root / "house" / "base" / "README.md").unlink()
    (root / "house" / "base").rmdir()

    assert catalog.find("house/base") is None


def test_tokens_are_read_again_when_they_change(root):
    catalog = Catalog(root)
    assert catalog.tokens() == {}
    (root / ".hub-tokens.yaml").write_text("hf_a: alice")

    assert catalog.tokens() == {"hf_a": "alice"}


def test_wrong_settings_are_named_with_their_file(root):
    (root / "house" / "base" / ".hub.yaml").write_text("likes: many")

    with pytest.raises(SettingsError, match=r"house/base/\.hub\.yaml: likes: expected a number"):
        Catalog(root).prepare()


def test_a_root_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SettingsError, match="no such folder"):
        Catalog(tmp_path / "absent").prepare()
