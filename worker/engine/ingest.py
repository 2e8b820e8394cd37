"""From a weight file to the canonical adapter: every tensor accounted for, or a fault that says which."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

from torch import Tensor

from worker.engine.adapter import CanonicalAdapter, Delta, Word
from worker.engine.contract import AdapterFault, quoted
from worker.engine.conversion import Conversion
from worker.engine.keys import sort_keys
from worker.engine.kinds import bias_delta, bias_parts, weight_delta
from worker.engine.layers import Layer, read_layers
from worker.engine.peaks import peaks_of
from worker.engine.scales import LoraConfig, read_configs
from worker.engine.slab import compacted, nbytes_of
from worker.engine.spelling import spell
from worker.engine.targets import Targets
from worker.engine.weight_file import hollow, read_header, read_tensors
from worker.engine.words import read_words

UNKNOWN_SHARE = 0.05
"""Of a file's layers, that may match nothing in the base: beyond it, the file was made for another one."""

LARGEST_PRODUCT = 1e30
"""Of numbers on the way to a change: float32 holds 3e38, and a strength is yet to come."""

HASHED_AT_ONCE = 4 << 20
"""Bytes: some milliseconds."""

REHEARSED_NBYTES = 64 << 20
"""Of a file's tensors, from which on it takes longer to read them than to see whether they fit the base."""

Changes = Mapping[str, Sequence[Delta]]


def ingest(path: Path, targets: Targets, conversion: Conversion) -> CanonicalAdapter:
    """Read a weight file for the base that `targets` belongs to. Reads no weight and writes none.

    Raises:
        AdapterFault: broken, hostile, of another kind, or made for another base.
    """
    header = read_header(path)
    # before the tensors are read: whole checkpoints are taken for adapters, and are large
    found_keys = sort_keys({key: key for key in header.entries}, targets.components)
    configs = read_configs(header.metadata, targets.components)
    respell = partial(spell, components=targets.components, conversion=conversion)

    def meant(tensors: Mapping[str, Tensor]) -> tuple[Changes, Sequence[str], Sequence[Word]]:
        found = found_keys.with_values(tensors)
        changes, unknown = _changes(read_layers(found, respell), targets, configs)
        unknown = [*unknown, *found.unknown]
        _refuse_strangers(unknown, len(changes) + len(unknown), targets.components)
        return changes, unknown, read_words(found.words)

    if header.tensors_nbytes >= REHEARSED_NBYTES and conversion.renames_only:
        meant(hollow(header))
    file = read_tensors(path, header)
    with _hashed_beside(file.content) as digest:
        changes, unknown, words = meant(file.tensors)
        tensors = _named_tensors(changes, words)
        peaks = _finite_peaks(tensors)
        reach, fixed_reach = _reach(changes, peaks)
    adapter = CanonicalAdapter(
        digest=digest.result(),
        nbytes=nbytes_of(tensor for _, tensor in tensors),
        changes={name: tuple(deltas) for name, deltas in changes.items()},
        reach=reach,
        fixed_reach=fixed_reach,
        words=tuple(words),
        warnings=_warnings(unknown, len(changes) + len(unknown)),
    )
    del file  # its slab goes here, unless tensors still lie in it
    return compacted(adapter)


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


def _named_tensors(changes: Changes, words: Sequence[Word]) -> list[tuple[str, Tensor]]:
    factors = [
        (name, factor) for name, deltas in changes.items() for delta in deltas for factor in delta.factors
    ]
    return factors + [(word.token, vectors) for word in words for vectors in word.vectors.values()]


def _finite_peaks(tensors: Sequence[tuple[str, Tensor]]) -> Mapping[int, float]:
    """Return the greatest magnitude in each tensor, by its `id`.

    Raises:
        AdapterFault: one holds NaN or infinity.
    """
    peaks = peaks_of(tensor for _, tensor in tensors)
    for name, tensor in tensors:
        if not math.isfinite(peaks[id(tensor)]):
            raise AdapterFault(f"{name}: a factor holds NaN or infinity")
    return peaks


def _reach(changes: Changes, peaks: Mapping[int, float]) -> tuple[float, float]:
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
