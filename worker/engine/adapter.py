"""An adapter in the one form that is applied: changes of the base's weights, and words that it adds."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from worker.engine.matrices import Exchange, Matrix, Product
from worker.engine.readings import Reading

CLIP_L, CLIP_G, T5 = "clip_l", "clip_g", "t5"
"""Text encoders that words are learned for: a base's first CLIP, its second one, and a T5 wherever it is."""

SMALLEST_NORM = torch.finfo(torch.float32).eps
"""What a DoRA divides by at least: where a weight's row is zero, so is the result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """A change of one weight: `strength * scale * matrix`, or where it has a magnitude, a DoRA.

    Attributes:
        matrix: in the weight's shape, kernels flattened.
        scale: alpha and rank folded into one number.
        magnitude: `[out, 1, ...]`, or `[1, in, ...]`: ones where the norm is taken.
    """

    matrix: Matrix
    scale: float
    magnitude: Tensor | None = None

    @property
    def low_rank(self) -> Product | None:
        """The factors, where there is nothing but a product of two."""
        return self.matrix if self.magnitude is None and isinstance(self.matrix, Product) else None

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The tensors that it consists of."""
        return self.matrix.factors if self.magnitude is None else (*self.matrix.factors, self.magnitude)

    def exchanged(self, exchange: Exchange) -> "Delta":
        """Return the same change over other tensors."""
        return Delta(
            matrix=self.matrix.exchanged(exchange),
            scale=self.scale,
            magnitude=None if self.magnitude is None else exchange(self.magnitude),
        )

    def of(self, pristine: Tensor, strength: float) -> Tensor:
        """Return the change of `pristine` (float32, in the weight's shape) as a new tensor.

        A DoRA makes the weight `m * V / |V|` with `V = pristine + strength * scale * matrix`, the norm per
        output or input channel (arXiv 2402.09353; PEFT's `DoraLinearLayer` and `DoraLinearVariant`). Its
        strength acts inside `V`, as PEFT's does: the direction turns, the magnitude stays.
        """
        # not in place: what is dense already is the adapter itself
        change = self.matrix.dense(pristine.device).view(pristine.shape) * (self.scale * strength)
        if self.magnitude is None:
            return change
        directed = change.add_(pristine)
        magnitude = self.magnitude.to(pristine.device).float()
        axes = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
        norm = torch.linalg.vector_norm(directed, dim=axes, keepdim=True)
        return directed.mul_(magnitude / norm.clamp_min_(SMALLEST_NORM)).sub_(pristine)


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A word that prompts may hold: its vectors `[tokens, width]`, by text encoder."""

    token: str
    vectors: Mapping[str, Tensor]

    @property
    def tokens(self) -> tuple[str, ...]:
        """What the tokenizer is taught: diffusers writes a word of several vectors as `w w_1 w_2`."""
        count = next(iter(self.vectors.values())).shape[0]
        return (self.token, *(f"{self.token}_{number}" for number in range(1, count)))

    def exchanged(self, exchange: Exchange) -> "Word":
        """Return the same word over other tensors."""
        vectors = {encoder: exchange(each) for encoder, each in self.vectors.items()}
        return Word(token=self.token, vectors=vectors)


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """What a weight file means to one base. Its numbers may be any.

    Attributes:
        changes: of each weight; several where tied modules share the weight.
        words: what prompts may say beside the base's own vocabulary.
        warnings: what of the file could not be used, for people.
    """

    changes: Mapping[str, tuple[Delta, ...]]
    words: tuple[Word, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All that it consists of; some more than once."""
        return (tensor for _, tensor in self.named_tensors)

    @property
    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The same, each with the weight or the word that it is for."""
        for name, deltas in self.changes.items():
            for delta in deltas:
                for factor in delta.factors:
                    yield name, factor
        for word in self.words:
            for vectors in word.vectors.values():
                yield word.token, vectors

    def exchanged(self, exchange: Exchange) -> Self:
        """Return the same over other tensors."""
        return replace(
            self,
            changes={
                name: tuple([delta.exchanged(exchange) for delta in deltas])
                for name, deltas in self.changes.items()
            },
            words=tuple(word.exchanged(exchange) for word in self.words),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CanonicalAdapter(Meaning):
    """A validated adapter of one base.

    Attributes:
        reading: of the weight file.
        nbytes: bytes of RAM: of the slab that all factors are views of, and of what holds them.
        reach: no element of a weight changes by more than this at strength 1, in proportion to it,
        fixed_reach: and this, at any strength.
    """

    reading: Reading
    nbytes: int
    reach: float
    fixed_reach: float = 0.0

    @property
    def file_nbytes(self) -> int:
        """Bytes of the weight file."""
        return self.reading.nbytes

    @property
    def digest(self) -> Future[str]:
        """SHA-256 of the weight file, hexadecimal, as soon as it is known."""
        return self.reading.digest
