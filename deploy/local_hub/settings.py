"""What the Hub knows of a repository besides its files, and who holds which token. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

import yaml

Gate = Literal["auto", "manual"]


class SettingsError(ValueError):
    """A settings file says something that has no meaning; the message names the key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepoSettings:
    """The content of `.hub.yaml`: what an owner sets on a repository's settings page."""

    private: bool = False
    gated: Gate | None = None
    disabled: bool = False
    renamed_from: tuple[str, ...] = ()
    allowed_users: frozenset[str] = frozenset()
    created_at: datetime | None = None
    downloads: int = 0
    likes: int = 0


def parse_repo_settings(text: str) -> RepoSettings:
    """Read `.hub.yaml`; every key is optional.

    Raises:
        SettingsError: a key is unknown or its value has the wrong type.
    """
    given = _mapping(text)
    if unknown := sorted(set(given) - set(RepoSettings.__dataclass_fields__)):
        raise SettingsError(f"unknown key: {', '.join(unknown)}")
    return RepoSettings(
        private=_flag(given, "private"),
        gated=_gate(given),
        disabled=_flag(given, "disabled"),
        renamed_from=_names(given, "renamed_from"),
        allowed_users=frozenset(_names(given, "allowed_users")),
        created_at=_moment(given, "created_at"),
        downloads=_count(given, "downloads"),
        likes=_count(given, "likes"),
    )


def parse_tokens(text: str) -> Mapping[str, str]:
    """Read `.hub-tokens.yaml`: token to user name.

    Raises:
        SettingsError: the file is no mapping of texts.
    """
    given = _mapping(text)
    for number, user in enumerate(given.values(), start=1):
        if not isinstance(user, str):
            raise SettingsError(f"entry {number}: a token maps to a user name")
    return {token: str(user) for token, user in given.items()}


def _mapping(text: str) -> dict[str, object]:
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError("not valid YAML") from error
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise SettingsError("expected a mapping with text keys")
    return given


def _flag(given: Mapping[str, object], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise SettingsError(f"{key}: expected true or false")
    return value


def _gate(given: Mapping[str, object]) -> Gate | None:
    match given.get("gated", False):
        case "auto" | "manual" as gate:
            return gate
        case False:
            return None
        case _:
            raise SettingsError("gated: expected auto or manual")


def _names(given: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = given.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SettingsError(f"{key}: expected a list of names")
    return tuple(value)


def _count(given: Mapping[str, object], key: str) -> int:
    value = given.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SettingsError(f"{key}: expected a number that is not negative")
    return value


def _moment(given: Mapping[str, object], key: str) -> datetime | None:
    value = given.get(key)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise SettingsError(f"{key}: expected a date") from error
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise SettingsError(f"{key}: expected a date")
    return value if value.tzinfo else value.replace(tzinfo=UTC)
