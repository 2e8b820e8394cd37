"""The base's weights: what they were, and how a swap changes them.

A weight is always computed from its pristine copy, `W = W0 + sum(delta)`, in float32 and rounded once, and
copied into the storage that the model already uses. Nothing is ever taken back, so nothing drifts; no
module is added, so a compiled graph stays valid.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from worker.engine.adapter import Delta
from worker.engine.device_memory import page_locked, room_on
from worker.engine.fingerprint import sums_of
from worker.engine.lanes import lanes_of
from worker.engine.matrices import Product

Change = tuple[Delta, float]
"""A delta, and the strength it is wanted at."""

Products = Sequence[tuple[Product, float]]
"""The changes of a weight that are nothing but products of two factors, each with all that scales it."""

CPU_BATCH_BYTES = 1 << 20
"""Of float32 at a time on a CPU: what stays in its second-level cache between the three passes."""

GPU_BATCH_BYTES = 256 << 20
"""Of float32 at a time on a GPU: few enough launches, and little memory beside the base."""

LARGEST_CHANGE = 1e15
"""Of an element, in any number format: a norm sums squares, and those still fit into float32."""


class BaseWeights:
    """The adaptable weights of one base, with pristine copies of those that were ever written."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        batch_bytes: int | None = None,
        room: Callable[[torch.device], float] = room_on,
    ) -> None:
        """`room` gives the bytes that pristine copies may take on a device."""
        self._weights = weights
        self._room = room
        self._pristine: dict[str, Tensor] = {}
        self._sums: dict[str, int] = {}
        self._gpus = {weight.device for weight in weights.values() if weight.device.type == "cuda"}
        on_cpu = all(weight.device.type == "cpu" for weight in weights.values())
        self._batch_bytes = batch_bytes or (CPU_BATCH_BYTES if on_cpu else GPU_BATCH_BYTES)
        self._lanes = lanes_of(torch.get_num_threads() if on_cpu else 1)
        self.names = frozenset(weights)
        kinds: dict[object, int] = {}
        # numbered once: to compare them in each swap, for thousands of weights, would take longer than it
        self._kinds = {
            name: kinds.setdefault((weight.shape, weight.dtype, weight.device), len(kinds))
            for name, weight in weights.items()
        }
        # half of the narrowest format's range: the weights themselves are far below the other half
        limits = [torch.finfo(weight.dtype).max for weight in weights.values()]
        self.headroom = min([*limits, 2 * LARGEST_CHANGE]) / 2

    def keep(self, names: Iterable[str]) -> None:
        """Copy the pristine values of `names`, where that was not done before.

        They take as many bytes as the weights, beside them; where a GPU has no room to spare, in the host's
        page-locked memory, from where every swap has to read them again (SDXL: 2 to 5 GB at some 25 GB/s).
        """
        copies = self._copies(name for name in names if name not in self._pristine)
        # both or neither: after a failure on the way, the next swap has to copy and sum anew
        sums = dict(zip(copies, sums_of(copies.values()).tolist(), strict=True))
        self._pristine |= copies
        self._sums |= sums

    def _copies(self, names: Iterable[str]) -> dict[str, Tensor]:
        copies: dict[str, Tensor] = {}
        room: dict[torch.device, float] = {}
        for name in names:
            weight = self._weights[name]
            if weight.device not in room:
                room[weight.device] = self._room(weight.device)
            room[weight.device] -= weight.nbytes
            copies[name] = _copy_of(weight) if room[weight.device] >= 0 else _copy_in_host(weight)
        return copies

    def are_pristine(self, names: Iterable[str]) -> bool:
        """Whether the weights named, each kept before, have the bits that they had at first."""

        def have_their_sums(share: Sequence[str]) -> bool:
            found: list[int] = sums_of(self._weights[name] for name in share).tolist()
            return found == [self._sums[name] for name in share]

        return all(self._lanes.run(have_their_sums, list(names), self._nbytes))

    def write(self, changes: Mapping[str, Sequence[Change]]) -> None:
        """Write pristine plus changes into each weight named; their pristine values are kept.

        A weight without changes becomes pristine.

        Same-shaped weights that only low-rank products change are computed together: such a swap is tens
        of operations, not thousands. A CPU's float32 weights need no batch: its launches cost nothing, and
        the product is added where it belongs. The others come one by one.
        """
        self._lanes.run(lambda share: self._write(share, changes), list(changes), self._nbytes)

    @torch.no_grad()
    def _write(self, names: Sequence[str], changes: Mapping[str, Sequence[Change]]) -> None:
        bare = []
        grouped: defaultdict[tuple[int, ...], list[tuple[str, Products]]] = defaultdict(list)
        for name in names:
            parts = changes[name]
            if not parts:
                bare.append(name)
                continue
            products = [(low, delta.scale * strength) for delta, strength in parts if (low := delta.low_rank)]
            if len(products) < len(parts):
                self._write_alone(name, parts)
            elif self._is_float32_on_cpu(name):
                self._write_in_place(name, products)
            else:
                ranks = (product.rank for product, _ in products)
                grouped[self._kinds[name], *ranks].append((name, products))
        self._copy_back(bare)
        for same in grouped.values():
            size = max(1, self._batch_bytes // (4 * self._weights[same[0][0]].numel()))
            for start in range(0, len(same), size):
                self._write_batch(same[start : start + size])

    def _is_float32_on_cpu(self, name: str) -> bool:
        weight = self._weights[name]
        return weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.is_contiguous()

    def _write_in_place(self, name: str, products: Products) -> None:
        """Write one weight of float32: what stands in it is the sum so far, and nothing is rounded twice."""
        weight = self._weights[name].flatten(1)
        total = self._pristine[name].flatten(1)
        for product, scale in products:
            torch.addmm(total, product.up.float(), product.down.float(), alpha=scale, out=weight)
            total = weight

    def _write_batch(self, batch: Sequence[tuple[str, Products]]) -> None:
        """Write weights of one shape whose changes have the same ranks.

        Some of the factors may be on the device already, others still in the host's memory. Beside them each
        element moves 12 bytes of a 16-bit base: its change there and back, its pristine value, and itself.
        """
        device = self._weights[batch[0][0]].device
        changes: Tensor | None = None
        for parallel in zip(*(products for _, products in batch), strict=True):
            up = torch.stack([each.up.to(device, non_blocking=True) for each, _ in parallel]).float()
            down = torch.stack([each.down.to(device, non_blocking=True) for each, _ in parallel]).float()
            # as a kernel's arguments: a tensor of them would be copied there, and that waits for the GPU
            torch._foreach_mul_(up.unbind(), [scale for _, scale in parallel])
            changes = torch.bmm(up, down) if changes is None else changes.baddbmm_(up, down)
        for (name, _), change in zip(batch, cast("Tensor", changes), strict=True):
            weight = self._weights[name]
            pristine = self._pristine[name].to(device, non_blocking=True)
            torch.add(pristine, change.view(weight.shape), out=weight)

    def _write_alone(self, name: str, changes: Sequence[Change]) -> None:
        """Write one weight. Each delta is of the pristine weight, never of what another one made of it."""
        pristine = self._pristine[name].to(self._weights[name].device).float()
        total = pristine.clone()
        for delta, strength in changes:
            total += delta.of(pristine, strength)
        torch._foreach_copy_([self._weights[name]], [total])

    def wait(self) -> None:
        """Return when what was asked of a GPU here is done, or raise what went wrong there.

        Not what others ask of it: adapters of later jobs may be on their way.
        """
        for device in self._gpus:
            torch.cuda.current_stream(device).synchronize()

    def restore(self, names: Iterable[str] | None = None) -> None:
        """Copy back the pristine values of `names`; of all that were ever written when None."""
        wanted = list(self._pristine if names is None else names)
        self._lanes.run(self._copy_back, wanted, self._nbytes)

    @torch.no_grad()
    def _copy_back(self, names: Sequence[str]) -> None:
        if names:
            torch._foreach_copy_(
                [self._weights[name] for name in names], [self._pristine[name] for name in names]
            )

    def _nbytes(self, name: str) -> int:
        return self._weights[name].nbytes


def _copy_of(weight: Tensor) -> Tensor:
    try:
        return weight.clone(memory_format=torch.contiguous_format)
    except torch.cuda.OutOfMemoryError:
        return _copy_in_host(weight)


def _copy_in_host(weight: Tensor) -> Tensor:
    return page_locked(weight.contiguous().to("cpu", copy=True))
