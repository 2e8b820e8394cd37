"""GGUF files of small denoisers, as they are found in the wild: linear layers in blocks, all else plain."""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
from torch import Tensor, nn

ROW = 32
"""What a block of the older kinds takes of a row."""


def weights_of(part: nn.Module) -> dict[str, Tensor]:
    """The weights by diffusers' own names."""
    return {name: weight.detach().float() for name, weight in part.state_dict().items()}


def write(
    path: Path,
    weights: Mapping[str, Tensor],
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0,
    architecture: str = "flux",
    quantise: Callable[[str, Tensor], bool] = lambda name, weight: (
        weight.ndim == 2 and name.endswith("weight")
    ),
) -> Path:
    """Write `weights`; those in blocks of `kind` that `quantise` chooses and whose rows fill blocks."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_array("made.of", ["several", "words"])
    for name, weight in weights.items():
        if quantise(name, weight) and weight.shape[-1] % ROW == 0:
            writer.add_tensor(name, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
