"""The ways the Hub says no, in the words that its client looks for (`hf_raise_for_status`). Pure."""

from dataclasses import dataclass

from shared.refs import RepoId


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An answer other than the one asked for."""

    status: int
    message: str
    code: str | None = None
    commit: str | None = None
    retry_after_s: int | None = None


class RefusedError(Exception):
    """The request ends with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def bad_credentials() -> Refusal:
    """A token was sent that belongs to nobody."""
    return Refusal(status=401, message="Invalid credentials in Authorization header")


def login_required() -> Refusal:
    """The route is only for those who show a token."""
    return Refusal(status=401, message="Invalid username or password.")


def repo_missing(viewer: str | None) -> Refusal:
    """The repository does not exist, or the viewer must not learn that it does."""
    if viewer is None:
        # The Hub sends no code here and the client infers it, but only from an https address.
        return Refusal(status=401, message="Invalid username or password.", code="RepoNotFound")
    return Refusal(status=404, message="Repository not found", code="RepoNotFound")


def disabled() -> Refusal:
    """The repository was taken off the Hub; the client knows the case by this very sentence."""
    return Refusal(status=403, message="Access to this resource is disabled.")


def gated(repo: RepoId, viewer: str | None) -> Refusal:
    """The viewer has not been let in."""
    if viewer is None:
        message = (
            f"Access to model {repo} is restricted. You must have access to it and be authenticated "
            "to access it. Please log in."
        )
        return Refusal(status=401, message=message, code="GatedRepo")
    message = f"Access to model {repo} is restricted and you are not in the authorized list."
    return Refusal(status=403, message=message, code="GatedRepo")


def revision_missing(revision: str) -> Refusal:
    """The repository has no such branch or commit, or has it no longer."""
    return Refusal(status=404, message=f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_missing(commit: str) -> Refusal:
    """The commit has no such file; naming the commit lets the client remember that."""
    return Refusal(status=404, message="Entry not found", code="EntryNotFound", commit=commit)


def bad_request(message: str) -> Refusal:
    """A parameter has no meaning."""
    return Refusal(status=400, message=message)


def rate_limited(retry_after_s: int) -> Refusal:
    """The caller's requests of this window are spent."""
    message = "We had to rate limit you. Try again later."
    return Refusal(status=429, message=message, retry_after_s=retry_after_s)


def unsettled() -> Refusal:
    """The repository's files are being written at this moment."""
    return Refusal(status=503, message="The repository is being written to.", retry_after_s=1)
