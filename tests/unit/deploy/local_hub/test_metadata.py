from datetime import UTC, datetime

import pytest

from deploy.local_hub.metadata import (
    EXPANDABLE,
    describe,
    library_name,
    model_tags,
    selected,
    sized_siblings,
    timestamp,
    unexpanded,
)
from deploy.local_hub.settings import RepoSettings


def nothing(_name):
    return None


def test_tags_are_the_cards_and_those_that_follow_from_the_rest(a_repo):
    card = {
        "tags": ["lora", "crayon", "lora", 7],
        "pipeline_tag": "text-to-image",
        "library_name": "diffusers",
        "base_model": ["house/base", "house/other"],
        "license": "openrail++",
    }

    assert model_tags(a_repo(card=card, files=("style.safetensors",))) == [
        "diffusers",
        "safetensors",
        "lora",
        "crayon",
        "text-to-image",
        "base_model:house/base",
        "base_model:house/other",
        "base_model:adapter:house/base",
        "base_model:adapter:house/other",
        "license:openrail++",
        "region:us",
    ]


def test_a_pipeline_is_tagged_with_its_class(a_repo):
    repo = a_repo(files=("model_index.json",), model_index={"_class_name": "FluxPipeline"})

    assert model_tags(repo) == ["diffusers", "diffusers:FluxPipeline", "region:us"]


def test_a_repository_without_a_card_has_little_to_say(a_repo):
    described = describe(a_repo(), nothing)

    assert described["tags"] == ["region:us"]
    assert described["siblings"] == []
    absent = {"cardData", "config", "library_name", "pipeline_tag", "safetensors", "widgetData", "baseModels"}
    assert not absent & set(described)


@pytest.mark.parametrize(
    ("card", "files", "library"),
    [
        ({"library_name": "peft", "tags": ["diffusers"]}, (), "peft"),
        ({"tags": ["lora", "diffusers"]}, ("config.json",), "diffusers"),
        ({}, ("model_index.json", "config.json"), "diffusers"),
        ({}, ("adapter_config.json",), "peft"),
        ({}, ("config.json",), "transformers"),
        ({"tags": "diffusers"}, ("style.safetensors",), None),
    ],
)
def test_the_library_is_stated_or_tagged_or_seen_from_the_files(a_repo, card, files, library):
    assert library_name(a_repo(card=card, files=files)) == library


def test_an_adapter_without_a_task_has_that_of_its_base(a_repo):
    base = a_repo("house/base", card={"tags": ["text-to-image"]})
    adapter = a_repo(card={"tags": ["lora"], "base_model": "house/base"})
    finetune = a_repo(card={"base_model": "house/base"})

    assert describe(adapter, {"house/base": base}.get)["pipeline_tag"] == "text-to-image"
    assert "pipeline_tag" not in describe(finetune, {"house/base": base}.get)


def test_base_models_are_named_by_their_current_ids(a_repo):
    base = a_repo("house/base")
    adapter = a_repo(card={"tags": ["lora"], "base_model": ["house/former", "gone/base"]})

    described = describe(adapter, {"house/former": base}.get)["baseModels"]

    assert described == {
        "relation": "adapter",
        "models": [{"_id": describe(base, nothing)["_id"], "id": "house/base"}],
    }


def test_the_configs_that_the_hub_reads_are_passed_on(a_repo):
    repo = a_repo(
        files=("adapter_config.json", "config.json"),
        config={"architectures": ["UNet"], "model_type": "unet", "hidden": 4},
        adapter_config={"base_model_name_or_path": "house/base", "task_type": None, "r": 8},
    )

    assert describe(repo, nothing)["config"] == {
        "architectures": ["UNet"],
        "model_type": "unet",
        "peft": {"base_model_name_or_path": "house/base", "task_type": None},
    }


def test_settings_are_part_of_the_description(a_repo):
    created = datetime(2023, 11, 9, 0, 34, 2, tzinfo=UTC)
    settings = RepoSettings(private=True, gated="auto", downloads=5, likes=2, created_at=created)

    described = describe(a_repo(settings=settings), nothing)

    assert described["createdAt"] == "2023-11-09T00:34:02.000Z"
    assert str(described["_id"]).startswith(f"{int(created.timestamp()):08x}")
    assert len(str(described["_id"])) == 24
    fields = ("private", "gated", "disabled", "downloads", "likes")
    assert [described[field] for field in fields] == [True, "auto", False, 5, 2]


def test_times_come_from_the_files(a_repo):
    described = describe(a_repo(files=("a.txt", "b.txt")), nothing)

    assert described["lastModified"] == described["createdAt"] == "2023-11-14T22:13:20.000Z"
    assert described["usedStorage"] == 101 + 102


def test_parameters_are_totalled(a_repo):
    described = describe(a_repo(parameters={"F16": 6, "F32": 4}), nothing)

    assert described["safetensors"] == {"parameters": {"F16": 6, "F32": 4}, "total": 10}


def test_only_expand_shows_base_models(a_repo):
    base = a_repo("house/base")
    described = describe(a_repo(card={"base_model": "house/base"}), {"house/base": base}.get)

    assert "baseModels" not in unexpanded(described)
    assert set(selected(described, {"baseModels", "gguf"})) == {"_id", "id", "baseModels"}


def test_what_is_shown_can_be_asked_for(a_repo):
    assert set(unexpanded(describe(a_repo(), nothing))) - EXPANDABLE == {"_id", "id", "modelId"}


def test_sized_files_tell_git_and_large_file_ids_apart(a_repo):
    small, large = sized_siblings(a_repo(files=("a.txt", "b.safetensors")).snapshot.files)

    assert small == {"rfilename": "a.txt", "size": 101, "blobId": f"{1:040x}"}
    assert large["lfs"] == {"sha256": f"{2:064x}", "size": 102, "pointerSize": 128}


def test_times_are_written_in_utc_with_milliseconds():
    assert timestamp(datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)) == "2024-01-02T03:04:05.678Z"
