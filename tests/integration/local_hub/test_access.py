"""Whom the real client lets in, and which exception it raises for the rest."""

from asyncio import to_thread

import pytest
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

FILES = {"README.md": "---\ntags: [lora]\n---\n", "notes.txt": "thick lines"}


def statuses(error: pytest.ExceptionInfo[HfHubHTTPError]) -> tuple[int, str | None]:
    response = error.value.response
    return response.status_code, response.headers.get("X-Error-Code")


async def test_a_missing_repository_is_not_found_by_anyone(stranger, alice):
    with pytest.raises(RepositoryNotFoundError) as anonymous:
        await to_thread(stranger.model_info, "someone/absent")
    with pytest.raises(RepositoryNotFoundError) as known:
        await to_thread(alice.model_info, "someone/absent")
    with pytest.raises(RepositoryNotFoundError):
        await to_thread(stranger.hf_hub_download, "someone/absent", "notes.txt")

    assert statuses(anonymous) == (401, "RepoNotFound")
    assert statuses(known) == (404, "RepoNotFound")


async def test_a_model_of_one_word_is_not_found(stranger):
    with pytest.raises(RepositoryNotFoundError):
        await to_thread(stranger.model_info, "gpt2")
    with pytest.raises(RepositoryNotFoundError):
        await to_thread(stranger.hf_hub_download, "gpt2", "config.json")
    with pytest.raises(RepositoryNotFoundError):
        await to_thread(stranger.snapshot_download, "gpt2")


async def test_a_private_repository_is_missing_to_all_but_its_users(write_repo, stranger, alice, bob):
    write_repo("someone/secret", FILES, "private: true\nallowed_users: [alice]\n")

    with pytest.raises(RepositoryNotFoundError) as anonymous:
        await to_thread(stranger.model_info, "someone/secret")
    with pytest.raises(RepositoryNotFoundError) as known:
        await to_thread(bob.model_info, "someone/secret")
    info = await to_thread(alice.model_info, "someone/secret")
    await to_thread(alice.hf_hub_download, "someone/secret", "notes.txt")

    assert statuses(anonymous) == (401, "RepoNotFound")
    assert statuses(known) == (404, "RepoNotFound")
    assert info.private


async def test_a_private_repository_is_answered_as_a_missing_one(write_repo, raw):
    write_repo("someone/secret", FILES, "private: true\nrenamed_from: [someone/hidden]\n")

    answers = [await raw.get(f"/api/models/someone/{name}") for name in ("secret", "absent", "hidden")]

    assert len({(answer.status, await answer.text()) for answer in answers}) == 1


async def test_an_owner_sees_what_is_private(write_repo, alice):
    write_repo("alice/secret", FILES, "private: true\n")

    assert (await to_thread(alice.model_info, "alice/secret")).private


@pytest.mark.parametrize("gate", ["auto", "manual"])
async def test_a_gate_shows_metadata_and_keeps_files(write_repo, stranger, alice, bob, gate):
    write_repo("someone/gated", FILES, f"gated: {gate}\nallowed_users: [alice]\n")

    assert (await to_thread(stranger.model_info, "someone/gated")).gated == gate
    assert await to_thread(stranger.list_repo_files, "someone/gated") == ["README.md", "notes.txt"]
    with pytest.raises(GatedRepoError) as anonymous:
        await to_thread(stranger.hf_hub_download, "someone/gated", "notes.txt")
    with pytest.raises(GatedRepoError) as known:
        await to_thread(bob.hf_hub_download, "someone/gated", "notes.txt")
    with pytest.raises(GatedRepoError):
        await to_thread(bob.snapshot_download, "someone/gated")
    await to_thread(alice.hf_hub_download, "someone/gated", "notes.txt")

    assert statuses(anonymous) == (401, "GatedRepo")
    assert statuses(known) == (403, "GatedRepo")


async def test_access_can_be_asked_for_without_a_file(write_repo, stranger, alice, bob):
    write_repo("someone/gated", FILES, "gated: auto\nallowed_users: [alice]\n")

    await to_thread(alice.auth_check, "someone/gated")
    with pytest.raises(GatedRepoError):
        await to_thread(bob.auth_check, "someone/gated")
    with pytest.raises(GatedRepoError):
        await to_thread(stranger.auth_check, "someone/gated")
    with pytest.raises(RepositoryNotFoundError):
        await to_thread(bob.auth_check, "someone/absent")


async def test_a_disabled_repository_is_closed_to_everyone(write_repo, hub, stranger, alice):
    write_repo("someone/taken-down", FILES, "disabled: true\nallowed_users: [alice]\n")
    url = hf_hub_url("someone/taken-down", "notes.txt", endpoint=hub.url)

    for client in (stranger, alice):
        with pytest.raises(DisabledRepoError) as error:
            await to_thread(client.model_info, "someone/taken-down")
        assert statuses(error) == (403, None)
        with pytest.raises(DisabledRepoError):
            await to_thread(get_hf_file_metadata, url, token=client.token)
    assert await to_thread(lambda: list(stranger.list_models())) == []


async def test_settings_take_effect_without_a_restart(write_repo, stranger):
    write_repo("someone/style", FILES)
    assert not (await to_thread(stranger.model_info, "someone/style")).gated

    write_repo("someone/style", {}, "gated: manual\n")

    assert (await to_thread(stranger.model_info, "someone/style")).gated == "manual"


async def test_a_renamed_repository_is_found_under_its_old_name(write_repo, raw, stranger):
    write_repo("someone/new", FILES, "renamed_from: [someone/old, crayon]\n")

    info = await to_thread(stranger.model_info, "someone/old", files_metadata=True)
    by_word = await to_thread(stranger.model_info, "crayon", revision="main")
    await to_thread(stranger.hf_hub_download, "someone/old", "notes.txt")
    await to_thread(stranger.snapshot_download, "someone/old")
    answer = await raw.get(
        "/someone/old/resolve/main/my%20notes%2Bmore.txt?download=true", allow_redirects=False
    )

    assert info.id == by_word.id == "someone/new"
    assert info.siblings[0].size is not None
    assert (await to_thread(stranger.get_paths_info, "someone/old", ["notes.txt"]))[0].size == 11
    assert answer.status == 307
    assert answer.headers["Location"] == "/someone/new/resolve/main/my%20notes%2Bmore.txt?download=true"


async def test_a_name_in_other_case_leads_to_the_repository(write_repo, raw):
    write_repo("Someone/Style", FILES)

    answer = await raw.get("/api/models/someone/STYLE?expand[]=sha", allow_redirects=False)

    assert answer.status == 307
    assert answer.headers["Location"] == "/api/models/Someone/Style?expand%5B%5D=sha"


async def test_a_token_tells_who_somebody_is(alice, stranger):
    who = await to_thread(alice.whoami)

    assert who["name"] == "alice"
    assert who["type"] == "user"
    with pytest.raises((LocalTokenNotFoundError, ValueError)):
        await to_thread(stranger.whoami)


async def test_whoami_needs_a_token(raw):
    assert (await raw.get("/api/whoami-v2")).status == 401


async def test_an_unknown_token_is_refused_even_for_public_models(write_repo, client_of):
    write_repo("someone/style", FILES)
    forger = client_of("hf_forged")

    with pytest.raises(HfHubHTTPError) as error:
        await to_thread(forger.model_info, "someone/style")

    assert not isinstance(error.value, RepositoryNotFoundError)
    assert statuses(error) == (401, None)
    assert "Invalid credentials in Authorization header" in str(error.value)
