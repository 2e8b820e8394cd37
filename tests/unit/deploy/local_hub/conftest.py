"""Repositories as values."""

from collections.abc import Callable, Mapping

import pytest

from deploy.local_hub.documents import Documents
from deploy.local_hub.gitobjects import commit_oid, tree_oids
from deploy.local_hub.hosted import HostedRepo, RepoFile, Snapshot
from deploy.local_hub.settings import RepoSettings
from deploy.local_hub.stamps import Stamp
from shared.refs import RepoId

NOVEMBER_2023_NS = 1_700_000_000_000_000_000


def a_file(path: str, number: int) -> RepoFile:
    sha256 = f"{number:064x}" if path.endswith(".safetensors") else None
    stamp = Stamp(inode=number, size=100 + number, modified_ns=NOVEMBER_2023_NS + number, changed_ns=0)
    return RepoFile(path=path, oid=f"{number:040x}", sha256=sha256, stamp=stamp)


@pytest.fixture
def a_repo() -> Callable[..., HostedRepo]:
    def build(
        repo_id: str = "someone/crayon",
        *,
        card: Mapping[str, object] | None = None,
        files: tuple[str, ...] = (),
        settings: RepoSettings | None = None,
        **documents: Mapping[str, object],
    ) -> HostedRepo:
        by_path = {path: a_file(path, number) for number, path in enumerate(sorted(files), start=1)}
        folders = tree_oids({path: file.oid for path, file in by_path.items()})
        commit = commit_oid(folders.pop(""))
        return HostedRepo(
            id=RepoId(repo_id),
            settings=settings or RepoSettings(),
            snapshot=Snapshot(commit=commit, files=by_path, folders=folders),
            documents=Documents(card=card, **documents),
        )

    return build
