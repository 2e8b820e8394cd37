"""A repository described in the Hub's JSON. Pure."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from deploy.local_hub.documents import ADAPTER_CONFIG, CONFIG, MODEL_INDEX
from deploy.local_hub.hosted import HostedRepo, RepoFile
from deploy.local_hub.lineage import base_models, is_adapter, relation
from deploy.local_hub.vocabulary import LIBRARIES, TASKS

FindBase = Callable[[str], HostedRepo | None]
"""Finds a base model by the name that a card uses, if it is on this Hub and the viewer may see it."""

EXPANDABLE = frozenset(
    {"author", "baseModels", "cardData", "childrenModelCount", "config", "createdAt"}
    | {"disabled", "downloads", "downloadsAllTime", "evalResults", "gated", "gguf", "inference"}
    | {"inferenceProviderMapping", "lastModified", "library_name", "likes", "mask_token"}
    | {"model-index", "pipeline_tag", "private", "resourceGroup", "safetensors", "sha"}
    | {"siblings", "spaces", "tags", "transformersInfo", "trendingScore", "usedStorage"}
    | {"widgetData", "xetEnabled"}
)
"""What `expand` may ask for (the Hub's own list, from its answer to an unknown name)."""

LISTED = frozenset(
    {"_id", "id", "likes", "trendingScore", "private", "downloads", "tags", "pipeline_tag"}
    | {"library_name", "createdAt", "modelId"}
)
"""What a model looks like in a list."""

_ONLY_EXPANDED = frozenset({"baseModels", "trendingScore"})


def describe(repo: HostedRepo, find_base: FindBase) -> dict[str, object]:
    """Return everything the Hub says of a model, computed from its card, files and settings."""
    card = repo.documents.card or {}
    settings = repo.settings
    tags = model_tags(repo)
    description: dict[str, object | None] = {
        "_id": object_id(repo),
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split("/")[0],
        "sha": repo.snapshot.commit,
        "lastModified": timestamp(repo.snapshot.modified_at),
        "createdAt": timestamp(_created_at(repo)),
        "private": settings.private,
        "gated": settings.gated or False,
        "disabled": settings.disabled,
        "downloads": settings.downloads,
        "likes": settings.likes,
        "trendingScore": 0,
        "library_name": library_name(repo),
        "pipeline_tag": _pipeline_tag(repo, find_base),
        "tags": tags,
        "cardData": repo.documents.card,
        "config": _config(repo),
        "siblings": [{"rfilename": path} for path in repo.snapshot.files],
        "spaces": [],
        "safetensors": _safetensors(repo),
        "widgetData": card.get("widget"),
        "model-index": card.get("model-index"),
        "baseModels": _base_models(repo, find_base),
        "usedStorage": sum(file.size for file in repo.snapshot.files.values()),
    }
    return {key: value for key, value in description.items() if value is not None}


def selected(description: Mapping[str, object], keys: Collection[str]) -> dict[str, object]:
    """Return the answer to `expand`: the keys asked for, and the two that are always there."""
    return {key: value for key, value in description.items() if key in keys or key in {"_id", "id"}}


def unexpanded(description: Mapping[str, object]) -> dict[str, object]:
    """Return the answer without `expand`: all but what has to be asked for."""
    return {key: value for key, value in description.items() if key not in _ONLY_EXPANDED}


def sized_siblings(files: Mapping[str, RepoFile]) -> list[dict[str, object]]:
    """Return the files as `blobs=true` lists them: with sizes and git's names."""
    return [_sibling(file) for file in files.values()]


def model_tags(repo: HostedRepo) -> list[str]:
    """Return the card's tags between those that the Hub computes, in the Hub's order."""
    card = repo.documents.card or {}
    files = repo.snapshot.files
    bases = base_models(card)
    kind = relation(card, _card_tags(card), files, bases)
    pipeline_class = _class_name(repo)
    license_name = card.get("license")
    tags: list[str | None] = [
        library_name(repo),
        "safetensors" if any(path.endswith(".safetensors") for path in files) else None,
        *_card_tags(card),
        own_pipeline_tag(repo),
        *(f"base_model:{base}" for base in bases),
        *(f"base_model:{kind}:{base}" for base in bases),
        f"license:{license_name}" if isinstance(license_name, str) else None,
        f"diffusers:{pipeline_class}" if pipeline_class else None,
        "region:us",
    ]
    return list(dict.fromkeys(tag for tag in tags if tag))


def library_name(repo: HostedRepo) -> str | None:
    """Return the library that loads the model.

    The Hub's documentation of model cards, section "Specifying a library": the card's word, then a
    tag that is a library's name, then what the files look like.
    """
    card = repo.documents.card or {}
    stated = card.get("library_name")
    if isinstance(stated, str):
        return stated
    for tag in _card_tags(card):
        if tag in LIBRARIES:
            return tag
    files = repo.snapshot.files
    signs = ((MODEL_INDEX, "diffusers"), (ADAPTER_CONFIG, "peft"), (CONFIG, "transformers"))
    return next((library for file, library in signs if file in files), None)


def own_pipeline_tag(repo: HostedRepo) -> str | None:
    """Return the task that the card names, in its field or as a tag."""
    card = repo.documents.card or {}
    stated = card.get("pipeline_tag")
    if isinstance(stated, str):
        return stated
    return next((tag for tag in _card_tags(card) if tag in TASKS), None)


def object_id(repo: HostedRepo) -> str:
    """Return the repository's 24-digit id, which begins with its creation time as on the Hub."""
    digest = hashlib.sha256(repo.id.encode()).hexdigest()
    return f"{int(_created_at(repo).timestamp()):08x}{digest[:16]}"


def timestamp(moment: datetime) -> str:
    """Return a time as the Hub writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _created_at(repo: HostedRepo) -> datetime:
    return repo.settings.created_at or repo.snapshot.begun_at


def _card_tags(card: Mapping[str, object]) -> list[str]:
    given = card.get("tags")
    return [tag for tag in given if isinstance(tag, str)] if isinstance(given, list) else []


def _pipeline_tag(repo: HostedRepo, find_base: FindBase) -> str | None:
    """Return the model's task; an adapter without one has that of its base."""
    own = own_pipeline_tag(repo)
    card = repo.documents.card or {}
    if own is not None or not is_adapter(_card_tags(card), repo.snapshot.files):
        return own
    bases = map(find_base, base_models(card))
    return next((tag for base in bases if base and (tag := own_pipeline_tag(base))), None)


def _class_name(repo: HostedRepo) -> str | None:
    name = (repo.documents.model_index or {}).get("_class_name")
    return name if isinstance(name, str) else None


def _config(repo: HostedRepo) -> dict[str, object] | None:
    read = repo.documents
    config = {
        key: value for key in ("architectures", "model_type") if (value := (read.config or {}).get(key))
    }
    if pipeline_class := _class_name(repo):
        config["diffusers"] = {"_class_name": pipeline_class}
    if read.adapter_config is not None:
        wanted = ("base_model_name_or_path", "task_type")
        config["peft"] = {key: read.adapter_config.get(key) for key in wanted}
    return config or None


def _safetensors(repo: HostedRepo) -> dict[str, object] | None:
    counts = repo.documents.parameters
    return {"parameters": dict(counts), "total": sum(counts.values())} if counts else None


def _base_models(repo: HostedRepo, find_base: FindBase) -> dict[str, object] | None:
    card = repo.documents.card or {}
    names = base_models(card)
    found = [base for name in names if (base := find_base(name))]
    if not found:
        return None
    return {
        "relation": relation(card, _card_tags(card), repo.snapshot.files, names),
        "models": [{"_id": object_id(base), "id": base.id} for base in found],
    }


def _sibling(file: RepoFile) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": file.path, "size": file.size, "blobId": file.oid}
    if file.sha256 is not None:
        sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return sibling
