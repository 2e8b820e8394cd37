"""Which models a model was made from, and how. Pure."""

from collections.abc import Collection, Mapping
from enum import StrEnum

from deploy.local_hub.documents import ADAPTER_CONFIG
from shared.errors import InvalidRequest
from shared.refs import parse_repo_id

_ADAPTER_TAGS = frozenset({"lora", "peft", "template:sd-lora"})


class Relation(StrEnum):
    """How a model came from its base models, in the Hub's words."""

    ADAPTER = "adapter"
    FINETUNE = "finetune"
    MERGE = "merge"
    QUANTIZED = "quantized"


def base_models(card: Mapping[str, object]) -> tuple[str, ...]:
    """Return the base models that a card names, as far as they can be ids on the Hub.

    Cards in the wild also hold local paths and addresses; the Hub links none of these.
    """
    given = card.get("base_model")
    named = given if isinstance(given, list) else [given]
    return tuple(dict.fromkeys(name for name in named if isinstance(name, str) and _is_repo_id(name)))


def relation(
    card: Mapping[str, object], tags: Collection[str], files: Collection[str], bases: Collection[str]
) -> Relation:
    """Return the card's `base_model_relation`, or infer it from what the repository holds.

    The Hub's documentation of model cards, section "Specifying a base model".
    """
    stated = card.get("base_model_relation")
    if stated in list(Relation):
        return Relation(str(stated))
    if is_adapter(tags, files):
        return Relation.ADAPTER
    return Relation.MERGE if len(bases) > 1 else Relation.FINETUNE


def is_adapter(tags: Collection[str], files: Collection[str]) -> bool:
    """Say whether a repository shows signs of holding an adapter."""
    return (
        any(tag.lower() in _ADAPTER_TAGS for tag in tags)
        or ADAPTER_CONFIG in files
        or any(file.startswith("pytorch_lora_weights.") for file in files)
    )


def _is_repo_id(text: str) -> bool:
    try:
        parse_repo_id(text)
    except InvalidRequest:
        return False
    return True
