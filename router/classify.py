"""What a repository is: an adapter with its base, a full model, or nothing that can be served, and why.

The rules and their order: diffusers' LoRA layout, the Hub's documentation of `base_model` and its relation
tags. A rule that decides leaves its evidence, because `GET /models/{id}` shows it to people.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from router.base_aliases import current_id
from router.hub_metadata import CardDefaults, HubMetadata
from router.weight_files import (
    MODEL_INDEX,
    PICKLED_LORA,
    STANDARD_NAMES,
    default_weight_file,
    has_pickled,
    weight_files,
    words_file_of,
    words_files,
)
from shared.errors import InvalidRequest
from shared.refs import RepoId, Revision, parse_repo_id

ADAPTER = "adapter"

_OTHER_KINDS = {
    "controlnet": "a ControlNet",
    "textual_inversion": "a textual inversion (a learned word)",
    "textual-inversion": "a textual inversion (a learned word)",
    "ip-adapter": "an IP-Adapter",
    "embeddings": "a set of embeddings",
    "gguf": "a model in GGUF files",
}
_LORA_TAGS = ("lora", "template:sd-lora", "template:diffusion-lora")
_IMAGE_TAGS = frozenset({"diffusers", "text-to-image", "image-to-image", "stable-diffusion", "flux"})
_LANGUAGE_LIBRARIES = ("transformers", "sentence-transformers", "adapter-transformers")
_ADDRESSES = ("https://huggingface.co/", "http://huggingface.co/", "https://hf.co/", "huggingface.co/")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraAdapter:
    """An adapter.

    Attributes:
        bases: what it stands on, in the order in which they were named; never empty.
        weight_files: what a request may name; never empty.
        weight_name: the file that is meant when none is named; None when the request has to choose.
        restricted: only for callers whose own token opens the files.
        defaults: what the card recommends.
        trigger: words that the card says to put into the prompt.
    """

    repo: RepoId
    revision: Revision
    bases: tuple[RepoId, ...]
    weight_files: tuple[str, ...]
    weight_name: str | None
    restricted: bool
    defaults: CardDefaults
    trigger: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FullModel:
    """A model that stands alone: a base, if a pool serves it."""

    repo: RepoId
    revision: Revision
    pipeline_class: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsupported:
    """Nothing that can be served. `reason` is for people."""

    repo: RepoId
    revision: Revision
    reason: str
    evidence: tuple[str, ...]


Classification = LoraAdapter | FullModel | Unsupported


def classify(metadata: HubMetadata) -> Classification:
    """Say what the repository is. The first rule that applies decides."""
    if full := _full_model_signs(metadata):
        return FullModel(
            repo=metadata.repo,
            revision=metadata.revision,
            pipeline_class=metadata.pipeline_class,
            evidence=full,
        )
    signs = _adapter_signs(metadata)
    if (kind := _other_kind(metadata)) and not _says_lora(metadata):
        return _unsupported(metadata, f"it is {kind[0]}; only LoRA adapters are served", (kind[1],))
    if not signs:
        reason = "it is neither an adapter (no tag 'lora', no adapter relation) nor a full diffusers model"
        return _unsupported(metadata, reason, ("no sign of either among tags and files",))
    if language := _language_signs(metadata):
        return _unsupported(metadata, "it is an adapter of a language model", language)
    return _adapter(metadata, signs)


def _adapter(metadata: HubMetadata, signs: tuple[str, ...]) -> Classification:
    bases, base_evidence = _bases(metadata)
    if not bases:
        reason = "it does not say which base it stands on: its card needs 'base_model: organisation/name'"
        return _unsupported(metadata, reason, signs)
    named = weight_files(metadata.files)
    if not named:
        reason = (
            "its weights are pickled, and only .safetensors is opened"
            if has_pickled(metadata.files)
            else "it holds no .safetensors file"
        )
        return _unsupported(metadata, reason, signs)
    chosen = default_weight_file(metadata.files)
    return LoraAdapter(
        repo=metadata.repo,
        revision=metadata.revision,
        bases=bases,
        weight_files=named,
        weight_name=chosen,
        restricted=metadata.private or metadata.gated,
        defaults=metadata.defaults,
        trigger=metadata.trigger,
        evidence=(*signs, base_evidence, *_weights_evidence(chosen, named)),
    )


def _weights_evidence(chosen: str | None, named: Sequence[str]) -> tuple[str, ...]:
    words = words_files(named)
    if len(words) == len(named):
        return ("weights: none but learned words, which a request has to name",)
    several = "several files, none of a standard name"
    unclear = several if len(named) > 1 else f"perhaps {named[0]}, which a request has to name"
    weights = f"weights: {chosen or unclear}"
    if not words:
        return (weights,)
    if chosen is None:
        return weights, f"learned words: {', '.join(words)}, by the weights that a request names"
    if own := words_file_of(chosen, named):
        return weights, f"learned words: {own}, for prompts that say <s0>, <s1> and so on"
    return weights, f"learned words: {', '.join(words)}; names do not tell which are those of the weights"


def _unsupported(metadata: HubMetadata, reason: str, evidence: tuple[str, ...]) -> Unsupported:
    return Unsupported(repo=metadata.repo, revision=metadata.revision, reason=reason, evidence=evidence)


def _full_model_signs(metadata: HubMetadata) -> tuple[str, ...]:
    """A pipeline is a full model even if someone tagged it 'lora': merged checkpoints often are."""
    signs = []
    if MODEL_INDEX in metadata.files:
        signs.append(f"file {MODEL_INDEX}")
    if metadata.pipeline_class.endswith("Pipeline"):
        signs.append(f"pipeline class {metadata.pipeline_class}")
    return tuple(signs)


def _adapter_signs(metadata: HubMetadata) -> tuple[str, ...]:
    signs = [f"tag {tag}" for tag in _LORA_TAGS if tag in metadata.tags]
    if metadata.hub_relation == ADAPTER or any(relation == ADAPTER for relation, _ in metadata.tag_bases):
        signs.append("relation adapter")
    signs += [f"file {name}" for name in STANDARD_NAMES if name in metadata.files]
    if PICKLED_LORA in metadata.files:
        signs.append(f"file {PICKLED_LORA}")
    return tuple(signs)


def _says_lora(metadata: HubMetadata) -> bool:
    return not metadata.tags.isdisjoint(_LORA_TAGS) or "pytorch_lora_weights.safetensors" in metadata.files


def _other_kind(metadata: HubMetadata) -> tuple[str, str] | None:
    """Return what else it is, and the sign of it; the Hub relates such repositories as adapters, too."""
    if metadata.pipeline_class.startswith("ControlNet"):
        return "a ControlNet", f"class {metadata.pipeline_class}"
    for tag, kind in _OTHER_KINDS.items():
        if tag in metadata.tags:
            return kind, f"tag {tag}"
    return None


def _language_signs(metadata: HubMetadata) -> tuple[str, ...]:
    """Signs of a language adapter; none of them counts beside a sign of images.

    PEFT's library name and its adapter_config.json are no such signs: image adapters have them, too.
    """
    is_image = (
        not metadata.tags.isdisjoint(_IMAGE_TAGS)
        or metadata.library == "diffusers"
        or "-to-image" in metadata.pipeline_tag
        or "-to-video" in metadata.pipeline_tag
    )
    if is_image:
        return ()
    signs = []
    if metadata.library in _LANGUAGE_LIBRARIES:
        signs.append(f"library {metadata.library}")
    if metadata.peft_task:
        signs.append(f"PEFT task {metadata.peft_task}")
    if "text" in metadata.pipeline_tag:
        signs.append(f"pipeline tag {metadata.pipeline_tag}")
    return tuple(signs)


def _bases(metadata: HubMetadata) -> tuple[tuple[RepoId, ...], str]:
    """Return the bases of the first source that names any, and which source that was."""
    tagged_adapter = [base for relation, base in metadata.tag_bases if relation == ADAPTER]
    sources: tuple[tuple[str, Iterable[str]], ...] = (
        ("the Hub's baseModels", metadata.hub_bases),
        ("tag base_model:adapter", tagged_adapter),
        ("the card's base_model", metadata.card_bases),
        ("the PEFT configuration", (metadata.peft_base,)),
        ("tag base_model", (base for _, base in metadata.tag_bases)),
    )
    for source, texts in sources:
        if bases := _valid_ids(texts):
            return bases, f"base {', '.join(bases)}: from {source}"
    return (), ""


def _valid_ids(texts: Iterable[str]) -> tuple[RepoId, ...]:
    """Return the texts that are repository ids; cards also hold local paths and addresses."""
    found: dict[RepoId, None] = {}
    for text in texts:
        address = next((address for address in _ADDRESSES if text.startswith(address)), "")
        try:
            found[current_id(parse_repo_id(text.removeprefix(address).strip("/ ")))] = None
        except InvalidRequest:
            continue
    return tuple(found)
