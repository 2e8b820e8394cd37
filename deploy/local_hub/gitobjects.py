"""The names git gives to contents, so that clients see the same kind of ids as on the Hub."""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath

LFS_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".gguf", ".gif", ".jpeg", ".jpg", ".mp4", ".msgpack", ".onnx", ".png"}
    | {".pt", ".pth", ".safetensors", ".webp"}
)


def is_lfs(path: str) -> bool:
    """Say whether the Hub keeps such a file outside git, known there by its sha256."""
    return PurePosixPath(path).suffix.lower() in LFS_SUFFIXES


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the small text that git holds in place of a large file (git-lfs specification v1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def object_oid(kind: str, content: bytes) -> str:
    """Return the id of a git object: the sha1 of its header and content."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def tree_oids(blobs: Mapping[str, str]) -> dict[str, str]:
    """Return the tree id of every folder that holds one of `blobs` (path to id); the root is ``""``."""
    children: dict[PurePosixPath, dict[str, tuple[bytes, str]]] = {PurePosixPath(): {}}
    for path, oid in blobs.items():
        file = PurePosixPath(path)
        for folder in file.parents:
            children.setdefault(folder, {})
        children[file.parent][file.name] = (b"100644", oid)
    oids: dict[str, str] = {}
    for folder in sorted(children, key=lambda path: len(path.parts), reverse=True):
        oid = object_oid("tree", _tree_content(children[folder]))
        oids["" if folder == PurePosixPath() else str(folder)] = oid
        if folder != PurePosixPath():
            children[folder.parent][folder.name] = (b"40000", oid)
    return oids


def commit_oid(tree: str) -> str:
    """Return the id of a commit of `tree` that depends on nothing else: no author, no time."""
    person = "local hub <local-hub> 0 +0000"
    content = f"tree {tree}\nauthor {person}\ncommitter {person}\n\nCurrent contents\n"
    return object_oid("commit", content.encode())


def _tree_content(entries: Mapping[str, tuple[bytes, str]]) -> bytes:
    # Git orders a folder as if its name ended with a slash.
    encoded = sorted(
        (_encode(name) + (b"/" if mode == b"40000" else b""), mode, _encode(name), bytes.fromhex(oid))
        for name, (mode, oid) in entries.items()
    )
    return b"".join(mode + b" " + name + b"\0" + oid for _, mode, name, oid in encoded)


def _encode(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
