"""Bases that are stored quantised: by what, whether that can be read here, in what format they compute."""

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.errors import UnsupportedModel
from shared.refs import RepoId
from worker.engine.targets import can_be_rewritten

_BITSANDBYTES = "bitsandbytes"
_LIBRARIES = frozenset({_BITSANDBYTES, "torchao"})
"""Quantisers that are named as their libraries, those of the extra `quantised`; of others diffusers knows."""


def check_quantisers(repo: RepoId, folder: Path, index: Mapping[str, Any], device: torch.device) -> None:
    """Check that a base can be read from `folder`; `index` is its model_index.json.

    Without their libraries, diffusers and transformers say different things, and not all of them that a
    library is missing.

    Raises:
        UnsupportedModel: a part cannot be read here.
    """
    for part, quantiser in quantisers_of(folder, index):
        stored = f"its {part} is stored quantised by {quantiser}"
        if quantiser in _LIBRARIES:
            require(quantiser, repo, why=f": {stored}")
        if quantiser == _BITSANDBYTES and index[part][0] == "diffusers" and device.type == "cpu":
            raise UnsupportedModel(f"{repo} needs a GPU: {stored}, and diffusers reads that on a GPU only")


def require(library: str, what: str, why: str = "") -> None:
    """Check that a library of the extra `quantised` is there, which `what` needs.

    Raises:
        UnsupportedModel: it is not.
    """
    if find_spec(library) is None:
        raise UnsupportedModel(
            f"{what} needs a library that is not installed, {library}{why}; "
            "Warmbase's extra `quantised` has it"
        )


def quantisers_of(folder: Path, index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each part that is stored quantised, with the quantiser's name."""
    for part in index:
        path = folder / part / "config.json"
        settings = json.loads(path.read_bytes()).get("quantization_config") if path.is_file() else None
        if isinstance(settings, dict):
            # early files of bitsandbytes name no method
            yield part, str(settings.get("quant_method", _BITSANDBYTES))


def compute_in(dtype: torch.dtype, part: nn.Module) -> None:
    """Have a part with quantised layers compute in the base's number format, not in those of its files.

    In transformers' parts, what is not quantised keeps the format that it was stored in, and pictures fail
    on their way from one to another. Layers of 4 bits have a format of their own for computing, float32
    where nobody chose one: bitsandbytes gives that to their biases when they first compute, by new tensors,
    so that adapters would be written into the old ones and the base would seem damaged.
    """
    wide = getattr(part, "_keep_in_fp32_modules", None) or ()
    for name, parameter in part.named_parameters():
        if can_be_rewritten(parameter) and not any(each in name.split(".") for each in wide):
            parameter.data = parameter.data.to(dtype)
    layers: Iterable[Any] = part.modules()
    for layer in layers:
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype = dtype
