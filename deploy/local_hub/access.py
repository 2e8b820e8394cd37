"""Who may see what. Pure."""

from collections.abc import Mapping

from deploy.local_hub.refusals import (
    Refusal,
    bad_credentials,
    disabled,
    gated,
    repo_missing,
)
from deploy.local_hub.settings import RepoSettings
from shared.refs import RepoId


def identify(authorization: str | None, tokens: Mapping[str, str]) -> str | Refusal | None:
    """Return the user whose token an `Authorization` header carries; None without a header."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and (user := tokens.get(token.strip())):
        return user
    return bad_credentials()


def may_see(repo: RepoId, settings: RepoSettings, viewer: str | None) -> bool:
    """Say whether the viewer learns that the repository exists."""
    return not settings.private or _is_let_in(repo, settings, viewer)


def refuse_metadata(repo: RepoId, settings: RepoSettings, viewer: str | None) -> Refusal | None:
    """Return why the viewer may not read a repository's metadata, if so.

    A gate keeps nobody from metadata and file lists, as on the Hub.
    """
    if not may_see(repo, settings, viewer):
        return repo_missing(viewer)
    return disabled() if settings.disabled else None


def refuse_files(repo: RepoId, settings: RepoSettings, viewer: str | None) -> Refusal | None:
    """Return why the viewer may not read a repository's files, if so."""
    if refusal := refuse_metadata(repo, settings, viewer):
        return refusal
    if settings.gated and not _is_let_in(repo, settings, viewer):
        return gated(repo, viewer)
    return None


def _is_let_in(repo: RepoId, settings: RepoSettings, viewer: str | None) -> bool:
    return viewer is not None and (viewer in settings.allowed_users or repo.split("/")[0] == viewer)
