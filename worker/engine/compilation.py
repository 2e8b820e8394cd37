"""Compiling a base's denoiser, so that swaps of adapters keep what was compiled.

A swap writes into the storage that the weights have, and adds no module. So nothing that a compiled graph is
guarded by changes: no shape, no module tree, no number that was burnt in. That holds for weights that are
rewritten. Beside layers that keep theirs, adapters run in hooks whose factors come and go: such a base is not
compiled.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

Backend = str | Callable[..., Any]


def compile_denoiser(denoiser: nn.Module, backend: Backend = "inductor") -> None:
    """Have the denoiser compile when it is first called, for each shape that it meets.

    Only the blocks that diffusers names as repeated are compiled: equal ones share what is compiled, which
    takes a fraction of the time for nearly the speed of all of it. A class without such names is compiled
    as a whole.
    """
    repeated = getattr(denoiser, "_repeated_blocks", ())
    blocks = [module for module in denoiser.modules() if type(module).__name__ in repeated]
    for module in blocks or [denoiser]:
        module.compile(backend=backend)
