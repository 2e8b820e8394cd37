"""A file of a header that was met before comes out as it does where nothing is known, bit by bit."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests import adapter_files as files
from tests.adapter_kinds import Maker, spelled
from tests.integration.worker.engine.conftest import assert_equal
from tests.integration.worker.engine.hostile import raw_file
from tests.integration.worker.engine.test_equals_diffusers import CASES, Case, attention_only
from tests.integration.worker.engine.test_kinds import (
    ENCODERS,
    IN_KERNELS,
    KERNELS,
    KINDS,
    LINEAR,
    NORMS,
    made_for,
    named,
)
from worker.engine import layouts as layouts_module
from worker.engine.adapter import CanonicalAdapter
from worker.engine.contract import AdapterFault
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.ingest import ingest
from worker.engine.keys import sort_keys
from worker.engine.layouts import Layouts

CONFIG = "lora_adapter_metadata"


@pytest.fixture
def layouts() -> Layouts:
    return Layouts()


def read(engine: DiffusersEngine, path: Path, layouts: Layouts | None = None) -> CanonicalAdapter:
    """Ingest the file with what `layouts` know: nothing, where there are none."""
    return ingest(path, engine._targets, engine._conversion, layouts or Layouts(), engine._readings)


def read_as_known(engine: DiffusersEngine, path: Path, layouts: Layouts) -> CanonicalAdapter:
    with mock.patch("worker.engine.ingest._studied", side_effect=AssertionError("nothing is known of it")):
        return read(engine, path, layouts)


def is_known(engine: DiffusersEngine, path: Path, layouts: Layouts) -> bool:
    with mock.patch("worker.engine.ingest._studied", side_effect=LookupError):
        try:
            read(engine, path, layouts)
        except LookupError:
            return False
        return True


def sibling(path: Path, header: Mapping[str, str] | None = None, **changes: Tensor) -> Path:
    """Write a file with other numbers under the same header; alphas stay, and so do `changes`."""
    generator = torch.Generator().manual_seed(77)
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = {
        key: tensor
        if key.endswith("alpha")
        else (torch.randn(tensor.shape, generator=generator) * 0.1).to(tensor.dtype)
        for key, tensor in load_file(path).items()
    }
    return files.write(
        path.with_name("sibling.safetensors"), tensors | changes, {**metadata, **(header or {})}
    )


def parts_of(path: Path) -> tuple[bytes, bytes]:
    """Return a file's header as it is written, and its numbers."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def check(engine: DiffusersEngine, path: Path, layouts: Layouts) -> None:
    first = read(engine, path, layouts)
    other = sibling(path)
    assert_equal(read_as_known(engine, other, layouts), read(engine, other))
    assert_equal(read_as_known(engine, path, layouts), first)


def a_lora(engine: DiffusersEngine, folder: Path, **header: str) -> Path:
    layers = files.random_layers(engine._pipeline, attention_only(engine._pipeline), alpha=lambda _: 2.0)
    return files.write(folder / "lora.safetensors", files.kohya(layers), header)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_every_spelling(xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, case: Case) -> None:
    tensors, header = case(xl._pipeline)
    check(xl, files.write(tmp_path / "a.safetensors", tensors, header), layouts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, kind: str) -> None:
    targets = [("unet", path) for path in (KERNELS if kind in IN_KERNELS else LINEAR + KERNELS)]
    targets += [] if kind in IN_KERNELS else ENCODERS.values()
    layers = made_for(xl, KINDS[kind], targets)
    tensors = spelled({named(*target): made for target, made in layers.items()})
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layouts)


def test_norms_and_learned_words(xl: DiffusersEngine, layouts: Layouts, tmp_path: Path) -> None:
    layers = made_for(xl, Maker.norm, [("unet", path) for path in NORMS])
    tensors = spelled({named(*target): made for target, made in layers.items()})
    tensors |= {"clip_l": torch.randn(3, 32), "clip_g": torch.randn(3, 32)}
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layouts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_format_of_numbers(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Beside alphas of another one, which stand between them."""
    layers = files.random_layers(xl._pipeline, attention_only(xl._pipeline), dtype=dtype)
    check(xl, files.write(tmp_path / "a.safetensors", files.kohya(layers)), layouts)


def test_text_fields_and_the_blanks_that_fill_a_header_make_no_difference(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    path = a_lora(xl, tmp_path)
    read(xl, path, layouts)
    for length in range(9):
        other = sibling(path, {"title": "é" * length})
        assert_equal(read_as_known(xl, other, layouts), read(xl, other))


@pytest.mark.parametrize("title", ['x"},', '"},"', "\\", '\\"},"x', "{}", "\u0000"])
def test_text_fields_that_look_like_the_rest_of_a_header(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, title: str
) -> None:
    path = a_lora(xl, tmp_path)
    read(xl, path, layouts)
    other = sibling(path, {"title": title})
    for _ in range(2):
        assert_equal(read(xl, other, layouts), read(xl, other))


def test_a_file_without_text_fields_is_known_from_another_one(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    path = a_lora(xl, tmp_path)
    bare = tmp_path / "bare.safetensors"
    text, numbers = parts_of(path)
    bare.write_bytes(raw_file(b"{" + text.partition(b"},")[2], numbers))
    read(xl, bare, layouts)
    assert_equal(read_as_known(xl, bare, layouts), read(xl, bare))


def test_other_alphas_are_not_taken_for_the_known_ones(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    path = a_lora(xl, tmp_path)
    first = read(xl, path, layouts)
    alpha = next(key for key in load_file(path) if key.endswith("alpha"))
    other = sibling(path, **{alpha: torch.tensor(3.0)})
    assert not is_known(xl, other, layouts)
    adapter = read(xl, other, layouts)
    scales = [
        [delta.scale for deltas in each.changes.values() for delta in deltas] for each in (first, adapter)
    ]
    assert sum(one != other for one, other in zip(*scales, strict=True)) == 1
    assert_equal(adapter, read(xl, other))


def with_config(engine: DiffusersEngine, folder: Path, config: str) -> Path:
    layers = files.random_layers(engine._pipeline, attention_only(engine._pipeline))
    return files.write(folder / "a.safetensors", files.peft(layers), {CONFIG: config})


def test_another_config_is_not_taken_for_the_known_one(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    path = with_config(xl, tmp_path, '{"unet.r": 4, "unet.lora_alpha": 3}')
    read(xl, path, layouts)
    # nothing of this changes what the factors mean
    same = sibling(
        path, {"title": "other", CONFIG: '{"unet.lora_alpha":3,"unet.target_modules":[],"unet.r":4}'}
    )
    assert is_known(xl, same, layouts)
    other = sibling(path, {CONFIG: '{"unet.r": 4, "unet.lora_alpha": 8}'})
    assert not is_known(xl, other, layouts)
    assert_equal(read(xl, other, layouts), read(xl, other))


def test_a_config_whose_name_is_spelled_with_escapes_is_one(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    plain = with_config(xl, tmp_path, '{"unet.r": 4, "unet.lora_alpha": 3}')
    escaped = tmp_path / "escaped.safetensors"
    text, numbers = parts_of(plain)
    escaped.write_bytes(raw_file(text.replace(b"lora_adapter", rb"lora\u005fadapter"), numbers))
    no_config = tmp_path / "none.safetensors"
    no_config.write_bytes(raw_file(text.replace(b"lora_adapter", b"Lora_adapter"), numbers))
    read(xl, no_config, layouts)
    assert not is_known(xl, escaped, layouts)
    assert_equal(read(xl, escaped, layouts), read(xl, escaped))
    assert is_known(xl, plain, layouts)


@pytest.mark.parametrize("config", ["{", "[]", '{"unet.r": -1}', "[" * 10_000])
def test_a_broken_config_is_refused_whatever_is_known(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, config: str
) -> None:
    path = with_config(xl, tmp_path, "")
    read(xl, path, layouts)
    broken = sibling(path, {CONFIG: config})
    for known in (layouts, Layouts()):
        with pytest.raises(AdapterFault, match="config in the file's header is broken"):
            read(xl, broken, known)


def test_many_text_fields_are_not_searched_for_a_config(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts_module, "MOST_FIELDS", 100)
    path = with_config(xl, tmp_path, "")
    read(xl, path, layouts)
    other = sibling(path, {"title": "x" * 100})
    assert not is_known(xl, other, layouts)
    assert_equal(read(xl, other, layouts), read(xl, other))
    assert is_known(xl, other, layouts)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_are_looked_at_in_every_file(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, value: float
) -> None:
    path = a_lora(xl, tmp_path)
    read(xl, path, layouts)
    key = next(key for key in load_file(path) if key.endswith("up.weight"))
    broken = load_file(path)[key].clone()
    broken[1, 1] = value
    other = sibling(path, **{key: broken})
    for known in (layouts, Layouts()):
        with pytest.raises(AdapterFault, match=r"unet\..*: a factor holds NaN or infinity"):
            read(xl, other, known)


@pytest.mark.parametrize("change", [-1, 1, -1000])
def test_a_known_header_over_another_number_of_bytes_is_refused(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, change: int
) -> None:
    path = a_lora(xl, tmp_path)
    read(xl, path, layouts)
    content = path.read_bytes()
    path.write_bytes(content + b"\0" * change if change > 0 else content[:change])
    for known in (layouts, Layouts()):
        with pytest.raises(AdapterFault, match="not a whole safetensors file"):
            read(xl, path, known)


def test_nothing_is_remembered_of_a_file_whose_other_tensors_may_have_decided_something(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    layers = files.random_layers(xl._pipeline, attention_only(xl._pipeline))
    tensors = files.kohya(layers) | {"lora_unet_nowhere.lora_down.weight": torch.zeros(4, 8)}
    tensors["lora_unet_nowhere.lora_up.weight"] = torch.zeros(8, 4)
    path = files.write(tmp_path / "a.safetensors", tensors)
    assert read(xl, path, layouts).warnings
    assert not is_known(xl, path, layouts)


def test_nothing_is_remembered_of_a_refused_file(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    layers = files.random_layers(xl._pipeline, attention_only(xl._pipeline))
    path = files.write(
        tmp_path / "a.safetensors", files.peft(files.with_factor(layers, 3, up=torch.ones(9, 9)))
    )
    with pytest.raises(AdapterFault):
        read(xl, path, layouts)
    assert not is_known(xl, path, layouts)


def flux_layers(flux: DiffusersEngine) -> list[files.Layer]:
    targets = files.linears(flux._pipeline, "transformer", ".to_q", ".net.2", ".proj_out")
    return files.random_layers(flux._pipeline, targets)


def test_a_family_whose_converter_leaves_the_tensors_as_they_are(
    flux: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    check(flux, files.write(tmp_path / "a.safetensors", files.peft(flux_layers(flux))), layouts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_converter_for_unets_which_nobody_watches_looks_at_alphas_alone(
    xl: DiffusersEngine, case: Case
) -> None:
    tensors, _ = case(xl._pipeline)
    plain = sort_keys(tensors, xl._targets.components).plain
    looked_at: set[str] = set()
    assert xl._conversion.renames_only
    replace(xl._conversion, denoiser="watched").convert(plain, looked_at.update)
    assert looked_at == {key for key in plain if key.endswith(".alpha")}


def test_nothing_is_remembered_where_a_converter_makes_tensors(
    flux: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    layer = "lora_unet_double_blocks_0_img_attn_qkv"
    width = flux._pipeline.transformer.inner_dim
    tensors = {
        f"{layer}.lora_down.weight": torch.randn(4, width),
        f"{layer}.lora_up.weight": torch.randn(3 * width, 4),
        f"{layer}.alpha": torch.tensor(2.0),
    }
    path = files.write(tmp_path / "a.safetensors", tensors)
    assert len(read(flux, path, layouts).changes) == 3
    assert not is_known(flux, path, layouts)


def test_nothing_is_remembered_where_a_converter_looks_at_the_adapters_numbers(
    flux: DiffusersEngine, layouts: Layouts, tmp_path: Path
) -> None:
    path = files.write(tmp_path / "a.safetensors", files.peft(flux_layers(flux)))

    def curious(state: dict[str, Tensor], **options: object) -> tuple[object, ...]:
        assert all(tensor.any() for tensor in state.values())
        return flux._conversion.converter(state, **options)

    conversion = replace(flux._conversion, converter=curious)
    ingest(path, flux._targets, conversion, layouts, flux._readings)
    assert not is_known(flux, path, layouts)


def test_the_layouts_that_were_met_last_are_remembered(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts_module, "MOST_LAYOUTS", 2)
    paths = []
    for rank in (2, 3, 4):
        layers = files.random_layers(xl._pipeline, attention_only(xl._pipeline), rank=lambda _, r=rank: r)
        paths.append(files.write(tmp_path / f"{rank}.safetensors", files.peft(layers)))
    for path in (paths[0], paths[1], paths[0], paths[2]):
        read(xl, path, layouts)
    assert [is_known(xl, path, layouts) for path in paths] == [True, False, True]


def test_very_large_headers_are_not_remembered(
    xl: DiffusersEngine, layouts: Layouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts_module, "MOST_TENSORS", 5)
    path = a_lora(xl, tmp_path)
    read(xl, path, layouts)
    assert not is_known(xl, path, layouts)
