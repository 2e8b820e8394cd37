"""Files that must not get in: each is refused by name, and no weight is touched (the fixture verifies)."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import adapter_files as files
from tests.integration.worker.engine.conftest import picture
from tests.integration.worker.engine.test_merged_weights import everything
from worker.engine.contract import AdapterFault
from worker.engine.diffusers_engine import DiffusersEngine

Tensors = dict[str, Tensor]


def raw_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends before its header"),
    "a few bytes": (b"\x08\x00\x00", "ends before its header"),
    "pickle": (pickle.dumps({"lora": 1}, protocol=2), "pickled"),
    "zipped pickle": (b"PK\x03\x04" + b"\0" * 64, "pickled"),
    "text": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "safetensors"),
    "huge header": (raw_file({}, length=10 << 30), "ends before its header"),
    "long header": (raw_file(b" " * ((8 << 20) + 1)), "header takes"),
    "no json": (raw_file(b"{" * 64), "safetensors"),
    "deep json": (raw_file(b'{"a":' * 5000), "safetensors"),
    "no tensors": (raw_file({}), "no tensors"),
    "overlap": (
        raw_file({"a.lora_A.weight": entry(0, 4, [1]), "a.lora_B.weight": entry(0, 4, [1])}, b"\0" * 4),
        "safetensors",
    ),
    "hole": (raw_file({"a.lora_A.weight": entry(4, 8, [1])}, b"\0" * 8), "safetensors"),
    "out of bounds": (raw_file({"a.lora_A.weight": entry(0, 1 << 40, [1 << 38])}, b"\0" * 8), "safetensors"),
    "shape of another size": (raw_file({"a.lora_A.weight": entry(0, 4, [9])}, b"\0" * 4), "safetensors"),
    "shape that overflows": (
        raw_file({"a.lora_A.weight": entry(0, 4, [1 << 62, 1 << 62])}, b"\0" * 4),
        "safetensors",
    ),
    "bytes after the end": (raw_file({"a.lora_A.weight": entry(0, 4, [1])}, b"\0" * 9), "safetensors"),
    "integers": (raw_file({"a.lora_A.weight": entry(0, 4, [1], "I32")}, b"\0" * 4), "holds I32"),
    "many tensors": (
        raw_file({f"{i}.lora_A.weight": entry(0, 0, [0]) for i in range(20_001)}),
        "20001 tensors",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_no_adapter(xl: DiffusersEngine, tmp_path: Path, name: str) -> None:
    content, message = CONTENTS[name]
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterFault, match=message):
        xl.ingest(path)


def good(engine: DiffusersEngine) -> Tensors:
    return files.peft(files.random_layers(engine._pipeline, everything(engine)[:4]))


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {key.replace(old, new): tensor for key, tensor in tensors.items()}


def replaced(tensors: Tensors, change: Callable[[Tensor], Tensor], end: str = "lora_B.weight") -> Tensors:
    key = next(key for key in tensors if key.endswith(end))
    return tensors | {key: change(tensors[key])}


def poisoned(value: float) -> Callable[[Tensors], Tensors]:
    def poison(tensor: Tensor) -> Tensor:
        bad = tensor.clone()
        bad[-1, -1] = value
        return bad

    return lambda tensors: replaced(tensors, poison)


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


ONE = torch.ones(1)

CHANGES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "NaN": (poisoned(torch.nan), "NaN"),
    "infinity": (poisoned(torch.inf), "NaN or infinity"),
    "wrong shape": (lambda t: replaced(t, lambda up: up[:-1]), "do not fit"),
    "wrong inner rank": (lambda t: replaced(t, lambda up: up[:, :-1]), "do not fit"),
    "rank 0": (lambda t: replaced(t, lambda down: down[:0], "lora_A.weight"), "rank 0"),
    "rank bomb": (lambda t: replaced(t, lambda d: d.new_zeros(513, d.shape[1]), "lora_A.weight"), "rank 513"),
    "scalar": (lambda t: replaced(t, lambda _: torch.tensor(1.0), "lora_A.weight"), "rank 0"),
    "five dimensions": (lambda t: replaced(t, lambda up: up[..., None, None, None]), "do not fit"),
    "unknown layer": (
        lambda t: renamed(t, "down_blocks.1", "down_blocks.9"),
        "4 of its 4 layers do not exist",
    ),
    "another family": (lambda t: renamed(t, "unet.", "transformer."), "another kind of model"),
    "an LLM's": (lambda t: renamed(t, "unet.", "base_model.model."), "another kind of model"),
    "one stranger": (lambda t: t | {"unet.lora.weight": ONE}, "not the key of a LoRA factor"),
    "down without up": (lambda t: dict(list(t.items())[:-1]), "no up factor"),
    "up without down": (lambda t: dict(list(t.items())[1:]), "no down factor"),
    "full checkpoint": (lambda _: {"unet.conv_in.weight": ONE}, "not a LoRA"),
    "bias": (lambda t: t | {"unet.conv_in.lora_B.bias": ONE}, "LoRA with a bias"),
    "PEFT DoRA": (lambda t: t | {"unet.conv_in.lora_magnitude_vector": ONE}, "DoRA"),
    "Kohya DoRA": (lambda t: kohya(t, "dora_scale", ONE), "DoRA"),
    "LoHa": (lambda _: {"lora_unet_conv_in.hada_w1_a": ONE}, "LoHa"),
    "LoKr": (lambda _: {"lora_unet_conv_in.lokr_w1": ONE}, "LoKr"),
    "middle factor": (lambda t: kohya(t, "lora_mid.weight", ONE), "middle factor"),
    "full difference": (lambda t: kohya(t, "diff_b", ONE), "full differences"),
    "embeddings": (lambda _: {"clip_l": ONE, "clip_g": ONE}, "textual-inversion embeddings"),
    "bundled embeddings": (lambda t: t | {"bundle_emb.x.string_to_param": ONE}, "embeddings"),
    "alpha NaN": (lambda t: kohya(t, "alpha", torch.tensor(torch.nan)), "its alpha is nan"),
    "alpha of many": (lambda t: kohya(t, "alpha", torch.ones(3)), "no known format"),
    "two namings": (
        lambda t: (
            kohya(t, "alpha", torch.tensor(1.0))
            | {
                "lora_unet_input_blocks_4_1_proj_in.lora_down.weight": ONE,
                "lora_unet_input_blocks_4_1_proj_in.lora_up.weight": ONE,
            }
        ),
        "mix formats",
    ),
    "two formats": (lambda t: t | kohya(t, "alpha", torch.tensor(1.0)), "another kind of model"),
    "Kohya without up": (
        lambda t: dict(list(kohya(t, "alpha", torch.tensor(1.0)).items())[:1]),
        "no known format",
    ),
    "block number of letters": (
        lambda _: {"lora_unet_input_blocks_x_1_proj_in.lora_down.weight": ONE},
        "no known format",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_adapter_that_is_wrong_somewhere(xl: DiffusersEngine, tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    path = files.write(tmp_path / "adapter.safetensors", change(good(xl)))
    with pytest.raises(AdapterFault, match=message):
        xl.ingest(path)


CONFIGS: dict[str, tuple[str, str]] = {
    "no json": ("{", "is broken"),
    "no object": ("[1]", "is broken"),
    "deep": ('{"unet.r": ' + "[" * 100_000, "is broken"),
    "another rank": ('{"unet.r": 16, "unet.lora_alpha": 16}', "rank 4, the file's config says 16"),
    "infinite alpha": ('{"unet.r": 4, "unet.lora_alpha": 1e999}', "is broken"),
    "text for a number": ('{"unet.r": "4"}', "is broken"),
    "DoRA": ('{"unet.r": 4, "unet.use_dora": true}', "DoRA"),
    "changes the base": ('{"unet.r": 4, "unet.init_lora_weights": "pissa"}', "init_lora_weights"),
    "regular expression": ('{"unet.r": 4, "unet.alpha_pattern": {"(a+)+$": 1}}', "not a module name"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_wrong(xl: DiffusersEngine, tmp_path: Path, name: str) -> None:
    config, message = CONFIGS[name]
    path = files.write(tmp_path / "adapter.safetensors", good(xl), {"lora_adapter_metadata": config})
    with pytest.raises(AdapterFault, match=message):
        xl.ingest(path)


def test_alpha_by_key_and_by_config(xl: DiffusersEngine, tmp_path: Path) -> None:
    path = files.write(
        tmp_path / "adapter.safetensors",
        kohya(good(xl), "alpha", torch.tensor(1.0)),
        {"lora_adapter_metadata": '{"unet.r": 4}'},
    )
    with pytest.raises(AdapterFault, match="given twice"):
        xl.ingest(path)


def test_an_adapter_of_sd_is_not_taken_for_one_of_sdxl(
    sd: DiffusersEngine, xl: DiffusersEngine, tmp_path: Path
) -> None:
    layers = files.random_layers(sd._pipeline, files.linears(sd._pipeline, "unet"))
    path = files.write(tmp_path / "adapter.safetensors", files.peft(layers))
    sd.ingest(path)
    with pytest.raises(AdapterFault, match="another base"):
        xl.ingest(path)


def test_after_a_refusal_the_picture_is_the_same(xl: DiffusersEngine, tmp_path: Path) -> None:
    before = picture(xl)
    path = files.write(tmp_path / "adapter.safetensors", poisoned(torch.nan)(good(xl)))
    with pytest.raises(AdapterFault):
        xl.ingest(path)
    assert picture(xl) == before
