"""What the real client downloads."""

import hashlib
from asyncio import to_thread
from pathlib import Path

import aiohttp
import pytest
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

from deploy.local_hub.faults import FaultRule, Faults
from deploy.local_hub.server import LocalHubConfig, serve

MEBIBYTE = 1024 * 1024
WEIGHTS = "pytorch_lora_weights.safetensors"


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


def blob_name(path: str) -> str:
    """The name of the file that a link in the client's folder leads to."""
    return Path(path).resolve().name


def contents_of(folder: str | Path) -> dict[str, bytes]:
    """Every file below `folder` that is not hidden."""
    files = (path for path in Path(folder).rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


async def received_from(answer: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """What arrives of an answer, and whether that is all of it."""
    received = b""
    try:
        async for chunk in answer.content.iter_any():
            received += chunk
    except aiohttp.ClientError:
        return received, False
    return received, True


async def test_a_file_arrives_whole_under_its_commit(adapter, stranger, lora_weights):
    info = await to_thread(stranger.model_info, adapter)

    path = await to_thread(stranger.hf_hub_download, adapter, WEIGHTS)

    assert content_of(path) == lora_weights
    assert Path(path).parent.name == info.sha
    assert blob_name(path) == hashlib.sha256(lora_weights).hexdigest()


async def test_the_metadata_of_a_large_file_names_its_sha256_and_size(adapter, stranger, hub, lora_weights):
    url = hf_hub_url(adapter, WEIGHTS, endpoint=hub.url)

    metadata = await to_thread(get_hf_file_metadata, url, token=False)

    info = await to_thread(stranger.model_info, adapter)
    assert metadata.commit_hash == info.sha
    assert metadata.etag == hashlib.sha256(lora_weights).hexdigest()
    assert metadata.size == len(lora_weights)
    assert metadata.xet_file_data is None


async def test_a_small_file_is_known_by_its_git_id_everywhere(adapter, stranger, hub):
    url = hf_hub_url(adapter, "README.md", endpoint=hub.url)
    metadata = await to_thread(get_hf_file_metadata, url, token=False)
    (entry,) = await to_thread(stranger.get_paths_info, adapter, "README.md")

    assert metadata.etag == entry.blob_id
    assert len(metadata.etag) == 40


async def test_names_with_spaces_and_letters_of_all_alphabets_work(write_repo, stranger):
    name = "mein Stil ü 100% #1/стиль v2.safetensors"
    write_repo("someone/names", {name: b"bytes"})

    path = await to_thread(stranger.hf_hub_download, "someone/names", name)

    assert content_of(path) == b"bytes"


async def test_an_interrupted_download_goes_on_where_it_stopped(
    adapter, hub, stranger, lora_weights, impatient_client
):
    hub.faults.add(FaultRule(path=f"*/{WEIGHTS}", method="GET", times=1, cut_after_bytes=40))

    path = await to_thread(stranger.hf_hub_download, adapter, WEIGHTS)

    assert content_of(path) == lora_weights
    downloads = hub.requests.matching(f"*/{WEIGHTS}", "GET")
    assert [(download.range, download.status) for download in downloads] == [
        (None, 200),
        ("bytes=32-", 206),
    ]


async def test_a_second_download_needs_no_bytes(adapter, hub, stranger):
    await to_thread(stranger.hf_hub_download, adapter, WEIGHTS)
    await to_thread(stranger.hf_hub_download, adapter, WEIGHTS)

    assert hub.requests.count(f"*/{WEIGHTS}", "GET") == 1
    assert hub.requests.count(f"*/{WEIGHTS}", "HEAD") == 2


async def test_a_snapshot_holds_every_file(adapter, hub_root, stranger):
    folder = await to_thread(stranger.snapshot_download, adapter)

    assert contents_of(folder) == contents_of(hub_root / adapter)


async def test_a_snapshot_may_be_limited_to_patterns(adapter, stranger):
    folder = await to_thread(stranger.snapshot_download, adapter, allow_patterns=["*.safetensors"])

    assert list(contents_of(folder)) == [WEIGHTS]


async def test_a_snapshot_of_an_old_commit_is_not_found(adapter, stranger, hub_root):
    old = (await to_thread(stranger.model_info, adapter)).sha
    (hub_root / adapter / "notes on style.txt").write_text("new")

    with pytest.raises(RevisionNotFoundError):
        await to_thread(stranger.hf_hub_download, adapter, WEIGHTS, revision=old)
    with pytest.raises(RevisionNotFoundError):
        await to_thread(stranger.snapshot_download, adapter, revision=old)


async def test_the_header_of_a_weight_file_is_read_without_the_rest(adapter, stranger, hub):
    header = await to_thread(stranger.parse_safetensors_file_metadata, adapter, WEIGHTS)

    assert header.metadata == {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    assert header.tensors["unet.down.lora_A.weight"].shape == [2, 3]
    (request,) = hub.requests.matching(f"*/{WEIGHTS}")
    assert (request.range, request.status) == ("bytes=0-100000", 206)


async def test_weights_with_the_standard_name_are_counted(write_repo, stranger, lora_weights):
    write_repo("someone/net", {"model.safetensors": lora_weights})

    info = await to_thread(stranger.model_info, "someone/net")
    metadata = await to_thread(stranger.get_safetensors_metadata, "someone/net")

    assert info.safetensors.parameters == {"F32": 6} == metadata.parameter_count
    assert info.safetensors.total == 6


async def test_the_tree_lists_folders_and_files(adapter, stranger):
    top = await to_thread(lambda: list(stranger.list_repo_tree(adapter)))
    images = await to_thread(lambda: list(stranger.list_repo_tree(adapter, "images", recursive=True)))
    deep = await to_thread(lambda: list(stranger.list_repo_tree(adapter, "images/more", expand=True)))

    assert [entry.path for entry in top] == ["README.md", "images", "notes on style.txt", WEIGHTS]
    assert len(top[1].tree_id) == 40
    assert [entry.path for entry in images] == ["images/more", "images/more/two.png", "images/one.png"]
    assert deep[0].last_commit.oid == (await to_thread(stranger.model_info, adapter)).sha
    assert deep[0].lfs.size == deep[0].size


async def test_a_long_tree_comes_in_pages(write_repo, stranger, hub):
    write_repo("someone/many", {f"{number:03}.txt": str(number) for number in range(120)})

    entries = await to_thread(lambda: list(stranger.list_repo_tree("someone/many", expand=True)))

    assert [entry.path for entry in entries] == [f"{number:03}.txt" for number in range(120)]
    assert hub.requests.count("*/tree/main") == 3


@pytest.mark.parametrize("folder", ["absent", "images/one.png"])
async def test_the_tree_of_what_is_no_folder_is_not_found(adapter, stranger, folder):
    with pytest.raises(EntryNotFoundError):
        await to_thread(lambda: list(stranger.list_repo_tree(adapter, folder)))


async def test_asking_for_paths_leaves_out_those_that_are_absent(adapter, stranger, raw):
    found = await to_thread(stranger.get_paths_info, adapter, ["images", WEIGHTS, "absent"], expand=True)
    body = {"paths": ["README.md"], "expand": False}
    from_javascript = await raw.post(f"/api/models/{adapter}/paths-info/main", json=body)

    assert [entry.path for entry in found] == ["images", WEIGHTS]
    assert [entry["path"] for entry in await from_javascript.json()] == ["README.md"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"paths": [1]}'])
async def test_a_wrong_question_for_paths_is_refused(adapter, raw, body):
    headers = {"Content-Type": "application/json"}
    answer = await raw.post(f"/api/models/{adapter}/paths-info/main", data=body, headers=headers)

    assert answer.status == 400


async def test_a_file_exists_or_not(adapter, stranger):
    assert await to_thread(stranger.file_exists, adapter, WEIGHTS)
    assert not await to_thread(stranger.file_exists, adapter, "absent.txt")
    assert not await to_thread(stranger.file_exists, adapter, "images")
    assert not await to_thread(stranger.file_exists, "someone/absent", WEIGHTS)
    assert await to_thread(stranger.revision_exists, adapter, "main")
    assert not await to_thread(stranger.revision_exists, adapter, "dev")


async def test_the_client_remembers_that_a_file_is_absent(adapter, stranger, client_cache):
    commit = (await to_thread(stranger.model_info, adapter)).sha

    with pytest.raises(EntryNotFoundError):
        await to_thread(stranger.hf_hub_download, adapter, "absent.json")

    assert (client_cache / "models--someone--crayon" / ".no_exist" / commit / "absent.json").exists()


@pytest.mark.parametrize(
    ("wanted", "answered"),
    [
        ("bytes=0-3", (206, "bytes 0-3/11", b"thic")),
        ("bytes=6-", (206, "bytes 6-10/11", b"lines")),
        ("bytes=-5", (206, "bytes 6-10/11", b"lines")),
        ("bytes=6-999", (206, "bytes 6-10/11", b"lines")),
        ("bytes=11-", (416, "bytes */11", b"")),
        ("lines=1-2", (200, None, b"thick lines")),
    ],
)
async def test_ranges_are_answered_as_http_says(adapter, raw, wanted, answered):
    url = f"/{adapter}/resolve/main/notes%20on%20style.txt"

    answer = await raw.get(url, headers={"Range": wanted})

    assert (answer.status, answer.headers.get("Content-Range"), await answer.read()) == answered
    assert answer.headers["Accept-Ranges"] == "bytes"


async def test_a_range_of_another_version_is_answered_with_all_of_this_one(adapter, raw):
    url = f"/{adapter}/resolve/main/notes%20on%20style.txt"
    etag = (await raw.head(url)).headers["ETag"]

    same = await raw.get(url, headers={"Range": "bytes=6-", "If-Range": etag})
    other = await raw.get(url, headers={"Range": "bytes=6-", "If-Range": '"older"'})

    assert (same.status, await same.text()) == (206, "lines")
    assert (other.status, await other.text()) == (200, "thick lines")


async def test_an_empty_file_is_a_file(write_repo, stranger):
    write_repo("someone/empty", {"empty.txt": ""})

    path = await to_thread(stranger.hf_hub_download, "someone/empty", "empty.txt")

    assert content_of(path) == b""


async def test_a_file_that_changes_during_a_download_is_never_mixed(write_repo, hub_root):
    first, second = bytes(3 * MEBIBYTE), b"1" * 3 * MEBIBYTE + b"2"
    file = write_repo("someone/large", {"large.txt": first}) / "large.txt"

    async def write_meanwhile(_seconds):
        file.write_bytes(second)

    slowly = FaultRule(path="*/large.txt", bytes_per_second=10 * MEBIBYTE)
    faults = Faults([slowly], sleep=write_meanwhile)
    async with (
        serve(LocalHubConfig(root=hub_root), faults=faults) as hub,
        aiohttp.ClientSession(hub.url) as session,
        session.get("/someone/large/resolve/main/large.txt") as answer,
    ):
        received = await received_from(answer)

    assert received == (first[:MEBIBYTE], False)
