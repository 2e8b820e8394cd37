"""Adapters of the kinds beside LoRA: random parts as trainers write them, and the merge in float64.

The merges are written from the definitions, element by element where that is plainer, so that they share
nothing with what they are compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = dict[str, Tensor]
Merge = Callable[[Tensor, float], Tensor]
"""From a pristine weight and a strength to the merged one, all in float64."""

RANK, ALPHA = 3, 2.0


@dataclass(frozen=True, kw_only=True)
class Made:
    """The parts of one layer by the end of their key, and what they make of its weight and its bias."""

    parts: Parts
    weight: Merge | None = None
    bias: Merge | None = None


class Maker:
    """Makes layers; equal seeds make equal ones."""

    def __init__(self, seed: int, size: float = 0.3) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._size = size

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator) * self._size

    def lora(self, shape: Sequence[int]) -> Made:
        out, *rest = shape
        up, down = self.random(out, RANK, *[1] * (len(shape) - 2)), self.random(RANK, *rest)
        change = torch.einsum("or,r...->o...", up.double().reshape(out, RANK), down.double())
        return self._linear({"lora_up.weight": up, "lora_down.weight": down}, change * ALPHA / RANK)

    def locon_with_mid(self, shape: Sequence[int]) -> Made:
        out, inner, *kernel = shape
        up, down = self.random(out, RANK, 1, 1), self.random(RANK, inner, 1, 1)
        mid = self.random(RANK, RANK, *kernel)
        change = torch.einsum(
            "op,pqhw,qi->oihw", up.double()[:, :, 0, 0], mid.double(), down.double()[:, :, 0, 0]
        )
        parts = {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid}
        return self._linear(parts, change * ALPHA / RANK)

    def loha(self, shape: Sequence[int]) -> Made:
        out, columns = shape[0], torch.Size(shape[1:]).numel()
        parts, sides = {}, []
        for side in "12":
            left, right = self.random(out, RANK), self.random(RANK, columns)
            parts |= {f"hada_w{side}_a": left, f"hada_w{side}_b": right}
            sides.append((left.double() @ right.double()).reshape(tuple(shape)))
        return self._linear(parts, sides[0] * sides[1] * ALPHA / RANK)

    def loha_with_tucker(self, shape: Sequence[int]) -> Made:
        out, inner, *kernel = shape
        parts, sides = {}, []
        for side in "12":
            core, left, right = (
                self.random(RANK, RANK, *kernel),
                self.random(RANK, out),
                self.random(RANK, inner),
            )
            parts |= {f"hada_t{side}": core, f"hada_w{side}_a": left, f"hada_w{side}_b": right}
            sides.append(torch.einsum("pqhw,po,qi->oihw", core.double(), left.double(), right.double()))
        return self._linear(parts, sides[0] * sides[1] * ALPHA / RANK)

    def lokr(self, shape: Sequence[int]) -> Made:
        """The right side in factors."""
        out, inner, *kernel = shape
        columns = inner // 4 * torch.Size(kernel).numel()
        left = self.random(2, 4)
        first, second = self.random(out // 2, RANK), self.random(RANK, columns)
        right = (first.double() @ second.double()).reshape(out // 2, inner // 4, *kernel)
        parts = {"lokr_w1": left, "lokr_w2_a": first, "lokr_w2_b": second}
        return self._linear(parts, _kron(left.double(), right) * ALPHA / RANK)

    def lokr_in_factors(self, shape: Sequence[int]) -> Made:
        """Both sides in factors."""
        out, inner, *kernel = shape
        parts = {"lokr_w1_a": self.random(4, RANK), "lokr_w1_b": self.random(RANK, 2)}
        parts |= {
            "lokr_w2_a": self.random(out // 4, RANK),
            "lokr_w2_b": self.random(RANK, inner // 2 * torch.Size(kernel).numel()),
        }
        left = parts["lokr_w1_a"].double() @ parts["lokr_w1_b"].double()
        right = (parts["lokr_w2_a"].double() @ parts["lokr_w2_b"].double()).reshape(
            out // 4, inner // 2, *kernel
        )
        return self._linear(parts, _kron(left, right) * ALPHA / RANK)

    def lokr_whole(self, shape: Sequence[int]) -> Made:
        """Both sides whole: then alpha means nothing."""
        out, inner, *kernel = shape
        left, right = self.random(2, 2), self.random(out // 2, inner // 2, *kernel)
        return self._linear({"lokr_w1": left, "lokr_w2": right}, _kron(left.double(), right.double()))

    def lokr_with_tucker(self, shape: Sequence[int]) -> Made:
        out, inner, *kernel = shape
        left, core = self.random(2, 2), self.random(RANK, RANK, *kernel)
        first, second = self.random(RANK, out // 2), self.random(RANK, inner // 2)
        right = torch.einsum("pqhw,po,qi->oihw", core.double(), first.double(), second.double())
        parts = {"lokr_w1": left, "lokr_t2": core, "lokr_w2_a": first, "lokr_w2_b": second}
        return self._linear(parts, _kron(left.double(), right) * ALPHA / RANK)

    def full(self, shape: Sequence[int]) -> Made:
        difference, bias = self.random(*shape), self.random(shape[0])
        return Made(
            parts={"diff": difference, "diff_b": bias},
            weight=lambda pristine, strength: pristine + strength * difference.double(),
            bias=lambda pristine, strength: pristine + strength * bias.double(),
        )

    def norm(self, shape: Sequence[int]) -> Made:
        weight, bias = self.random(*shape), self.random(*shape)
        return Made(
            parts={"w_norm": weight, "b_norm": bias},
            weight=lambda pristine, strength: pristine + strength * weight.double(),
            bias=lambda pristine, strength: pristine + strength * bias.double(),
        )

    def decomposed(self, made: Made, shape: Sequence[int], *, per_output: bool) -> Made:
        """The same with a DoRA's magnitude."""
        out, inner, *kernel = shape
        ones = [1] * len(kernel)
        sizes = (out, 1, *ones) if per_output else (1, inner, *ones)
        magnitude = self.random(*sizes).abs() + 1
        plain = made.weight
        assert plain

        def merge(pristine: Tensor, strength: float) -> Tensor:
            directed = plain(pristine, strength)
            rows = directed if per_output else directed.transpose(0, 1)
            lengths = rows.flatten(1).pow(2).sum(1).sqrt().reshape(sizes)
            return magnitude.double() * directed / lengths

        return Made(parts={**made.parts, "dora_scale": magnitude}, weight=merge)

    def _linear(self, parts: Parts, change: Tensor) -> Made:
        return Made(
            parts={**parts, "alpha": torch.tensor(ALPHA)},
            weight=lambda pristine, strength: pristine + strength * change.reshape(pristine.shape),
        )


def _kron(left: Tensor, right: Tensor) -> Tensor:
    """By the definition: block (i, j) of the result is `left[i, j] * right`."""
    return torch.cat([torch.cat([scale * right for scale in row], dim=1) for row in left], dim=0)


def spelled(layers: Mapping[str, Made]) -> Parts:
    """The keys of a file, by the layers' names in it."""
    return {f"{name}.{part}": tensor for name, made in layers.items() for part, tensor in made.parts.items()}
