"""What a refusal has to leave behind, and parts of files that are meant to be refused."""

import json
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import Tensor

from tests import adapter_files as files
from tests.integration.worker.engine.conftest import picture
from tests.integration.worker.engine.test_merged_weights import everything
from worker.engine.contract import AdapterFault
from worker.engine.diffusers_engine import DiffusersEngine

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], Tensors]

MOST_MEMORY = 256 << 20
"""Bytes that a whole set of files may add to the process at its peak; each of them is far smaller."""


def small_picture(engine: DiffusersEngine) -> bytes:
    """The smallest picture: all weights take part in it."""
    return picture(engine, width=16, height=16, steps=1)


@contextmanager
def memory_stays_bounded() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown <= MOST_MEMORY, f"{grown >> 20} MiB more at the peak"


def assert_refused(engine: DiffusersEngine, path: Path, message: str) -> None:
    """Refused for that reason, told in a line of bounded length; the next image is the same."""
    before = small_picture(engine)
    with pytest.raises(AdapterFault, match=message) as refusal:
        engine.ingest(path)
    text = str(refusal.value)
    assert text.isprintable()
    assert len(text) < 600
    assert small_picture(engine) == before


def raw_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, end: int, shape: list[object], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def good(engine: DiffusersEngine) -> Tensors:
    return files.peft(files.random_layers(engine._pipeline, everything(engine)[:4]))


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {key.replace(old, new): tensor for key, tensor in tensors.items()}


def replaced(tensors: Tensors, change: Callable[[Tensor], Tensor], end: str = "lora_B.weight") -> Tensors:
    key = next(key for key in tensors if key.endswith(end))
    return tensors | {key: change(tensors[key])}


def poisoned(value: float, end: str = "lora_B.weight") -> Change:
    def poison(tensor: Tensor) -> Tensor:
        bad = tensor.clone()
        bad.view(-1)[-1] = value
        return bad

    return lambda tensors: replaced(tensors, poison, end)


def kohya(tensors: Tensors, end: str, value: Tensor) -> Tensors:
    """The same in Kohya's spelling, with one key more for each layer."""
    downs = {
        "lora_unet_" + key.removeprefix("unet.").removesuffix(".lora_A.weight").replace(".", "_"): tensor
        for key, tensor in tensors.items()
        if "lora_A" in key
    }
    ups = [tensor for key, tensor in tensors.items() if "lora_B" in key]
    respelt = {}
    for (name, down), up in zip(downs.items(), ups, strict=True):
        respelt |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.{end}": value}
    return respelt
