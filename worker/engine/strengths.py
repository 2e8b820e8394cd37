"""How strongly an adapter counts: in which part of the base, at which step. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.refs import AdapterRef

ANY = "*"

Blocks = tuple[tuple[str, float], ...]
"""Factors by the beginning of a weight's name, as in `AdapterRef.blocks`."""

Parts = tuple[str, ...]
"""A weight's name, split at its dots."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Strength:
    """What an adapter is wanted at: a number, and factors of it for parts of the base."""

    scale: float
    blocks: Blocks = ()

    @property
    def most(self) -> float:
        """The largest absolute value that any weight may get."""
        return abs(self.scale) * max([1.0, *(abs(factor) for _, factor in self.blocks)])


def strength_at(ref: AdapterRef, progress: float) -> Strength:
    """Return the strength of an adapter at a fraction of the denoising steps.

    Args:
        ref: the adapter with its schedule.
        progress: steps done, as a fraction of all.
    """
    factor = 1.0
    for begin, value in ref.schedule:
        if begin <= progress:
            factor = value
    return Strength(scale=ref.scale * factor, blocks=ref.blocks)


def factors_of(blocks: Blocks, weights: Mapping[str, Parts]) -> dict[str, float]:
    """Return the factors of the weights that lie in a block; of several, that of the longest path."""
    factors: dict[str, float] = {}
    for path, factor in sorted(blocks, key=lambda block: block[0].count("."), reverse=True):
        wanted = path.split(".")
        for name, parts in weights.items():
            if _is_within(parts, wanted):
                factors.setdefault(name, factor)
    return factors


def parts_of(weights: Iterable[str]) -> dict[str, Parts]:
    """Return the parts of each weight's name."""
    return {name: tuple(name.split(".")) for name in weights}


def unknown_path(blocks: Blocks, weights: Mapping[str, Parts]) -> str | None:
    """Return the first path that no weight lies in; None when all mean something."""
    return next((path for path, _ in blocks if not _is_known(path.split("."), weights)), None)


def _is_known(path: Sequence[str], weights: Mapping[str, Parts]) -> bool:
    return any(_is_within(parts, path) for parts in weights.values())


def _is_within(parts: Parts, path: Sequence[str]) -> bool:
    """Whether a weight's name begins with the parts of a path."""
    return len(path) <= len(parts) and all(
        want in {ANY, part} for want, part in zip(path, parts, strict=False)
    )
