"""From a weight file to the canonical adapter: every tensor accounted for, or a fault that says which."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.adapter import CanonicalAdapter, Delta, Meaning
from worker.engine.contract import AdapterFault, quoted
from worker.engine.conversion import Conversion
from worker.engine.keys import sort_keys
from worker.engine.kinds import bias_delta, bias_parts, weight_delta
from worker.engine.layers import Layer, read_layers
from worker.engine.layouts import Layout, Layouts, header_key, layout_of
from worker.engine.peaks import peaks_by, searches_of
from worker.engine.reach import Reach, reach_of
from worker.engine.readings import Readings
from worker.engine.scales import LoraConfig, read_configs
from worker.engine.slab import compacted, nbytes_of
from worker.engine.spelling import spell
from worker.engine.targets import Targets
from worker.engine.weight_file import (
    hollow,
    read_header,
    read_header_text,
    read_tensors,
    reading_content,
    slab_in,
)
from worker.engine.words import read_words

UNKNOWN_SHARE = 0.05
"""Of a file's layers, that may match nothing in the base: beyond it, the file was made for another one."""

REHEARSED_NBYTES = 64 << 20
"""Of a file's tensors, from which on it takes longer to read them than to see whether they fit the base."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A weight file that was read, and whose numbers are still to be judged.

    Attributes:
        content: all of its bytes.
        meaning: of them.
        nbytes: of RAM that it takes.
        peaks: the greatest magnitude in each of the tensors.
        reach: how far they reach, by that.
    """

    content: memoryview
    meaning: Meaning
    nbytes: int
    peaks: NDArray[np.float64]
    reach: Reach


def ingest(
    path: Path, targets: Targets, conversion: Conversion, layouts: Layouts, readings: Readings
) -> CanonicalAdapter:
    """Read a weight file for the base that `targets` belongs to. Reads no weight and writes none.

    Raises:
        AdapterFault: broken, hostile, of another kind, or made for another base.
    """
    text = read_header_text(path)
    key = header_key(text, targets.components)
    layout = layouts.of(key)
    if layout is not None and (file := _read_as(layout, path, text)) is not None:
        return _checked(file, readings)
    file, layout = _studied(path, text, targets, conversion)
    adapter = compacted(_checked(file, readings))
    if layout is not None:
        layouts.note(key, layout)
    return adapter


def _read_as(layout: Layout, path: Path, text: bytes) -> _File | None:
    """Read a file of whose like all is known; None when it is one of another kind after all."""
    with reading_content(path, text, layout.nbytes) as content:
        slab = slab_in(content, text)
        meaning = layout.meaning_in(slab)
    if not layout.fits(slab):
        return None
    return _File(
        content=content,
        meaning=meaning,
        nbytes=layout.nbytes_in(slab),
        peaks=layout.peaks_in(slab),
        reach=layout.reach,
    )


def _studied(
    path: Path, text: bytes, targets: Targets, conversion: Conversion
) -> tuple[_File, Layout | None]:
    """Read a file of whose like nothing is known; return what others of its header have, if that is sure."""
    header = read_header(path, text)
    # before the tensors are read: whole checkpoints are taken for adapters, and are large
    found_keys = sort_keys({key: key for key in header.entries}, targets.components)
    configs = read_configs(header.metadata, targets.components)
    looked_at: set[str] = set()
    respell = partial(spell, components=targets.components, conversion=conversion, on_look=looked_at.update)

    def meant(tensors: Mapping[str, Tensor]) -> Meaning:
        found = found_keys.with_values(tensors)
        changes, unknown = _changes(read_layers(found, respell), targets, configs)
        unknown = [*unknown, *found.unknown]
        _refuse_strangers(unknown, len(changes) + len(unknown), targets.components)
        words = read_words(found.words)
        if not changes and not words:
            raise AdapterFault("it changes nothing in this base")
        return Meaning(
            changes={name: tuple(deltas) for name, deltas in changes.items()},
            words=words,
            warnings=_warnings(unknown, len(changes) + len(unknown)),
        )

    if header.tensors_nbytes >= REHEARSED_NBYTES and conversion.renames_only:
        meant(hollow(header))
    content, slab, by_key = read_tensors(path, header)
    meaning = meant(by_key)
    tensors = list(meaning.tensors)
    searches, reach = searches_of(tensors), reach_of(meaning)
    file = _File(
        content=content,
        meaning=meaning,
        nbytes=nbytes_of(tensors),
        peaks=peaks_by(searches, len(tensors)),
        reach=reach,
    )
    decisive = {found_keys.plain[key] for key in looked_at if key in found_keys.plain}
    return file, layout_of(header, slab, meaning, searches=searches, reach=reach, decisive=decisive)


def _checked(file: _File, readings: Readings) -> CanonicalAdapter:
    """Return the adapter that a file is.

    Raises:
        AdapterFault: a number is not finite, or they are too large.
    """
    finite = np.isfinite(file.peaks)
    if not finite.all():
        name, _ = next(islice(file.meaning.named_tensors, int(finite.argmin()), None))
        raise AdapterFault(f"{name}: a factor holds NaN or infinity")
    reach, fixed_reach = file.reach.at(file.peaks)
    return CanonicalAdapter(
        changes=file.meaning.changes,
        words=file.meaning.words,
        warnings=file.meaning.warnings,
        reading=readings.of(file.content),
        nbytes=file.nbytes,
        reach=reach,
        fixed_reach=fixed_reach,
    )


def _changes(
    layers: Sequence[Layer], targets: Targets, configs: Mapping[str, LoraConfig]
) -> tuple[dict[str, list[Delta]], list[str]]:
    """Return the changes by weight, and what there is no weight for."""
    changes: defaultdict[str, list[Delta]] = defaultdict(list)
    unknown = []
    for layer in layers:
        config = configs.get(layer.component)
        if biases := bias_parts(layer):
            name = targets.find_bias(layer.component, layer.module)
            if name is None:
                unknown.append(f"{layer.label}.bias")
                layer.parts.pop(biases[0])
            else:
                changes[name].append(bias_delta(layer, targets.weights[name].shape, config))
        if layer.parts:
            name = targets.find(layer.component, layer.module)
            if name is None:
                unknown.append(layer.label)
            else:
                delta = weight_delta(layer, targets.weights[name].shape, config)
                if name in targets.kept and delta.magnitude is not None:
                    raise AdapterFault(
                        f"{layer.label}: its weight is quantised, and a DoRA needs it as it was before"
                    )
                changes[name].append(delta)
    _refuse_twins(changes, targets)
    return changes, unknown


def _refuse_twins(changes: Mapping[str, Sequence[Delta]], targets: Targets) -> None:
    """Refuse several changes of one module, which a file can spell in several ways: which one is meant?"""
    modules = Counter(targets.names.values())  # those that are tied share a weight
    for name, deltas in changes.items():
        if len(deltas) > modules[name]:
            raise AdapterFault(f"{name}: several names in the file mean this module")


def _refuse_strangers(unknown: Sequence[str], total: int, components: Sequence[str]) -> None:
    """Refuse a file of which too much means nothing to this base: it speaks of another one."""
    if len(unknown) <= UNKNOWN_SHARE * total:
        return
    foreign = [label for label in unknown if label.partition(".")[0] not in components]
    if len(foreign) == total:
        raise AdapterFault(
            f"{quoted(foreign[0])} belongs to no part of this base ({', '.join(components)}); "
            "the adapter was made for another kind of model"
        )
    raise AdapterFault(
        f"{len(unknown)} of its {total} layers do not exist in this base, such as {quoted(unknown[0])}; "
        "it was made for another base"
    )


def _warnings(unknown: Sequence[str], total: int) -> tuple[str, ...]:
    if not unknown:
        return ()
    share = f"{len(unknown)} of its {total} layers"
    return (f"{share} match nothing in this base and are left out, such as {quoted(unknown[0])}",)
