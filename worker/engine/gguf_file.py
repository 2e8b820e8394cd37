"""Denoisers that are read from a GGUF file, which takes the place of the base's own weights.

diffusers reads such files, and says little of one that does not fit: what it lacks ends in an error of
PyTorch's, and what it has too much in a line of the log. So names are compared before.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import nn

from shared.errors import UnsupportedModel
from shared.refs import RepoId
from worker.engine.contract import quoted
from worker.engine.families import denoiser_name
from worker.engine.gguf_header import check_header
from worker.engine.quantisers import require


def replaced_part(repo: RepoId, index: Mapping[str, Any]) -> str:
    """Return the name of the part whose weights a GGUF file takes the place of.

    `index` is the model_index.json of `repo`, which has all other parts.

    Raises:
        UnsupportedModel: there is no such part, diffusers cannot read it from a file, or the library for
            that is missing.
    """
    part = denoiser_name(index)
    kind = str(index[part][1])
    if _readable_as(kind) is None:
        raise UnsupportedModel(f"{repo} takes no GGUF file: diffusers reads no {kind} from one")
    require("gguf", "a GGUF file")
    return part


def load_denoiser(file: Path, folder: Path, part: str, kind: str, dtype: torch.dtype) -> nn.Module:
    """Return the denoiser of a base with the weights of `file`, computing in `dtype`.

    `folder` holds the base's other parts and, as `part`, the settings of the denoiser, whose class is `kind`.

    Raises:
        UnsupportedModel: the file is broken, or not of this denoiser.
    """
    try:
        check_header(file)
        return _load(file, folder, part, kind, dtype)
    except UnsupportedModel:
        raise
    except Exception as error:
        # readers and converters stumble each in their own way: a key, a shape, a number too few
        why = quoted(f"{type(error).__name__}: {error}")
        raise UnsupportedModel(f"{file.name} cannot be read as the weights of a {kind}: {why}") from error


def _load(file: Path, folder: Path, part: str, kind: str, dtype: torch.dtype) -> nn.Module:
    # these import gguf, which a worker without such a file need not have
    from diffusers.models.model_loading_utils import load_gguf_checkpoint  # noqa: PLC0415
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor  # noqa: PLC0415

    denoiser: Any = getattr(diffusers, kind)
    settings = denoiser.load_config(folder, subfolder=part, local_files_only=True)
    with init_empty_weights():
        empty = denoiser.from_config(settings)
    names = empty.state_dict().keys()
    weights = load_gguf_checkpoint(file, return_tensors=True)
    if weights.keys() != names:
        converter = SINGLE_FILE_LOADABLE_CLASSES[_readable_as(kind)]["checkpoint_mapping_fn"]
        converted = converter(config=settings, checkpoint=weights)
        weights = {name: weight for name, weight in converted.items() if weight is not None}
    _compare(file.name, kind, names, weights.keys())
    layers = {f"{name}.weight" for name, module in empty.named_modules() if isinstance(module, nn.Linear)}
    for name in names - layers:
        # only diffusers' linear layers compute with weights in such blocks
        weights[name] = dequantize_gguf_tensor(weights[name])
    loaded: nn.Module = denoiser.from_single_file(
        weights,
        config=str(folder),
        subfolder=part,
        local_files_only=True,
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
        dtype=dtype,
    )
    return loaded


def _compare(file: str, kind: str, wanted: AbstractSet[str], found: AbstractSet[str]) -> None:
    for names, text in ((wanted - found, "it lacks"), (found - wanted, "that has no place for")):
        if names:
            some = f"{quoted(min(names))}, {len(names)} in all"
            raise UnsupportedModel(f"{file} has other weights than this {kind}: {text} {some}")


def _readable_as(kind: str) -> str | None:
    """Return the class by which diffusers knows how to read `kind` from a file; None if it does not."""
    found = getattr(diffusers, kind, None)
    names = (each.__name__ for each in found.__mro__) if isinstance(found, type) else ()
    return next((name for name in names if name in SINGLE_FILE_LOADABLE_CLASSES), None)
