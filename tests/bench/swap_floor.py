"""What a swap cannot do without, by itself: its weights copied, its factors multiplied."""

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor

from worker.engine.adapter import CanonicalAdapter
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.matrices import Product

PRODUCTS_NBYTES = 64 << 20
"""Of float32 that a GPU multiplies in one launch: one for each weight would be a measure of launches."""

Stack = tuple[Tensor, Tensor]
"""The factors of same-shaped weights, `[weights, rows, rank]` and `[weights, rank, columns]`."""


class Floor:
    """Does that for one adapter. All that it needs is made, moved to the device and touched before."""

    def __init__(self, engine: DiffusersEngine, adapter: CanonicalAdapter) -> None:
        self._weights = [engine._targets.weights[name] for name in adapter.changes]
        self._beside = [weight.clone() for weight in self._weights]
        device = self._weights[0].device
        products = [delta.low_rank for parts in adapter.changes.values() for delta in parts]
        at_once = PRODUCTS_NBYTES if device.type == "cuda" else 0
        self._stacks = list(_stacks((each for each in products if each), device, at_once))
        self._results = {
            shape: torch.zeros(shape, device=device)
            for shape in {(len(ups), ups.shape[1], downs.shape[2]) for ups, downs in self._stacks}
        }

    @property
    def nbytes(self) -> int:
        """Of the weights: a copy reads and writes as many."""
        return sum(weight.nbytes for weight in self._weights)

    def copy(self) -> None:
        """Copy the weights that the adapter changes: all that memory has to do."""
        torch._foreach_copy_(self._beside, self._weights)

    @torch.no_grad()
    def multiply(self) -> None:
        """Multiply the factors of each weight: all that the arithmetic has to do."""
        for ups, downs in self._stacks:
            result = self._results[len(ups), ups.shape[1], downs.shape[2]]
            torch.bmm(ups.float(), downs.float(), out=result)


def _stacks(products: Iterable[Product], device: torch.device, at_once: int) -> Iterator[Stack]:
    """Give the factors on `device`, of as many weights together as have products of `at_once` bytes."""

    def shape(product: Product) -> tuple[int, ...]:
        return *product.shape, product.rank

    for (rows, columns, _), same in groupby(sorted(products, key=shape), key=shape):
        group = list(same)
        size = max(1, at_once // (4 * rows * columns))
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            yield (
                torch.stack([each.up.to(device) for each in batch]),
                torch.stack([each.down.to(device) for each in batch]),
            )
