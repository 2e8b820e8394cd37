import pytest

from deploy.local_hub.access import identify, may_see, refuse_files, refuse_metadata
from deploy.local_hub.settings import RepoSettings
from shared.refs import RepoId

REPO = RepoId("someone/crayon")
TOKENS = {"hf_a": "alice"}
ALICE_ONLY = frozenset({"alice"})
PUBLIC = RepoSettings()
PRIVATE = RepoSettings(private=True, allowed_users=ALICE_ONLY)
GATED = RepoSettings(gated="auto", allowed_users=ALICE_ONLY)
DISABLED = RepoSettings(disabled=True, allowed_users=ALICE_ONLY)
PRIVATE_AND_DISABLED = RepoSettings(private=True, disabled=True)

OPEN = (None, None)
MISSING_401, MISSING_404 = (401, "RepoNotFound"), (404, "RepoNotFound")
GATED_401, GATED_403 = (401, "GatedRepo"), (403, "GatedRepo")
DISABLED_403 = (403, None)


def outcome(refusal):
    return (refusal.status, refusal.code) if refusal else OPEN


@pytest.mark.parametrize(
    ("settings", "viewer", "metadata", "files"),
    [
        (PUBLIC, None, OPEN, OPEN),
        (PUBLIC, "bob", OPEN, OPEN),
        (PRIVATE, None, MISSING_401, MISSING_401),
        (PRIVATE, "bob", MISSING_404, MISSING_404),
        (PRIVATE, "alice", OPEN, OPEN),
        (PRIVATE, "someone", OPEN, OPEN),
        (GATED, None, OPEN, GATED_401),
        (GATED, "bob", OPEN, GATED_403),
        (GATED, "alice", OPEN, OPEN),
        (GATED, "someone", OPEN, OPEN),
        (DISABLED, None, DISABLED_403, DISABLED_403),
        (DISABLED, "alice", DISABLED_403, DISABLED_403),
        (PRIVATE_AND_DISABLED, "bob", MISSING_404, MISSING_404),
    ],
)
def test_access_depends_on_settings_and_viewer(settings, viewer, metadata, files):
    assert outcome(refuse_metadata(REPO, settings, viewer)) == metadata
    assert outcome(refuse_files(REPO, settings, viewer)) == files


def test_a_private_repository_is_seen_by_those_let_in():
    assert may_see(REPO, PRIVATE, "alice")
    assert not may_see(REPO, PRIVATE, None)
    assert may_see(REPO, GATED, None)


def test_a_disabled_repository_is_refused_in_the_words_the_client_knows():
    refusal = refuse_files(REPO, DISABLED, None)

    assert refusal is not None
    assert refusal.message == "Access to this resource is disabled."


@pytest.mark.parametrize(
    ("header", "user"), [(None, None), ("Bearer hf_a", "alice"), ("bearer  hf_a ", "alice")]
)
def test_a_token_names_its_user(header, user):
    assert identify(header, TOKENS) == user


@pytest.mark.parametrize("header", ["Bearer hf_b", "Bearer", "Basic hf_a", "hf_a", ""])
def test_other_credentials_are_refused_in_the_words_the_client_knows(header):
    refusal = identify(header, TOKENS)

    assert refusal is not None
    assert not isinstance(refusal, str)
    assert refusal.status == 401
    assert refusal.message == "Invalid credentials in Authorization header"
