"""How far the changes that an adapter makes can reach, by the greatest magnitudes in its tensors alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.engine.adapter import Meaning
from worker.engine.contract import AdapterFault

LARGEST_PRODUCT = 1e30
"""Of numbers on the way to a change: float32 holds 3e38, and a strength is yet to come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How it depends on the peaks of an adapter's tensors, in their order; the same for files of one header.

    Attributes:
        names: of each change's weight.
        weights: the first change of each weight.
        factors: of each change, the place of the first tensor and that after the last, one behind the other.
        magnitudes: of each change, the place of its magnitude; where it has none the last one, after all
            tensors.
        terms: of each change's matrix.
        scales: of each change, without the sign.
    """

    names: Sequence[str]
    weights: NDArray[np.int64]
    factors: NDArray[np.int64]
    magnitudes: NDArray[np.int64]
    terms: NDArray[np.float64]
    scales: NDArray[np.float64]

    def at(self, peaks: NDArray[np.float64]) -> tuple[float, float]:
        """Return bounds on the change of any element: at strength 1 in proportion to it, and at any strength.

        A DoRA's weight is within its magnitude; what is inside the norm is bounded, too, as its squares are
        summed.

        Raises:
            AdapterFault: numbers on the way to a change could leave float32.
        """
        if not self.names:
            return 0.0, 0.0
        ended = np.append(peaks, 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            way = self.terms * self._products(np.maximum(ended, 1.0)) * np.maximum(self.scales, 1.0)
            too_large = ~(way <= LARGEST_PRODUCT)
            if too_large.any():
                raise AdapterFault(
                    f"{self.names[int(too_large.argmax())]}: its factors are too large to be multiplied"
                )
            changes = self.scales * self.terms * self._products(ended)
            proportional = np.add.reduceat(changes, self.weights)
            fixed = np.add.reduceat(ended[self.magnitudes], self.weights)
        return float(proportional.max()), float(fixed.max())

    def _products(self, peaks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return those of each change's factors."""
        # it reduces from each place to the next: every second one is what lies between two changes' factors
        products: NDArray[np.float64] = np.multiply.reduceat(peaks, self.factors)[::2]
        return products


def reach_of(meaning: Meaning) -> Reach:
    """Return how the reach of an adapter depends on the peaks of `meaning.tensors`."""
    deltas = [(name, delta) for name, deltas in meaning.changes.items() for delta in deltas]
    counts = np.array([len(delta.factors) for _, delta in deltas], dtype=np.int64)
    ends = counts.cumsum()
    of_matrix = np.array([len(delta.matrix.factors) for _, delta in deltas], dtype=np.int64)
    first = np.array([len(each) for each in meaning.changes.values()], dtype=np.int64)
    return Reach(
        names=[name for name, _ in deltas],
        weights=first.cumsum() - first,
        factors=np.stack([ends - counts, ends - counts + of_matrix], axis=1).ravel(),
        magnitudes=np.where(of_matrix < counts, ends - 1, -1),
        terms=np.array([delta.matrix.terms for _, delta in deltas], dtype=np.float64),
        scales=np.array([abs(delta.scale) for _, delta in deltas], dtype=np.float64),
    )
