import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.refs import FileRef, RepoId, parse_file_ref, parse_repo_id, parse_revision


@pytest.mark.parametrize(
    "text",
    [
        "a/b",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "_x/y_z",
        "a.b/c.d-e",
        "0/1",
        "a" * 96 + "/" + "b" * 96,
    ],
)
def test_an_id_of_the_hubs_form_is_taken_as_it_is(text):
    assert parse_repo_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one",
        "a/b/c",
        "/b",
        "a/",
        "../etc",
        "a/..",
        "a/b..c",
        "a/b--c",
        "-a/b",
        "a/b-",
        ".a/b",
        "a/b.",
        "a b/c",
        "a/b\n",
        "a/b\0",
        "a/b%2e",
        "a/{b}",
        "a\\b/c",
        "http://a/b",
        "file:/etc",
        "ä/b",
        "a/b.git",
        "a" * 97 + "/b",
    ],
)
def test_anything_else_is_refused_with_the_field(text):
    with pytest.raises(InvalidRequest, match=r"^adapters\[0\]: ") as caught:
        parse_repo_id(text, "adapters[0]")
    assert caught.value.field == "adapters[0]"


@given(st.text())
def test_no_id_names_a_path_or_leaves_its_key(text):
    try:
        parse_repo_id(text)
    except InvalidRequest:
        return
    organisation, name = text.split("/")
    assert {organisation, name}.isdisjoint({"", ".", ".."})
    assert text.isascii()
    assert not set(text) & set("{}:\\ \t\r\n\0%")


def test_a_commit_is_taken_as_it_is():
    assert parse_revision("0f" * 20) == "0f" * 20


@pytest.mark.parametrize("text", ["main", "", "0F" * 20, "0f" * 19, "0f" * 21, "0f" * 20 + "\n"])
def test_what_is_no_commit_is_refused(text):
    with pytest.raises(ValueError, match="not a commit"):
        parse_revision(text)


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("a/b/c.gguf", "c.gguf", None),
        ("a/b/folder/c@d.gguf", "folder/c@d.gguf", None),
        ("a/b@main/c.gguf", "c.gguf", "main"),
    ],
)
def test_a_file_is_named_with_its_repository_and_perhaps_a_revision(text, name, revision):
    assert parse_file_ref(text) == FileRef(repo=RepoId("a/b"), name=name, revision=revision)


@pytest.mark.parametrize(
    "text", ["", "a/b", "a/b/", "a/b@/c", "a/b/../c", "a/b//c", "a/b@main", "a/../c/d", "a"]
)
def test_what_names_no_file_of_a_repository_is_refused(text):
    with pytest.raises(InvalidRequest):
        parse_file_ref(text)
