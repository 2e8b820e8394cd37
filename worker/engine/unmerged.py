"""Layers whose weight cannot be rewritten: adapters run beside them, as a layer of PEFT that is not merged.

A quantised weight holds no numbers that a change could be added to: 4 bits in blocks, integers with a
scale, a tensor of a library's own class. There `y = W x` becomes `y + sum(scale * up (down x))`, at the
price of two small products per layer and step; kinds beside LoRA cost as much as the layer itself. Nothing is
quantised again; the weight stays as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from worker.engine.matrices import Matrix, Product
from worker.engine.targets import Targets
from worker.engine.weights import BaseWeights, Change


class AdaptableWeights:
    """All that adapters may change in a base: weights that are rewritten, and layers that keep theirs."""

    def __init__(self, targets: Targets) -> None:
        rewritten = {name: weight for name, weight in targets.weights.items() if name not in targets.kept}
        self._merged = BaseWeights(rewritten)
        self._unmerged = UnmergedLayers(targets.kept)
        self.names = frozenset(targets.weights)
        self.headroom = self._merged.headroom

    def keep(self, names: Iterable[str]) -> None:
        """Copy the pristine values of those of `names` that will be rewritten."""
        self._merged.keep(name for name in names if name in self._merged.names)

    def write(self, changes: Mapping[str, Sequence[Change]]) -> None:
        """Give each weight named its changes, in place of those that it had."""
        self._merged.write({name: parts for name, parts in changes.items() if name in self._merged.names})
        self._unmerged.write({name: parts for name, parts in changes.items() if name in self._unmerged.names})

    def restore(self, names: Iterable[str] | None = None) -> None:
        """Undo the changes of `names`; of all when None."""
        if names is None:
            self._merged.restore()
            self._unmerged.restore()
        else:
            wanted = tuple(names)
            self._merged.restore(name for name in wanted if name in self._merged.names)
            self._unmerged.restore(name for name in wanted if name in self._unmerged.names)

    def wait(self) -> None:
        """Return when what was written is there, or raise what went wrong on the way."""
        self._merged.wait()

    def are_pristine(self, names: Iterable[str]) -> bool:
        """Whether those of `names` that are rewritten have the bits that they had at first."""
        return self._merged.are_pristine(name for name in names if name in self._merged.names)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Beside:
    """What is active beside a layer: the products of all adapters as one, and matrices of other kinds.

    Attributes:
        down: `[rank, in]`, the ranks of several adapters added up.
        up: `[out, rank]`, with the scales folded in.
        others: each with its scale; multiplied out when the layer runs, as they would take the memory that
            the base was quantised to save.
    """

    down: Tensor
    up: Tensor
    others: tuple[tuple[Matrix, float], ...]

    def fits(self, output: Tensor) -> bool:
        """Whether it is where the layer computes, in its number format."""
        return (self.down.device, self.down.dtype) == (output.device, output.dtype)

    def like(self, output: Tensor) -> "_Beside":
        """Return it so that it fits."""
        return replace(self, down=self.down.to(output), up=self.up.to(output))

    def of(self, inputs: Tensor) -> Tensor:
        """Return what it adds to the layer's output."""
        added = linear(linear(inputs, self.down), self.up)
        for matrix, scale in self.others:
            added = added + linear(inputs, (matrix.dense(inputs.device) * scale).to(inputs))
        return added


class UnmergedLayers:
    """Linear layers that keep their weight, each with what is active beside it."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.names = frozenset(layers)
        self._layers = layers
        self._active: dict[str, _Beside] = {}
        for name, layer in layers.items():
            layer.register_forward_hook(self._beside(name))

    def write(self, changes: Mapping[str, Sequence[Change]]) -> None:
        """Put changes beside the layers named, in place of those that were there. None has a magnitude.

        Nothing stands beside a layer without changes.
        """
        self.restore(name for name, parts in changes.items() if not parts)
        for name, parts in changes.items():
            if parts:
                self._active[name] = _merged(parts, cast("Tensor", self._layers[name].weight).device)

    def restore(self, names: Iterable[str] | None = None) -> None:
        """Take away what is beside the layers named; beside all when None."""
        for name in list(self._active) if names is None else names:
            self._active.pop(name, None)

    def _beside(self, name: str) -> Any:  # noqa: ANN401 - a hook in PyTorch's own shape
        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            beside = self._active.get(name)
            if beside is None:
                return None
            if not beside.fits(output):
                # a quantised weight does not say what it computes in: the first output does
                beside = self._active[name] = beside.like(output)
            return output + beside.of(inputs[0].to(output))

        return add


def _copy_on(device: torch.device, matrix: Matrix) -> Matrix:
    """Return a matrix that keeps nothing of its adapter in memory; products are copied later on."""
    is_copied = not isinstance(matrix, Product)
    return matrix.exchanged(lambda tensor: tensor.to(device, copy=is_copied))


def _merged(parts: Sequence[Change], device: torch.device) -> _Beside:
    """Return what changes one layer, on its device: some of it may be there, some in the host's memory."""
    there = [(_copy_on(device, delta.matrix), delta.scale * strength) for delta, strength in parts]
    products = [(matrix, scale) for matrix, scale in there if isinstance(matrix, Product)]
    rows, columns = there[0][0].shape
    none = torch.empty(0, columns, device=device), torch.empty(rows, 0, device=device)
    return _Beside(
        down=torch.cat([none[0], *(matrix.down.float() for matrix, _ in products)]),
        up=torch.cat([none[1], *(matrix.up.float() * scale for matrix, scale in products)], dim=1),
        others=tuple((matrix, scale) for matrix, scale in there if not isinstance(matrix, Product)),
    )
