"""A commit's files and folders as the Hub lists them. Pure."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from deploy.local_hub.hosted import HostedRepo, RepoFile, Snapshot
from deploy.local_hub.metadata import timestamp


def list_tree(
    repo: HostedRepo, folder: str, *, recursive: bool, expand: bool
) -> list[dict[str, object]] | None:
    """Return what a folder holds, the root being ``""``; None if there is no such folder."""
    snapshot = repo.snapshot
    if folder and folder not in snapshot.folders:
        return None
    inside = PurePosixPath(folder)
    paths = [
        path
        for path in sorted((*snapshot.files, *snapshot.folders))
        if (inside in PurePosixPath(path).parents if recursive else PurePosixPath(path).parent == inside)
    ]
    return paths_info(repo, paths, expand=expand)


def paths_info(repo: HostedRepo, paths: Iterable[str], *, expand: bool) -> list[dict[str, object]]:
    """Return the entries of `paths`; those that do not exist are left out."""
    entries = [entry for path in paths if (entry := _entry(repo.snapshot, path))]
    if expand:
        commit = {
            "id": repo.snapshot.commit,
            "title": "Current contents",
            "date": timestamp(repo.snapshot.modified_at),
        }
        entries = [{**entry, "lastCommit": commit} for entry in entries]
    return entries


def _entry(snapshot: Snapshot, path: str) -> dict[str, object] | None:
    if (file := snapshot.files.get(path)) is not None:
        return _file_entry(file)
    if (oid := snapshot.folders.get(path)) is not None:
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    return None


def _file_entry(file: RepoFile) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.sha256 is not None:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry
