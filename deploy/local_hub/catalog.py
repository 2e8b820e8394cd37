"""The root folder read as a Hub: which repositories there are, under which names, and who is known."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from deploy.local_hub.hosted import HostedRepo, RepoFile
from deploy.local_hub.repository import OpenFile, Repository, UnsettledError
from deploy.local_hub.settings import RepoSettings, SettingsError, parse_tokens
from deploy.local_hub.stamps import WatchedFile
from shared.errors import InvalidRequest
from shared.refs import RepoId, parse_repo_id

TOKENS_FILE = ".hub-tokens.yaml"


class Catalog:
    """All repositories under one root, `<root>/<organisation>/<name>`. Methods block."""

    def __init__(self, root: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._root = root
        self._clock_ns = clock_ns
        self._tokens = WatchedFile(root / TOKENS_FILE, parse_tokens, clock_ns)
        self._repositories: dict[str, Repository] = {}

    def prepare(self) -> None:
        """Read all files once, so that no request has to wait for that.

        Raises:
            SettingsError: there is no such root, or a settings file is wrong.
        """
        if not self._root.is_dir():
            raise SettingsError(f"no such folder: {self._root}")
        self.tokens()
        for repo_id in self._ids():
            repository = self._repository(repo_id)
            repository.settings()
            with suppress(UnsettledError):
                repository.read()

    def tokens(self) -> Mapping[str, str]:
        """Return the user of every token.

        Raises:
            SettingsError: the tokens' file is wrong.
        """
        try:
            return self._tokens.read()
        except SettingsError as error:
            raise SettingsError(f"{TOKENS_FILE}: {error}") from error

    def find(self, name: str) -> HostedRepo | None:
        """Return the repository of that name, of that former name, or of that name in other case.

        The Hub answers for all three; where the result's id is another than `name`, by a redirect.
        """
        for repo_id in self._exact(name):
            return self._repository(repo_id).read()
        folded = name.lower()
        for repo_id in self._ids():
            repository = self._repository(repo_id)
            if folded in names_of(repo_id, repository.settings()):
                return repository.read()
        return None

    def all(self) -> Iterator[HostedRepo]:
        """Yield every repository, by name."""
        for repo_id in self._ids():
            yield self._repository(repo_id).read()

    def open(self, repo: HostedRepo, file: RepoFile) -> OpenFile:
        """Open a file of a repository for reading.

        Raises:
            FileChangedError: it is no longer the version that was listed.
        """
        return self._repository(repo.id).open(file)

    def _exact(self, name: str) -> Iterator[RepoId]:
        try:
            repo_id = parse_repo_id(name)
        except InvalidRequest:
            return
        if self._folder(repo_id).is_dir():
            yield repo_id

    def _ids(self) -> Iterator[RepoId]:
        for folder in sorted(self._root.glob("*/*")):
            yield from self._exact(f"{folder.parent.name}/{folder.name}")

    def _folder(self, repo_id: RepoId) -> Path:
        organisation, name = repo_id.split("/")
        return self._root / organisation / name

    def _repository(self, repo_id: RepoId) -> Repository:
        known = self._repositories.get(repo_id)
        if known is None:
            made = Repository(repo_id, self._folder(repo_id), self._clock_ns)
            known = self._repositories.setdefault(repo_id, made)
        return known


def names_of(repo_id: RepoId, settings: RepoSettings) -> frozenset[str]:
    """Return all names that lead to a repository, in lower case."""
    return frozenset(map(str.lower, (repo_id, *settings.renamed_from)))
