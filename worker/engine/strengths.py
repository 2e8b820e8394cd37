"""How strongly an adapter counts: in which part of the base, at which step. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from shared.refs import AdapterRef

ANY = "*"

Blocks = tuple[tuple[str, float], ...]
"""Factors by the beginning of a weight's name, as in `AdapterRef.blocks`."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Strength:
    """What an adapter is wanted at: a number, and factors of it for parts of the base."""

    scale: float
    blocks: Blocks = ()

    @property
    def most(self) -> float:
        """The largest absolute value that any weight may get."""
        return abs(self.scale) * max([1.0, *(abs(factor) for _, factor in self.blocks)])

    def of(self, weight: str) -> float:
        """Return what counts for a weight, by its name."""
        if not self.blocks:
            return self.scale
        lengths = [(path.count("."), factor) for path, factor in self.blocks if is_within(weight, path)]
        return self.scale * (max(lengths, key=lambda found: found[0])[1] if lengths else 1.0)


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


def is_within(weight: str, path: str) -> bool:
    """Whether a weight's name begins with the parts of `path`."""
    wanted, parts = path.split("."), weight.split(".")
    return len(wanted) <= len(parts) and all(
        want in {ANY, part} for want, part in zip(wanted, parts, strict=False)
    )


def unknown_path(blocks: Blocks, weights: Iterable[str]) -> str | None:
    """Return the first path that no weight lies in; None when all mean something."""
    names = tuple(weights)
    return next((path for path, _ in blocks if not any(is_within(name, path) for name in names)), None)
