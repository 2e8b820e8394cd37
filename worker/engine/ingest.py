"""From a weight file to the canonical adapter: every tensor accounted for, or a fault that says which."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from worker.engine.adapter import CanonicalAdapter, Factors
from worker.engine.contract import AdapterFault
from worker.engine.conversion import Conversion
from worker.engine.kinds import refuse_unsupported
from worker.engine.scales import LoraConfig, read_configs
from worker.engine.spelling import SpelledLayer, spell
from worker.engine.targets import Targets
from worker.engine.weight_file import WeightFile, read_weight_file

MAX_RANK = 512

CONTROL_INPUT = "x_embedder"
"""FLUX's input layer; a Control LoRA feeds it a picture beside the latents."""


def ingest(path: Path, targets: Targets, conversion: Conversion) -> CanonicalAdapter:
    """Read a weight file for the base that `targets` belongs to. Reads no weight and writes none.

    Raises:
        AdapterFault: broken, hostile, of another kind, or made for another base.
    """
    file = read_weight_file(path)
    with ThreadPoolExecutor(max_workers=1) as beside:
        digest = beside.submit(lambda: hashlib.sha256(file.content).hexdigest())
        changes = _changes(file, targets, conversion)
        reach = _reach(changes)
    return CanonicalAdapter(digest=digest.result(), nbytes=file.content.nbytes, changes=changes, reach=reach)


def _changes(file: WeightFile, targets: Targets, conversion: Conversion) -> Mapping[str, tuple[Factors, ...]]:
    refuse_unsupported(file.tensors)
    configs = read_configs(file.metadata, targets.components)
    layers = spell(file.tensors, targets.components, conversion)
    names = _find(layers, targets)
    changes: defaultdict[str, tuple[Factors, ...]] = defaultdict(tuple)
    for layer, name in zip(layers, names, strict=True):
        shape = targets.weights[name].shape
        changes[name] += (_factors(layer, shape, configs.get(layer.component)),)
    return dict(changes)


def _find(layers: Sequence[SpelledLayer], targets: Targets) -> list[str]:
    """Return the weight of each layer. A layer that the base lacks speaks of another base."""
    names = [targets.find(layer.component, layer.module) for layer in layers]
    unknown = [layer.label for layer, name in zip(layers, names, strict=True) if name is None]
    if unknown:
        raise AdapterFault(
            f"{len(unknown)} of its {len(layers)} layers do not exist in this base, such as {unknown[0]}; "
            "it was made for another base"
        )
    return [name for name in names if name is not None]


def _factors(layer: SpelledLayer, shape: Sequence[int], config: LoraConfig | None) -> Factors:
    """Return the layer's factors as matrices, checked against the weight's shape.

    A convolution's `down` has the kernel, its `up` is 1x1, so their product is one of matrices.
    """
    out, *rest = shape
    rank = layer.down.shape[0] if layer.down.ndim else 0
    if not 1 <= rank <= MAX_RANK:
        raise AdapterFault(f"{layer.label}: rank {rank}; ranks from 1 to {MAX_RANK} are served")
    if layer.module == CONTROL_INPUT and layer.down.shape[1:].numel() > math.prod(rest):
        raise AdapterFault(f"{layer.label}: a Control LoRA, which widens the base's input, is not served")
    if not _fits(layer.down.shape, (rank, *rest)) or not _fits(layer.up.shape, (out, rank)):
        raise AdapterFault(
            f"{layer.label}: factors of shapes {(*layer.up.shape,)} and {(*layer.down.shape,)} do not fit "
            f"its weight of shape {(*shape,)}; the adapter was made for another base"
        )
    return Factors(
        up=layer.up.reshape(out, rank), down=layer.down.reshape(rank, -1), scale=_scale(layer, rank, config)
    )


def _scale(layer: SpelledLayer, rank: int, config: LoraConfig | None) -> float:
    """Return what alpha and rank amount to; files without either mean 1 (diffusers' convention).

    Each layer has the alpha that the file gives it. diffusers 0.42 gives some layers the alpha of the
    majority where a Kohya file has several: it looks them up by names that its own conversion changed.
    """
    if config is None:
        alpha = rank if layer.alpha is None else layer.alpha
        if not math.isfinite(alpha):
            raise AdapterFault(f"{layer.label}: its alpha is {alpha}")
        return alpha / rank
    if layer.alpha is not None:
        raise AdapterFault(f"{layer.label}: alpha is given twice, by a key and by the config in the header")
    return config.scale(layer.module, rank)


def _reach(changes: Mapping[str, Iterable[Factors]]) -> float:
    """Return a bound on the change of any element at strength 1: `scale * rank * max|up| * max|down|`.

    Raises:
        AdapterFault: a factor holds NaN or infinity.
    """
    layers = [(name, each) for name, parts in changes.items() for each in parts]
    ranges = [torch.aminmax(tensor) for _, each in layers for tensor in (each.up, each.down)]
    lows = torch.stack([each.min for each in ranges]).double()
    highs = torch.stack([each.max for each in ranges]).double()
    peaks = torch.maximum(lows.abs(), highs.abs()).tolist()
    totals: defaultdict[str, float] = defaultdict(float)
    for (name, each), up, down in zip(layers, peaks[::2], peaks[1::2], strict=True):
        if not math.isfinite(up * down):
            raise AdapterFault(f"{name}: a factor holds NaN or infinity")
        totals[name] += abs(each.scale) * each.rank * up * down
    return max(totals.values())


def _fits(shape: Sequence[int], wanted: tuple[int, ...]) -> bool:
    """Whether the shapes agree, a matrix counting as a 1x1 convolution: some files hold one for the other."""
    return shape == wanted or (*shape, *(1,) * (4 - len(shape))) == (*wanted, *(1,) * (4 - len(wanted)))
