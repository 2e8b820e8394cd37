from datetime import UTC, datetime, timedelta, timezone

import pytest

from deploy.local_hub.settings import (
    RepoSettings,
    SettingsError,
    parse_repo_settings,
    parse_tokens,
)

EVERYTHING = """
private: true
gated: manual
disabled: true
renamed_from: [old/name, crayon]
allowed_users: [alice]
created_at: 2023-11-09T00:34:02Z
downloads: 12
likes: 3
"""


def test_every_setting_is_read():
    assert parse_repo_settings(EVERYTHING) == RepoSettings(
        private=True,
        gated="manual",
        disabled=True,
        renamed_from=("old/name", "crayon"),
        allowed_users=frozenset({"alice"}),
        created_at=datetime(2023, 11, 9, 0, 34, 2, tzinfo=UTC),
        downloads=12,
        likes=3,
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "gated: false", "private: false"])
def test_every_setting_is_optional(text):
    assert parse_repo_settings(text) == RepoSettings()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2024-01-02", datetime(2024, 1, 2, tzinfo=UTC)),
        ("2024-01-02 03:04:05", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("'2024-01-02T03:04:05+02:00'", datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_a_time_may_be_written_in_several_ways(written, meant):
    assert parse_repo_settings(f"created_at: {written}").created_at == meant


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("privat: true", "unknown key: privat"),
        ("private: 1", "private: expected true or false"),
        ("disabled: maybe", "disabled: expected true or false"),
        ("gated: true", "gated: expected auto or manual"),
        ("gated: always", "gated: expected auto or manual"),
        ("renamed_from: old/name", "renamed_from: expected a list"),
        ("allowed_users: [1]", "allowed_users: expected a list"),
        ("created_at: yesterday", "created_at: expected a date"),
        ("created_at: 7", "created_at: expected a date"),
        ("likes: -1", "likes: expected a number"),
        ("downloads: true", "downloads: expected a number"),
        ("- private", "expected a mapping"),
        ("1: 2", "expected a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_setting_is_named(text, complaint):
    with pytest.raises(SettingsError, match=complaint):
        parse_repo_settings(text)


def test_tokens_belong_to_users():
    assert parse_tokens("hf_a: alice\nhf_b: bob\n") == {"hf_a": "alice", "hf_b": "bob"}
    assert parse_tokens("") == {}


def test_a_wrong_token_is_not_repeated_in_the_complaint():
    with pytest.raises(SettingsError, match="entry 2: a token maps to a user name"):
        parse_tokens("hf_a: alice\nhf_secret: [bob]\n")
