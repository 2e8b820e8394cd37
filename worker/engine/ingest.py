"""From a weight file to the canonical adapter: every tensor accounted for, or a fault that says which."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

from torch import Tensor

from worker.engine.adapter import CanonicalAdapter, Delta
from worker.engine.contract import AdapterFault, quoted
from worker.engine.conversion import Conversion
from worker.engine.keys import sort_keys
from worker.engine.kinds import bias_delta, bias_parts, weight_delta
from worker.engine.layers import Layer, read_layers
from worker.engine.layouts import Layout, Layouts, header_key, layout_of
from worker.engine.peaks import peaks_by, searches_of
from worker.engine.scales import LoraConfig, read_configs
from worker.engine.slab import compacted, nbytes_of
from worker.engine.spelling import spell
from worker.engine.targets import Targets
from worker.engine.weight_file import (
    hollow,
    read_content,
    read_header,
    read_header_text,
    read_tensors,
    slab_in,
)
from worker.engine.words import read_words

UNKNOWN_SHARE = 0.05
"""Of a file's layers, that may match nothing in the base: beyond it, the file was made for another one."""

LARGEST_PRODUCT = 1e30
"""Of numbers on the way to a change: float32 holds 3e38, and a strength is yet to come."""

HASHED_AT_ONCE = 16 << 20
"""Bytes: some ten milliseconds. Between two of them, Python's lock has to be waited for."""

REHEARSED_NBYTES = 64 << 20
"""Of a file's tensors, from which on it takes longer to read them than to see whether they fit the base."""


def ingest(path: Path, targets: Targets, conversion: Conversion, layouts: Layouts) -> CanonicalAdapter:
    """Read a weight file for the base that `targets` belongs to. Reads no weight and writes none.

    Raises:
        AdapterFault: broken, hostile, of another kind, or made for another base.
    """
    text = read_header_text(path)
    key = header_key(text, targets.components)
    layout = layouts.of(key)
    if layout is not None:
        content = read_content(path, text, layout.nbytes)
        slab = slab_in(content, text)
        if layout.fits(slab):
            with _hashed_beside(content) as digest:
                return _checked(layout.adapter_in(slab), layout.peaks_in(slab), digest)
    adapter, layout = _studied(path, text, targets, conversion)
    if layout is not None:
        layouts.note(key, layout)
    return compacted(adapter)


def _studied(
    path: Path, text: bytes, targets: Targets, conversion: Conversion
) -> tuple[CanonicalAdapter, Layout | None]:
    """Read a file of whose like nothing is known; return what others of its header have, if that is sure."""
    header = read_header(path, text)
    # before the tensors are read: whole checkpoints are taken for adapters, and are large
    found_keys = sort_keys({key: key for key in header.entries}, targets.components)
    configs = read_configs(header.metadata, targets.components)
    looked_at: set[str] = set()
    respell = partial(spell, components=targets.components, conversion=conversion, on_look=looked_at.update)

    def meant(tensors: Mapping[str, Tensor]) -> CanonicalAdapter:
        found = found_keys.with_values(tensors)
        changes, unknown = _changes(read_layers(found, respell), targets, configs)
        unknown = [*unknown, *found.unknown]
        _refuse_strangers(unknown, len(changes) + len(unknown), targets.components)
        return CanonicalAdapter(
            digest="",
            nbytes=0,
            changes={name: tuple(deltas) for name, deltas in changes.items()},
            reach=0.0,
            words=read_words(found.words),
            warnings=_warnings(unknown, len(changes) + len(unknown)),
        )

    if header.tensors_nbytes >= REHEARSED_NBYTES and conversion.renames_only:
        meant(hollow(header))
    file = read_tensors(path, header)
    with _hashed_beside(file.content) as digest:
        adapter = meant(file.tensors)
        tensors = list(adapter.tensors)
        searches = searches_of(tensors)
        adapter = _checked(adapter, peaks_by(searches, len(tensors)), digest)
    decisive = {found_keys.plain[key] for key in looked_at if key in found_keys.plain}
    return adapter, layout_of(header, file.slab, adapter, searches, decisive)


def _checked(adapter: CanonicalAdapter, peaks: Sequence[float], digest: Future[str]) -> CanonicalAdapter:
    """Return the adapter with what its numbers and bytes decide on.

    Args:
        adapter: without that.
        peaks: the greatest magnitude in each of its tensors.
        digest: of its file, being made.

    Raises:
        AdapterFault: a number is not finite, or they are too large.
    """
    by_tensor = {}
    for (name, tensor), peak in zip(adapter.named_tensors, peaks, strict=True):
        if not math.isfinite(peak):
            raise AdapterFault(f"{name}: a factor holds NaN or infinity")
        by_tensor[id(tensor)] = peak
    reach, fixed_reach = _reach(adapter.changes, by_tensor)
    nbytes = nbytes_of(adapter.tensors)
    return replace(adapter, digest=digest.result(), nbytes=nbytes, reach=reach, fixed_reach=fixed_reach)


@contextmanager
def _hashed_beside(content: memoryview) -> Iterator[Future[str]]:
    """Hash `content` beside what is done with it. A fault does not wait for that: files are large."""
    stopped = Event()

    def digest() -> str:
        sha256 = hashlib.sha256()
        for start in range(0, len(content), HASHED_AT_ONCE):
            if stopped.is_set():
                break
            sha256.update(content[start : start + HASHED_AT_ONCE])
        return sha256.hexdigest()

    with ThreadPoolExecutor(max_workers=1) as beside:
        try:
            yield beside.submit(digest)
        except BaseException:
            stopped.set()
            raise


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
    return changes, unknown


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


def _reach(changes: Mapping[str, Sequence[Delta]], peaks: Mapping[int, float]) -> tuple[float, float]:
    """Return bounds on the change of any element: at strength 1 in proportion to it, and at any strength.

    A DoRA's weight is within its magnitude; what is inside the norm is bounded, too, as its squares are
    summed.

    Raises:
        AdapterFault: numbers on the way to a change could leave float32.
    """
    reach = fixed = 0.0
    for name, deltas in changes.items():
        total = rest = 0.0
        for delta in deltas:
            total += abs(delta.scale) * delta.matrix.bound(lambda factor: peaks[id(factor)])
            way = delta.matrix.bound(lambda factor: max(1.0, peaks[id(factor)]))
            if not max(1.0, abs(delta.scale)) * way <= LARGEST_PRODUCT:
                raise AdapterFault(f"{name}: its factors are too large to be multiplied")
            if delta.magnitude is not None:
                rest += peaks[id(delta.magnitude)]
        reach, fixed = max(reach, total), max(fixed, rest)
    return reach, fixed
