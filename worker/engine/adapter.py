"""An adapter in the one form that is applied: pairs of factors, by weight of the base."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """A change of one weight: `scale * up @ down`.

    Attributes:
        up: `[out, rank]`.
        down: `[rank, in]`; for a convolution, `in` is input channels times kernel.
        scale: alpha and rank folded into one number.
    """

    up: Tensor
    down: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.up.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class CanonicalAdapter:
    """A validated adapter of one base.

    Attributes:
        digest: SHA-256 of the weight file.
        nbytes: bytes of RAM; the factors are views of the file's bytes.
        changes: the factors of each weight; several where tied modules share the weight.
        reach: no element of a weight changes by more than this at strength 1.
    """

    digest: str
    nbytes: int
    changes: Mapping[str, tuple[Factors, ...]]
    reach: float
