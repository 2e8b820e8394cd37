"""Addresses that try to reach what is not served."""

import asyncio
import os

import pytest
from yarl import URL

from deploy.local_hub.catalog import Catalog

SECRET = "not for anyone"


@pytest.fixture
def guarded(write_repo, hub_root):
    """A repository with hidden files, links that lead out, and a secret beside the root."""
    (hub_root.parent / "secret.txt").write_text(SECRET)
    files = {"notes.txt": "fine", ".env": SECRET, ".git/config": SECRET}
    folder = write_repo("someone/style", files, "likes: 1\n")
    (folder / "link.txt").symlink_to(hub_root.parent / "secret.txt")
    (folder / "folder").symlink_to(hub_root.parent)
    return "someone/style"


@pytest.mark.parametrize(
    "path",
    [
        ".hub.yaml",
        ".env",
        ".git/config",
        "link.txt",
        "folder/secret.txt",
        "../../../secret.txt",
        "..%2F..%2F..%2Fsecret.txt",
        "%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "%252e%252e/secret.txt",
        "./notes.txt",
        "%2e/notes.txt",
        "//notes.txt",
        "notes.txt/",
        "notes.txt%00",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "..%5C..%5Csecret.txt",
    ],
)
async def test_only_listed_files_are_served(guarded, raw, hub, path):
    url = URL(f"{hub.url}/{guarded}/resolve/main/{path}", encoded=True)

    answer = await raw.get(url)

    assert answer.status in {401, 404}
    assert SECRET not in await answer.text()


@pytest.mark.parametrize(
    "name", ["../hub", "%2e%2e/hub", "someone/..", "..%2Fsomeone/style", ".hub-tokens.yaml/x", "a//b"]
)
async def test_no_name_leads_out_of_the_root(guarded, raw, hub, name):
    for address in (f"/api/models/{name}", f"/{name}/resolve/main/notes.txt"):
        answer = await raw.get(URL(f"{hub.url}{address}", encoded=True))

        assert answer.status in {401, 404}


@pytest.mark.parametrize("folder", ["%2e%2e", "..%2F..", ".git", "folder", "%2F"])
async def test_no_folder_is_listed_but_those_of_the_repository(guarded, raw, hub, folder):
    url = URL(f"{hub.url}/api/models/{guarded}/tree/main/{folder}", encoded=True)

    answer = await raw.get(url)

    assert answer.status == 404


async def test_raw_dots_on_the_wire_reach_nothing(guarded, hub):
    url = URL(hub.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    line = f"GET /{guarded}/resolve/main/../../../../secret.txt HTTP/1.1\r\n"
    writer.write(f"{line}Host: hub\r\nConnection: close\r\n\r\n".encode())

    answer = await reader.read()

    writer.close()
    await writer.wait_closed()
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 401"))
    assert SECRET.encode() not in answer


async def test_hidden_files_and_links_are_not_listed(guarded, raw):
    info = await (await raw.get(f"/api/models/{guarded}?blobs=true")).json()
    tree = await (await raw.get(f"/api/models/{guarded}/tree/main?recursive=true")).json()

    assert [sibling["rfilename"] for sibling in info["siblings"]] == ["notes.txt"]
    assert [entry["path"] for entry in tree] == ["notes.txt"]


async def test_what_is_no_file_is_not_served(guarded, raw, hub_root):
    os.mkfifo(hub_root / guarded / "pipe.txt")

    assert (await raw.get(f"/{guarded}/resolve/main/pipe.txt")).status == 404


async def test_a_revision_cannot_end_a_header(guarded, raw, hub):
    url = URL(f"{hub.url}/api/models/{guarded}/revision/x%0d%0aSet-Cookie:%20a=b", encoded=True)

    answer = await raw.get(url)

    assert answer.status == 404
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["X-Error-Message"] == "Invalid rev id: x??Set-Cookie: a=b"


async def test_a_defect_tells_nothing_of_the_inside(guarded, raw, monkeypatch, caplog):
    def broken(*_arguments):
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Catalog, "find", broken)

    answer = await raw.get(f"/api/models/{guarded}")

    assert answer.status == 500
    assert await answer.json() == {"error": "Internal Server Error"}
    assert SECRET in caplog.text


async def test_wrong_settings_close_the_repository(guarded, raw, hub_root, caplog):
    (hub_root / guarded / ".hub.yaml").write_text("privat: true\n")

    answer = await raw.get(f"/api/models/{guarded}")

    assert answer.status == 500
    assert f"{guarded}/.hub.yaml: unknown key: privat" in caplog.text


async def test_unknown_addresses_are_answered_in_json(raw):
    unknown = await raw.get("/api/datasets/someone/data")
    wrong_method = await raw.post("/api/models")

    assert (unknown.status, await unknown.json()) == (404, {"error": "Not Found"})
    assert wrong_method.status == 405
