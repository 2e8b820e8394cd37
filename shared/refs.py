"""Identity of things on the Hub: repository ids, commits, and adapters pinned to both."""

import hashlib
import re
from dataclasses import dataclass
from typing import NewType

from shared.errors import InvalidRequest

RepoId = NewType("RepoId", str)
"""`organisation/name`, already validated."""

Revision = NewType("Revision", str)
"""A commit: 40 lower-case hexadecimal digits."""

BASE_TAG_LENGTH = 16

MAX_PART_LENGTH = 96
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REVISION = re.compile(r"[0-9a-f]{40}")


def parse_repo_id(text: str, field: str = "model") -> RepoId:
    """Return `text` as a repository id of the form `organisation/name`.

    The rules are the Hub's (`validate_repo_id` in huggingface_hub), so an id that could not exist is
    refused before any call is made, and no id can name a path.

    Raises:
        InvalidRequest: the id breaks a rule; the message says which.
    """
    parts = text.split("/")
    if len(parts) != 2:
        raise InvalidRequest(field, "a model id has the form 'organisation/name'")
    for part in parts:
        if len(part) > MAX_PART_LENGTH:
            raise InvalidRequest(field, f"each part has at most {MAX_PART_LENGTH} characters")
        if not _PART.fullmatch(part) or part[-1] in "-." or "--" in part or ".." in part:
            raise InvalidRequest(
                field,
                "each part consists of letters, digits, '_', '-' and '.', "
                "begins with a letter, a digit or '_', does not end with '-' or '.', "
                "and has no '--' or '..'",
            )
    if parts[1].endswith(".git"):
        raise InvalidRequest(field, "a model id does not end with '.git'")
    return RepoId(text)


def parse_revision(text: str) -> Revision:
    """Return `text` as a commit; a branch or tag name has to be resolved first.

    Raises:
        ValueError: `text` is not 40 hexadecimal digits.
    """
    if not _REVISION.fullmatch(text):
        raise ValueError(f"not a commit: {text!r}")
    return Revision(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRef:
    """One weight file of one commit of a repository, and the strength it is asked for.

    Attributes:
        scale: the strength.
        blocks: factors of it for parts of the base, by dotted path from the component on, where `*` stands
            for any name: `("unet.up_blocks.0", 0.5)`. The longest path that a layer begins with counts.
        schedule: factors of it from a fraction of the denoising steps on, ascending: `((0.5, 0.0),)` takes
            the adapter out half-way. Before the first it is 1.
    """

    repo: RepoId
    revision: Revision
    weight_name: str
    scale: float = 1.0
    blocks: tuple[tuple[str, float], ...] = ()
    schedule: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRef:
    """One file of a repository, at a branch, tag or commit; at the default branch when that is None."""

    repo: RepoId
    name: str
    revision: str | None = None


def parse_file_ref(text: str, field: str = "file") -> FileRef:
    """Return what `organisation/name/file` names, or `organisation/name@revision/file`.

    Raises:
        InvalidRequest: it has another form.
    """
    organisation, _, rest = text.partition("/")
    name, _, file = rest.partition("/")
    name, at, revision = name.partition("@")
    if not all(part not in {"", ".", ".."} for part in file.split("/")) or (at and not revision):
        raise InvalidRequest(
            field, "has the form 'organisation/name/file' or 'organisation/name@revision/file'"
        )
    return FileRef(repo=parse_repo_id(f"{organisation}/{name}", field), name=file, revision=revision or None)


def base_tag(base: str) -> str:
    """Return the tag of a base: 16 hexadecimal digits of the SHA-256 of its id.

    It stands in keys and job ids in the base's place, because it holds nothing that a user wrote.
    """
    return hashlib.sha256(base.encode()).hexdigest()[:BASE_TAG_LENGTH]
