"""Which weights a swap writes and which it copies back. Pure: names and numbers only."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from worker.engine.strengths import Blocks, Strength

AdapterKey = tuple[str, int]
"""The name of an adapter's file, which every process has for it, and the number of the reading of it."""

Mix = tuple[tuple[AdapterKey, Strength], ...]
"""Adapters, each with its strength, in the one order in which their changes are summed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwapPlan:
    """The weights to write as pristine plus their mix, and those to copy back to pristine."""

    write: tuple[str, ...]
    restore: tuple[str, ...]


def mix(wanted: Iterable[tuple[AdapterKey, Strength]]) -> Mix:
    """Return what `wanted` amounts to: equal adapters added up, those without effect left out.

    The same adapter with other factors for its blocks is another summand.

    Sums of floats depend on their order, so the order is fixed here: a request's picture does not depend
    on the order in which it names its adapters.
    """
    scales: dict[tuple[AdapterKey, Blocks], list[float]] = {}
    for key, strength in wanted:
        scales.setdefault((key, strength.blocks), []).append(strength.scale)
    sums = {part: math.fsum(parts) for part, parts in scales.items()}
    return tuple(
        (key, Strength(scale=total, blocks=blocks))
        for (key, blocks), total in sorted(sums.items())
        if total != 0.0
    )


def plan_swap(active: Mix, wanted: Mix, weights_of: Mapping[AdapterKey, Collection[str]]) -> SwapPlan:
    """Plan the way from `active` to `wanted`; `weights_of` names the weights that an adapter changes.

    All weights of `wanted` are written, also those whose part of the mix stays the same: weights are
    computed in batches, and the last bit of one may depend on what stands beside it in its batch. So what
    a weight becomes depends on `wanted` alone, never on what was active before.
    """
    if active == wanted:
        return SwapPlan(write=(), restore=())
    touched = {weight for key, _ in active for weight in weights_of[key]}
    write = {weight for key, _ in wanted for weight in weights_of[key]}
    return SwapPlan(write=tuple(sorted(write)), restore=tuple(sorted(touched - write)))
