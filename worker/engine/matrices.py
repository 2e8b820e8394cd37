"""The ways in which adapters write a matrix: as it is, or as a product of smaller ones.

Factors stay as the file has them, views of its bytes, and are multiplied out in float32 when a weight is
written. All are matrices `[rows, columns]`; a convolution's columns are input channels times kernel. What
each multiplies out to is checked against the weight's shape before, from the factors' shapes alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Exchange = Callable[[Tensor], Tensor]
"""From a tensor to one of the same shape and dtype that lies elsewhere."""


class Matrix(Protocol):
    """A matrix in some form."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns when multiplied out."""
        ...

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The tensors that it consists of."""
        ...

    def exchanged(self, exchange: Exchange) -> "Matrix":
        """Return the same matrix over other tensors."""
        ...

    def dense(self, device: torch.device) -> Tensor:
        """Return it multiplied out, float32, on `device`: to be read only, as it may be a factor itself."""
        ...

    @property
    def terms(self) -> int:
        """How many products of a number from each factor an element is at most the sum of."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Dense:
    """A matrix as it is, `values: [rows, columns]`."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.values.shape
        return rows, columns

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The matrix."""
        return (self.values,)

    def exchanged(self, exchange: Exchange) -> "Dense":
        """Return it over other tensors."""
        return Dense(values=exchange(self.values))

    def dense(self, device: torch.device) -> Tensor:
        """Return it in float32 on `device`."""
        return self.values.to(device).float()

    @property
    def terms(self) -> int:
        """The element itself."""
        return 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """`up @ down`, of `[rows, rank]` and `[rank, columns]`: a LoRA, and a part of other kinds."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """Up and down."""
        return self.up, self.down

    def exchanged(self, exchange: Exchange) -> "Product":
        """Return it over other tensors."""
        return Product(up=exchange(self.up), down=exchange(self.down))

    def dense(self, device: torch.device) -> Tensor:
        """Return the product."""
        return self.up.to(device).float() @ self.down.to(device).float()

    @property
    def terms(self) -> int:
        """The inner dimension."""
        return self.rank


@dataclass(frozen=True, kw_only=True, slots=True)
class Tucker:
    """`sum over p, q of up[r, p] core[p, q, k] down[q, c]`, column `(c, k)`: a kernel of low rank.

    Attributes:
        core: `[p, q, kernel]`.
        up: `[rows, p]`.
        down: `[q, input channels]`.

    LyCORIS' `rebuild_tucker` (`lycoris/functional/general.py`), which PEFT calls the CP form.
    """

    core: Tensor
    up: Tensor
    down: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.up.shape[0], self.down.shape[1] * self.core.shape[2]

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """Core, up and down."""
        return self.core, self.up, self.down

    def exchanged(self, exchange: Exchange) -> "Tucker":
        """Return it over other tensors."""
        return Tucker(core=exchange(self.core), up=exchange(self.up), down=exchange(self.down))

    def dense(self, device: torch.device) -> Tensor:
        """Return it multiplied out."""
        core, up, down = (each.to(device).float() for each in self.factors)
        inner = torch.einsum("pqk,qc->pck", core, down)
        return up @ inner.flatten(1)

    @property
    def terms(self) -> int:
        """Both inner dimensions."""
        return self.core.shape[0] * self.core.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hadamard:
    """The product element by element of two matrices of one shape: LoHa (FedPara, arXiv 2108.06098)."""

    left: Matrix
    right: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.left.shape

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The factors of both."""
        return self.left.factors + self.right.factors

    def exchanged(self, exchange: Exchange) -> "Hadamard":
        """Return it over other tensors."""
        return Hadamard(left=self.left.exchanged(exchange), right=self.right.exchanged(exchange))

    def dense(self, device: torch.device) -> Tensor:
        """Return the product."""
        return self.left.dense(device) * self.right.dense(device)

    @property
    def terms(self) -> int:
        """Those of both, each with each."""
        return self.left.terms * self.right.terms


@dataclass(frozen=True, kw_only=True, slots=True)
class Kronecker:
    """The Kronecker product: LoKr (arXiv 2309.14859). Kernels are in the columns of `right`."""

    left: Matrix
    right: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.left.shape[0] * self.right.shape[0], self.left.shape[1] * self.right.shape[1]

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The factors of both."""
        return self.left.factors + self.right.factors

    def exchanged(self, exchange: Exchange) -> "Kronecker":
        """Return it over other tensors."""
        return Kronecker(left=self.left.exchanged(exchange), right=self.right.exchanged(exchange))

    def dense(self, device: torch.device) -> Tensor:
        """Return the product."""
        return torch.kron(self.left.dense(device), self.right.dense(device))

    @property
    def terms(self) -> int:
        """Those of both, each with each."""
        return self.left.terms * self.right.terms
