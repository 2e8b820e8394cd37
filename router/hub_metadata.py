"""What the router uses of the Hub's description of a repository, read from JSON that may hold anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from shared.errors import InvalidRequest, RepoForbidden, RepoNotFound
from shared.refs import RepoId, Revision, parse_repo_id, parse_revision

EXPAND = (
    "baseModels",
    "cardData",
    "config",
    "disabled",
    "gated",
    "library_name",
    "pipeline_tag",
    "private",
    "sha",
    "siblings",
    "tags",
)
"""The keys to ask the Hub for; with `expand` it returns these and `id` only."""

MAX_NUMBER = 1e6
"""A card's number above this is no recommendation (and may not fit a float)."""

MAX_TEXT = 1024
"""A text of more characters counts as absent: thousands of descriptions are remembered."""

MAX_TEXTS = 256
"""Tags beyond these, and bases, are overlooked for the same reason."""


MAX_CHARACTERS = 4096
"""Of all texts of one kind: those after them are overlooked, too."""

REVISION = "revision"
"""The field that is at fault where a repository has no such revision."""


class UnknownToken(RepoForbidden):
    """The Hub does not know the caller's token."""


def not_found(repo: RepoId) -> RepoNotFound:
    """A private repository cannot be told from a missing one; the Hub does not say."""
    return RepoNotFound(f"{repo}: not found, or private: send a token that may read it")


class UnreadableMetadata(ValueError):
    """The Hub's answer lacks what every repository has: an id and a commit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardDefaults:
    """Generation parameters that the card's `inference.parameters` recommends; None where it says nothing.

    Attributes:
        timestep_spacing: the option of that name that `scheduler` is made with.
        scale: strength of the adapter.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    timestep_spacing: str | None = None
    scale: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HubMetadata:
    """One repository at one commit.

    Attributes:
        repo: the current id, which differs from the one asked for after a rename.
        tags: the Hub's and the card's, lower case.
        files: paths of all files; the catalogue keeps those that tell what it is.
        pipeline_class: the diffusers class of `config`, empty if there is none.
        hub_relation: how the Hub relates the repository to `hub_bases`: `adapter`, `finetune`, ...
        hub_bases: current ids of the bases, as the Hub resolved them.
        tag_bases: bases that tags name, with the relation or with none: (`adapter`, `org/name`).
        card_bases: what the card says, as it stands there.
        peft_base: what the PEFT configuration says, as it stands there.
        trigger: the words that the card says to put into a prompt.
    """

    repo: RepoId
    revision: Revision
    private: bool
    gated: bool
    disabled: bool
    library: str
    pipeline_tag: str
    tags: frozenset[str]
    files: tuple[str, ...]
    pipeline_class: str
    hub_relation: str
    hub_bases: tuple[str, ...]
    tag_bases: tuple[tuple[str, str], ...]
    card_bases: tuple[str, ...]
    peft_base: str
    peft_task: str
    defaults: CardDefaults
    trigger: str


def completed(first: CardDefaults, second: CardDefaults | None) -> CardDefaults:
    """Return `first`, and from `second` what it leaves open. An option comes with its scheduler."""
    if second is None:
        return first
    scheduled = first if first.scheduler else second
    return CardDefaults(
        steps=first.steps or second.steps,
        guidance_scale=second.guidance_scale if first.guidance_scale is None else first.guidance_scale,
        scheduler=scheduled.scheduler,
        timestep_spacing=scheduled.timestep_spacing,
        scale=second.scale if first.scale is None else first.scale,
    )


def parse_metadata(document: object) -> HubMetadata:
    """Read the Hub's answer to `GET /api/models/{id}`.

    A field of an unexpected type or size counts as absent: cards are written by people.

    Raises:
        UnreadableMetadata: the answer has no id or no commit.
    """
    raw = _mapping(document)
    try:
        repo, revision = parse_repo_id(_text(raw.get("id"))), parse_revision(_text(raw.get("sha")))
    except (InvalidRequest, ValueError) as error:
        raise UnreadableMetadata("the Hub's description of the repository has no id or no commit") from error
    card, config, bases = (_mapping(raw.get(key)) for key in ("cardData", "config", "baseModels"))
    tags = (*_texts(raw.get("tags")), *_texts(card.get("tags")))
    peft = _mapping(config.get("peft"))
    return HubMetadata(
        repo=repo,
        revision=revision,
        private=raw.get("private") is True,
        gated=bool(raw.get("gated")),
        disabled=raw.get("disabled") is True,
        library=_text(raw.get("library_name")) or _text(card.get("library_name")),
        pipeline_tag=_text(raw.get("pipeline_tag")) or _text(card.get("pipeline_tag")),
        tags=frozenset(tag.lower() for tag in tags),
        files=tuple(_text(_mapping(item).get("rfilename")) for item in _items(raw.get("siblings"))),
        pipeline_class=_text(_mapping(config.get("diffusers")).get("_class_name")) or _tagged_class(tags),
        hub_relation=_text(bases.get("relation")),
        hub_bases=_texts([_mapping(item).get("id") for item in _items(bases.get("models"))]),
        tag_bases=tuple(_base_of_tag(tag) for tag in tags if tag.startswith("base_model:")),
        card_bases=_texts(card.get("base_model")),
        peft_base=_text(peft.get("base_model_name_or_path")),
        peft_task=_text(peft.get("task_type")),
        defaults=_defaults(card),
        trigger=_text(card.get("instance_prompt")),
    )


def _defaults(card: Mapping[str, object]) -> CardDefaults:
    parameters = _mapping(_mapping(card.get("inference")).get("parameters"))
    scheduler = _text(parameters.get("scheduler"))
    steps = _number(parameters.get("num_inference_steps"))
    return CardDefaults(
        steps=int(steps) if steps and steps.is_integer() else None,
        guidance_scale=_number(parameters.get("guidance_scale")),
        scheduler=scheduler if scheduler.isidentifier() and scheduler.endswith("Scheduler") else None,
    )


def _tagged_class(tags: tuple[str, ...]) -> str:
    return next((tag.removeprefix("diffusers:") for tag in tags if tag.startswith("diffusers:")), "")


def _base_of_tag(tag: str) -> tuple[str, str]:
    """Split `base_model:adapter:org/name` or `base_model:org/name` into relation and id."""
    relation, colon, base = tag.removeprefix("base_model:").partition(":")
    return (relation, base) if colon else ("", relation)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) and len(value) <= MAX_TEXT else ""


def _texts(value: object) -> tuple[str, ...]:
    """Return a text or a list of texts as a tuple, within the limits, without the empty ones."""
    texts = [_text(item) for item in (value[:MAX_TEXTS] if isinstance(value, list) else [value])]
    return tuple(text for text in first_of(texts, MAX_CHARACTERS) if text)


def first_of(texts: Sequence[str], characters: int) -> tuple[str, ...]:
    """Return the first texts, as many as have so many characters together."""
    sums = accumulate(map(len, texts))
    return tuple(text for text, together in zip(texts, sums, strict=True) if together <= characters)


def _number(value: object) -> float | None:
    """Return a finite number that is not negative; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < MAX_NUMBER else None
