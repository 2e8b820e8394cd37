"""Layers whose weight cannot be rewritten: adapters run beside them, as a layer of PEFT that is not merged.

A quantised weight holds no numbers that a change could be added to: 4 bits in blocks, integers with a
scale, a tensor of a library's own class. There `y = W x` becomes `y + sum(scale * up (down x))`, at the
price of two small products per layer and step. Nothing is quantised again; the weight stays as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

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

    def are_pristine(self, names: Iterable[str]) -> bool:
        """Whether those of `names` that are rewritten have the bits that they had at first."""
        return self._merged.are_pristine(name for name in names if name in self._merged.names)


class UnmergedLayers:
    """Linear layers that keep their weight, each with the factors that are active beside it."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.names = frozenset(layers)
        self._layers = layers
        self._active: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in layers.items():
            layer.register_forward_hook(self._beside(name))

    def write(self, changes: Mapping[str, Sequence[Change]]) -> None:
        """Put factors beside the layers named, in place of those that were there.

        The factors of several adapters become those of one: `[rank, in]` and `[out, rank]`, with the ranks
        added up and the scales folded in. Nothing stands beside a layer without changes.
        """
        self.restore(name for name, parts in changes.items() if not parts)
        for name, parts in changes.items():
            if not parts:
                continue
            products = [(each.low_rank, each.scale * strength) for each, strength in parts]
            # where the layer is: of several adapters, some may be there already, others in the host's memory
            device = cast("Tensor", self._layers[name].weight).device
            downs = [factors.down.to(device).float() for factors, _ in products if factors]
            ups = [factors.up.to(device).float() * scale for factors, scale in products if factors]
            self._active[name] = torch.cat(downs), torch.cat(ups, dim=1)

    def restore(self, names: Iterable[str] | None = None) -> None:
        """Take away what is beside the layers named; beside all when None."""
        for name in list(self._active) if names is None else names:
            self._active.pop(name, None)

    def _beside(self, name: str) -> Any:  # noqa: ANN401 - a hook in PyTorch's own shape
        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            factors = self._active.get(name)
            if factors is None:
                return None
            if (factors[0].device, factors[0].dtype) != (output.device, output.dtype):
                # a quantised weight does not say what it computes in: the first output does
                factors = self._active[name] = factors[0].to(output), factors[1].to(output)
            down, up = factors
            return output + nn.functional.linear(nn.functional.linear(inputs[0].to(output), down), up)

        return add
