"""The base's weights: what they were, and how a swap changes them.

A weight is always computed from its pristine copy, `W = W0 + sum(strength * scale * up @ down)`, in
float32 and rounded once, and copied into the storage that the model already uses. Nothing is ever
subtracted, so nothing drifts; no module is added, so a compiled graph stays valid.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from worker.engine.adapter import Factors

Change = tuple[Factors, float]
"""Factors, and the strength they are wanted at."""

CPU_BATCH_BYTES = 1 << 20
"""Of float32 at a time on a CPU: what stays in its second-level cache between the three passes."""

GPU_BATCH_BYTES = 64 << 20
"""Of float32 at a time on a GPU: few enough launches, and little memory beside the base."""


class BaseWeights:
    """The adaptable weights of one base, with pristine copies of those that were ever written."""

    def __init__(self, weights: Mapping[str, Tensor], batch_bytes: int | None = None) -> None:
        self._weights = weights
        self._pristine: dict[str, Tensor] = {}
        on_cpu = all(weight.device.type == "cpu" for weight in weights.values())
        self._batch_bytes = batch_bytes or (CPU_BATCH_BYTES if on_cpu else GPU_BATCH_BYTES)
        self.names = frozenset(weights)
        # half of the narrowest format's range: the weights themselves are far below the other half
        limits = [torch.finfo(weight.dtype).max for weight in weights.values()]
        self.headroom = min(limits, default=torch.finfo(torch.float32).max) / 2

    def keep(self, names: Iterable[str]) -> None:
        """Copy the pristine values of `names`, where that was not done before."""
        for name in names:
            if name not in self._pristine:
                self._pristine[name] = self._weights[name].clone(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def write(self, changes: Mapping[str, Sequence[Change]]) -> None:
        """Write pristine plus changes into each weight named; their pristine values are kept.

        Same-shaped weights are computed together: a swap is tens of operations, not thousands.
        """
        shape = _shape_of(changes, self._pristine)
        for _, same in groupby(sorted(changes, key=shape), key=shape):
            names = list(same)
            size = max(1, self._batch_bytes // (4 * self._pristine[names[0]].numel()))
            for start in range(0, len(names), size):
                batch = names[start : start + size]
                self._write_batch(batch, [changes[name] for name in batch])

    def _write_batch(self, names: Sequence[str], changes: Sequence[Sequence[Change]]) -> None:
        """Write weights of one shape whose changes have the same ranks."""
        pristine = torch.stack([self._pristine[name] for name in names])
        total = pristine.float().flatten(2)
        for parallel in zip(*changes, strict=True):
            scales = torch.tensor([factors.scale * strength for factors, strength in parallel])
            up = torch.stack([factors.up for factors, _ in parallel]).float() * scales[:, None, None]
            down = torch.stack([factors.down for factors, _ in parallel]).float()
            total.baddbmm_(up.to(total.device), down.to(total.device))
        torch._foreach_copy_(
            [self._weights[name] for name in names], list(total.view(pristine.shape).unbind())
        )

    @torch.no_grad()
    def restore(self, names: Iterable[str] | None = None) -> None:
        """Copy back the pristine values of `names`; of all that were ever written when None."""
        wanted = list(self._pristine if names is None else names)
        if wanted:
            torch._foreach_copy_(
                [self._weights[name] for name in wanted], [self._pristine[name] for name in wanted]
            )


def _shape_of(
    changes: Mapping[str, Sequence[Change]], pristine: Mapping[str, Tensor]
) -> Callable[[str], tuple[object, ...]]:
    def shape(name: str) -> tuple[object, ...]:
        weight = pristine[name]
        ranks = tuple(factors.rank for factors, _ in changes[name])
        return (*weight.shape,), str(weight.dtype), ranks

    return shape
