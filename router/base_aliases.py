"""Bases that moved: cards name the old id, workers serve the new one."""

from collections.abc import Mapping
from types import MappingProxyType

from shared.refs import RepoId

MOVED: Mapping[str, RepoId] = MappingProxyType(
    {
        # Deleted in 2024 without a redirect; diffusers' own default is the mirror now.
        "runwayml/stable-diffusion-v1-5": RepoId("stable-diffusion-v1-5/stable-diffusion-v1-5"),
        "runwayml/stable-diffusion-inpainting": RepoId("stable-diffusion-v1-5/stable-diffusion-inpainting"),
        "botp/stable-diffusion-v1-5": RepoId("stable-diffusion-v1-5/stable-diffusion-v1-5"),
        "benjamin-paine/stable-diffusion-v1-5": RepoId("stable-diffusion-v1-5/stable-diffusion-v1-5"),
    }
)
"""Old id in lower case -> the id that is served. Facts about public repositories, not settings."""


def current_id(repo: RepoId) -> RepoId:
    """Return the id that `repo` is known by today."""
    return MOVED.get(repo.lower(), repo)


def same_base(one: RepoId, other: RepoId) -> bool:
    """Whether two ids mean the same base; the Hub's ids are not case-sensitive."""
    return current_id(one).lower() == current_id(other).lower()
