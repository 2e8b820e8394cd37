"""What the real client learns of models."""

from asyncio import to_thread
from datetime import UTC, datetime

import pytest
from huggingface_hub.errors import BadRequestError, RevisionNotFoundError


async def test_an_adapter_is_described_as_on_the_hub(adapter, stranger):
    info = await to_thread(stranger.model_info, adapter)

    assert info.id == adapter
    assert info.author == "someone"
    assert info.library_name is None
    assert info.pipeline_tag == "text-to-image"
    assert info.tags == [
        "safetensors",
        "lora",
        "text-to-image",
        "base_model:house/base",
        "base_model:adapter:house/base",
        "license:mit",
        "region:us",
    ]
    assert info.card_data.to_dict()["instance_prompt"] == "in crayon style"
    assert info.card_data.base_model == "house/base"
    assert info.widget_data[0]["text"] == "a red circle in crayon style"
    assert info.created_at == datetime(2023, 11, 9, 0, 34, 2, tzinfo=UTC)
    assert (info.private, info.gated, info.disabled, info.likes) == (False, False, False, 3)
    assert [sibling.rfilename for sibling in info.siblings] == [
        "README.md",
        "images/more/two.png",
        "images/one.png",
        "notes on style.txt",
        "pytorch_lora_weights.safetensors",
    ]
    assert all(sibling.size is None for sibling in info.siblings)
    assert info.base_models is None


async def test_a_pipeline_carries_its_class(adapter, stranger):
    info = await to_thread(stranger.model_info, "house/base")

    assert info.library_name == "diffusers"
    assert "diffusers:StableDiffusionXLPipeline" in info.tags
    assert info.config == {"diffusers": {"_class_name": "StableDiffusionXLPipeline"}}


async def test_expand_answers_only_what_was_asked_for(adapter, stranger, raw):
    info = await to_thread(stranger.model_info, adapter, expand=["baseModels", "tags", "sha"])

    assert info.base_models["relation"] == "adapter"
    assert [model["id"] for model in info.base_models["models"]] == ["house/base"]
    assert info.siblings is None
    answer = await raw.get(f"/api/models/{adapter}?expand[]=sha&expand[]=gated")
    assert set(await answer.json()) == {"_id", "id", "sha", "gated"}


async def test_the_other_spelling_of_expand_means_the_same(adapter, raw):
    plain = await raw.get(f"/api/models/{adapter}?expand=sha&expand=tags")
    bracketed = await raw.get(f"/api/models/{adapter}?expand[]=sha&expand[]=tags")

    assert await plain.json() == await bracketed.json()


async def test_an_unknown_name_in_expand_is_refused(adapter, stranger):
    with pytest.raises(BadRequestError, match="Invalid expand parameter 'mood'"):
        await to_thread(stranger.model_info, adapter, expand=["mood"])


async def test_expand_and_blobs_exclude_each_other(adapter, raw):
    answer = await raw.get(f"/api/models/{adapter}?expand=sha&blobs=true")

    assert answer.status == 400


async def test_files_metadata_gives_sizes_and_hashes(adapter, stranger, lora_weights):
    info = await to_thread(stranger.model_info, adapter, files_metadata=True)

    files = {sibling.rfilename: sibling for sibling in info.siblings}
    weights = files["pytorch_lora_weights.safetensors"]
    assert weights.size == weights.lfs.size == len(lora_weights)
    assert len(weights.lfs.sha256) == 64
    assert files["notes on style.txt"].lfs is None
    assert files["notes on style.txt"].size == len("thick lines")
    assert len(files["notes on style.txt"].blob_id) == 40


async def test_a_model_is_found_by_branch_and_by_commit(adapter, stranger):
    by_branch = await to_thread(stranger.model_info, adapter, revision="main")
    by_commit = await to_thread(stranger.model_info, adapter, revision=by_branch.sha)

    assert by_commit.sha == by_branch.sha
    with pytest.raises(RevisionNotFoundError):
        await to_thread(stranger.model_info, adapter, revision="refs/pr/1")


async def test_a_written_file_makes_a_new_commit_and_ends_the_old_one(adapter, stranger, hub_root):
    before = await to_thread(stranger.model_info, adapter)
    (hub_root / adapter / "notes on style.txt").write_text("other lines")

    after = await to_thread(stranger.model_info, adapter)

    assert after.sha != before.sha
    with pytest.raises(RevisionNotFoundError):
        await to_thread(stranger.model_info, adapter, revision=before.sha)


async def test_equal_contents_have_the_same_commit(adapter, stranger, hub_root):
    before = await to_thread(stranger.model_info, adapter)
    notes = hub_root / adapter / "notes on style.txt"
    notes.write_text("other lines")
    await to_thread(stranger.model_info, adapter)
    notes.write_text("thick lines")

    assert (await to_thread(stranger.model_info, adapter)).sha == before.sha


async def test_models_are_listed_by_tags(adapter, stranger):
    tags = ["lora", "base_model:adapter:house/base"]

    found = await to_thread(lambda: list(stranger.list_models(filter=tags)))

    assert [model.id for model in found] == [adapter]
    assert found[0].siblings is None


async def test_models_are_listed_by_author_and_words(adapter, stranger):
    by_author = await to_thread(lambda: list(stranger.list_models(author="house", full=True)))
    by_word = await to_thread(lambda: list(stranger.list_models(search="CRAY")))

    assert [model.id for model in by_author] == ["house/base"]
    assert by_author[0].sha
    assert [model.id for model in by_word] == [adapter]


async def test_long_lists_come_in_pages(write_repo, stranger, hub):
    for number in range(5):
        write_repo(f"someone/style-{number}", {"README.md": f"---\ntags: [lora]\n---\n{number}"})

    found = await to_thread(lambda: list(stranger.list_models(limit=5)))
    paged = await to_thread(lambda: list(stranger.list_models(limit=2)))

    assert len(found) == 5
    assert len(paged) == 2


async def test_each_page_links_to_the_next(write_repo, raw):
    for number in range(3):
        write_repo(f"someone/style-{number}", {"README.md": str(number)})

    first = await raw.get("/api/models?limit=2&expand[]=sha")
    second = await raw.get(first.links["next"]["url"])

    assert len(await first.json()) == 2
    assert [set(model) for model in await second.json()] == [{"_id", "id", "sha"}]
    assert "next" not in second.links


async def test_private_models_are_listed_only_for_those_who_may_see_them(write_repo, stranger, alice):
    write_repo("someone/secret", {"README.md": "x"}, "private: true\nallowed_users: [alice]\n")

    assert await to_thread(lambda: list(stranger.list_models())) == []
    assert [model.id for model in await to_thread(lambda: list(alice.list_models()))] == ["someone/secret"]


async def test_a_private_base_is_not_given_away_by_its_adapters(write_repo, adapter, stranger, alice):
    write_repo("house/base", {}, "private: true\nallowed_users: [alice]\n")

    hidden = await to_thread(stranger.model_info, adapter, expand=["baseModels"])
    shown = await to_thread(alice.model_info, adapter, expand=["baseModels"])

    assert hidden.base_models is None
    assert shown.base_models["models"][0]["id"] == "house/base"


async def test_a_commit_has_one_branch(adapter, stranger):
    refs = await to_thread(stranger.list_repo_refs, adapter, include_pull_requests=True)
    info = await to_thread(stranger.model_info, adapter)

    assert [(branch.name, branch.target_commit) for branch in refs.branches] == [("main", info.sha)]
    assert refs.tags == refs.pull_requests == []
