"""Whole files that hold wrong things: each is refused by name, and no weight is touched (`xl` verifies)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import adapter_files as files
from tests.adapter_kinds import Maker, spelled
from tests.integration.worker.engine.hostile import (
    Change,
    Tensors,
    assert_refused,
    good,
    kohya,
    memory_stays_bounded,
    poisoned,
    renamed,
    replaced,
)
from worker.engine.contract import AdapterFault
from worker.engine.diffusers_engine import DiffusersEngine


@pytest.fixture(autouse=True, scope="module")
def bounded() -> Iterator[None]:
    with memory_stays_bounded():
        yield


ONE = torch.ones(1)

CHANGES: dict[str, tuple[Change, str]] = {
    "NaN": (poisoned(torch.nan), "NaN"),
    "infinity": (poisoned(torch.inf), "NaN or infinity"),
    "wrong shape": (lambda t: replaced(t, lambda up: up[:-1]), "do not fit"),
    "wrong inner rank": (lambda t: replaced(t, lambda up: up[:, :-1]), "do not fit"),
    "rank 0": (lambda t: replaced(t, lambda down: down[:0], "lora_A.weight"), "rank 0"),
    "rank bomb": (lambda t: replaced(t, lambda d: d.new_zeros(513, d.shape[1]), "lora_A.weight"), "rank 513"),
    "scalar": (lambda t: replaced(t, lambda _: torch.tensor(1.0), "lora_A.weight"), "rank 0"),
    "scalar with a bias": (
        lambda _: {
            "unet.conv_in.lora_A.weight": torch.tensor(1.0),
            "unet.conv_in.lora_B.weight": ONE,
            "unet.conv_in.lora_B.bias": torch.ones(1),
        },
        "rank 0",
    ),
    "I64 factors": (lambda t: replaced(t, lambda up: up.long()), "holds I64"),
    "five dimensions": (lambda t: replaced(t, lambda up: up[..., None, None, None]), "do not fit"),
    "unknown layer": (
        lambda t: renamed(t, "down_blocks.1", "down_blocks.9"),
        "4 of its 4 layers do not exist",
    ),
    "another family": (lambda t: renamed(t, "unet.", "transformer."), "another kind of model"),
    "an LLM's": (
        lambda t: renamed(t, "unet.down_blocks.1.attentions", "base_model.model.model.layers"),
        "4 of its 4 layers do not exist",
    ),
    "one stranger": (lambda t: t | {"unet.lora.weight": ONE}, "1 of its 5 layers do not exist"),
    "down without up": (lambda t: dict(list(t.items())[:-1]), "no up factor"),
    "up without down": (lambda t: dict(list(t.items())[1:]), "no down factor"),
    "full checkpoint": (lambda _: {"unet.conv_in.weight": ONE}, "not an adapter"),
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
    "two ages of diffusers": (
        lambda t: (
            t | renamed(renamed(t, "lora_A.weight", "lora.down.weight"), "lora_B.weight", "lora.up.weight")
        ),
        "same factor of the unet",
    ),
    "modules by two names": (
        lambda t: t | renamed(t, "down_blocks.1", "down_blocks_1"),
        "several names in the file mean this module",
    ),
    "alphas alone": (
        lambda _: {"lora_unet_nowhere.alpha": ONE, "lora_unet_input_blocks_4_1_proj_in.alpha": ONE},
        "changes nothing",
    ),
    "two formats": (lambda t: t | kohya(t, "alpha", torch.tensor(1.0)), "not the key of a LoRA factor"),
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
    assert_refused(xl, files.write(tmp_path / "adapter.safetensors", change(good(xl))), message)


CONFIGS: dict[str, tuple[str, str]] = {
    "no json": ("{", "is broken"),
    "no object": ("[1]", "is broken"),
    "deep": ('{"unet.r": ' + "[" * 100_000, "is broken"),
    "another rank": ('{"unet.r": 16, "unet.lora_alpha": 16}', "rank 4, the file's config says 16"),
    "infinite alpha": ('{"unet.r": 4, "unet.lora_alpha": 1e999}', "is broken"),
    "text for a number": ('{"unet.r": "4"}', "is broken"),
    "DoRA without magnitudes": ('{"unet.r": 4, "unet.use_dora": true}', "no magnitude"),
    "changes the base": ('{"unet.r": 4, "unet.init_lora_weights": "pissa"}', "init_lora_weights"),
    "changes the base at length": (
        json.dumps({"unet.r": 4, "unet.init_lora_weights": "\0" * 100_000}),
        "init_lora_weights",
    ),
    "a pattern without an end": (
        json.dumps({"unet.r": 4, "unet.rank_pattern": {"(" * 100_000: 1}}),
        "not a module name",
    ),
    "regular expression": ('{"unet.r": 4, "unet.alpha_pattern": {"(a+)+$": 1}}', "not a module name"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_wrong(xl: DiffusersEngine, tmp_path: Path, name: str) -> None:
    config, message = CONFIGS[name]
    path = files.write(tmp_path / "adapter.safetensors", good(xl), {"lora_adapter_metadata": config})
    assert_refused(xl, path, message)


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


LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
KERNEL = "lora_unet_down_blocks_0_resnets_0_conv1"
SHAPES = {LINEAR: (64, 64), KERNEL: (32, 32, 3, 3)}

MADE: dict[str, Tensors] = {
    "LoHa": spelled({LINEAR: Maker(0).loha(SHAPES[LINEAR])}),
    "LoHa, Tucker": spelled({KERNEL: Maker(0).loha_with_tucker(SHAPES[KERNEL])}),
    "LoKr": spelled({LINEAR: Maker(0).lokr(SHAPES[LINEAR])}),
    "LoKr, factors": spelled({LINEAR: Maker(0).lokr_in_factors(SHAPES[LINEAR])}),
    "LoKr, Tucker": spelled({KERNEL: Maker(0).lokr_with_tucker(SHAPES[KERNEL])}),
    "LoCon": spelled({KERNEL: Maker(0).locon_with_mid(SHAPES[KERNEL])}),
    "DoRA": spelled(
        {LINEAR: Maker(0).decomposed(Maker(0).lora(SHAPES[LINEAR]), SHAPES[LINEAR], per_output=True)}
    ),
    "full": spelled({KERNEL: Maker(0).full(SHAPES[KERNEL])}),
    "norm": spelled({"lora_unet_conv_norm_out": Maker(0).norm((32,))}),
}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", MADE)
def test_a_number_that_is_none_in_any_kind(
    xl: DiffusersEngine, tmp_path: Path, kind: str, value: float
) -> None:
    for number, key in enumerate(MADE[kind]):
        if key.endswith(".alpha"):
            continue
        path = files.write(tmp_path / f"{number}.safetensors", poisoned(value, key)(MADE[kind]))
        with pytest.raises(AdapterFault, match="NaN or infinity"):
            xl.ingest(path)
    assert_refused(xl, path, "NaN or infinity")


@pytest.mark.parametrize("kind", MADE)
def test_a_part_that_is_missing_scalar_empty_or_of_a_huge_rank(
    xl: DiffusersEngine, tmp_path: Path, kind: str
) -> None:
    """Each part but those that may be missing."""
    optional = ("alpha", "dora_scale", "lora_mid.weight", "diff", "diff_b", "w_norm", "b_norm")
    whole = MADE[kind]
    for number, (key, tensor) in enumerate(whole.items()):
        if key.endswith("alpha"):
            continue
        bad = {
            "scalar": whole | {key: torch.tensor(1.0)},
            "empty": whole | {key: tensor[:0]},
            "transposed": whole | {key: tensor[None].expand(5, *tensor.shape)},
            "of a huge rank": whole | {key: tensor.new_zeros(513, 513)},
        }
        if not key.endswith(optional):
            bad["missing"] = {other: each for other, each in whole.items() if other != key}
        for name, tensors in bad.items():
            path = files.write(tmp_path / f"{number} {name}.safetensors", tensors)
            with pytest.raises(AdapterFault):
                xl.ingest(path)


@pytest.mark.parametrize("alpha", [torch.ones(3), torch.ones(0), torch.tensor(torch.nan)], ids=str)
@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoKr, Tucker", "LoCon", "DoRA"])
def test_an_alpha_that_is_no_number_in_any_kind(
    xl: DiffusersEngine, tmp_path: Path, kind: str, alpha: torch.Tensor
) -> None:
    tensors = {key: alpha if key.endswith("alpha") else tensor for key, tensor in MADE[kind].items()}
    assert_refused(xl, files.write(tmp_path / "adapter.safetensors", tensors), "alpha|no known format")


def zeros(**parts: tuple[int, ...]) -> Change:
    """One layer of these parts, in place of the good ones."""
    return lambda _: {f"{LINEAR}.{part}": torch.zeros(shape) for part, shape in parts.items()}


def in_kernel(**parts: tuple[int, ...]) -> Change:
    return lambda _: {f"{KERNEL}.{part}": torch.zeros(shape) for part, shape in parts.items()}


def also(kind: str, **parts: tuple[int, ...]) -> Change:
    """A layer of a kind with more parts than belong to it."""
    layer = next(iter(MADE[kind])).partition(".")[0]
    return lambda _: MADE[kind] | {f"{layer}.{part}": torch.ones(shape) for part, shape in parts.items()}


def scaled(kind: str, factor: float) -> Change:
    return lambda _: {key: tensor * factor for key, tensor in MADE[kind].items()}


BOMBS: dict[str, tuple[Change, str]] = {
    "kron of two tall ones": (zeros(lokr_w1=(1 << 20, 1), lokr_w2=(1 << 20, 1)), "do not fit"),
    "kron of a tall and a wide one": (zeros(lokr_w1=(1 << 20, 1), lokr_w2=(1, 1 << 20)), "do not fit"),
    "kron of the weight with itself": (zeros(lokr_w1=(64, 64), lokr_w2=(64, 64)), "do not fit"),
    "kron of the right size and wrong sides": (zeros(lokr_w1=(32, 128), lokr_w2=(1, 1)), "do not fit"),
    "kron across a kernel": (in_kernel(lokr_w1=(8, 72), lokr_w2=(4, 4)), "do not fit"),
    "kron of products": (
        zeros(lokr_w1_a=(4096, 1), lokr_w1_b=(1, 4096), lokr_w2_a=(4096, 1), lokr_w2_b=(1, 4096)),
        "do not fit",
    ),
    "kron without a side": (zeros(lokr_w1=(8, 8)), "lokr_w2"),
    "kron with half a side": (zeros(lokr_w1=(8, 8), lokr_w2_a=(8, 1)), "lokr_w2_b"),
    "kron with a side twice": (zeros(lokr_w1=(8, 8), lokr_w1_a=(8, 1), lokr_w2=(8, 8)), "lokr_w1_a"),
    "kron of five dimensions": (zeros(lokr_w1=(8, 8), lokr_w2=(8, 8, 1, 1, 1)), "do not fit"),
    "a core of no kernel": (
        zeros(lokr_w1=(8, 8), lokr_t2=(2, 2, 3, 3), lokr_w2_a=(2, 8), lokr_w2_b=(2, 8)),
        "do not fit",
    ),
    "a core of another kernel": (
        in_kernel(lokr_w1=(8, 8), lokr_t2=(2, 2, 5, 5), lokr_w2_a=(2, 4), lokr_w2_b=(2, 4)),
        "do not fit",
    ),
    "a core of a huge rank": (
        in_kernel(lokr_w1=(8, 8), lokr_t2=(513, 1, 3, 3), lokr_w2_a=(513, 4), lokr_w2_b=(1, 4)),
        "rank 513",
    ),
    "a core of five dimensions": (
        in_kernel(lokr_w1=(8, 8), lokr_t2=(1, 1, 3, 3, 1), lokr_w2_a=(1, 4), lokr_w2_b=(1, 4)),
        "do not fit",
    ),
    "Hadamard of long factors": (
        zeros(hada_w1_a=(64, 1), hada_w1_b=(1, 1 << 20), hada_w2_a=(64, 1), hada_w2_b=(1, 64)),
        "do not fit",
    ),
    "Hadamard with one core": (also("LoHa, Tucker", hada_t3=(1, 1, 3, 3)), "layers do not exist"),
    "Hadamard of one side": (zeros(hada_w1_a=(64, 1), hada_w1_b=(1, 64)), "hada_w2_a"),
    "a core beside a linear layer": (
        lambda _: MADE["DoRA"] | {f"{LINEAR}.lora_mid.weight": torch.zeros(3, 3, 3, 3)},
        "do not fit",
    ),
    "LoRA and LoHa in one layer": (also("DoRA", hada_w1_a=(64, 3)), "no one kind"),
    "LoRA and a difference": (also("DoRA", diff=(64, 64)), "no one kind"),
    "LoRA with a core of Hadamard": (also("DoRA", hada_t1=(3, 3, 3, 3)), "no one kind"),
    "two magnitudes": (also("DoRA", lora_magnitude_vector=(64,)), "no one kind"),
    "a magnitude alone": (zeros(dora_scale=(64, 1)), "no one kind"),
    "a magnitude of another length": (also("DoRA", dora_scale=(65, 1)), "do not fit"),
    "a magnitude of the whole weight": (also("DoRA", dora_scale=(64, 64)), "do not fit"),
    "a magnitude of a norm": (
        lambda _: MADE["norm"] | {"lora_unet_conv_norm_out.dora_scale": torch.ones(32)},
        "do not fit",
    ),
    "a kernel with its axes exchanged": (
        in_kernel(**{"lora_down.weight": (2, 3, 3, 32), "lora_up.weight": (32, 2, 1, 1)}),
        "do not fit",
    ),
    "two differences of one bias": (also("full", b_norm=(32,)), "changes its bias twice"),
    "a difference of another shape": (zeros(diff=(64, 65)), "do not fit"),
    "a difference of a bias of another length": (in_kernel(diff_b=(33,)), "do not fit"),
    "a LoRA of a norm": (
        lambda _: {
            "lora_unet_conv_norm_out.lora_down.weight": torch.ones(1, 1),
            "lora_unet_conv_norm_out.lora_up.weight": torch.ones(32, 1),
        },
        "only differences",
    ),
    "a product beyond float32": (scaled("LoHa", 1e12), "too large"),
    "a kron beyond float32": (scaled("LoKr, Tucker", 1e12), "too large"),
    "an alpha beyond float32": (
        lambda t: kohya(t, "alpha", torch.tensor(1e38)),
        "too large",
    ),
    "the kinds that are not served": (zeros(oft_blocks=(2, 2)), "OFT"),
    "weights to be set": (zeros(set_weight=(64, 64)), "replace"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_kinds_that_do_not_add_up(xl: DiffusersEngine, tmp_path: Path, name: str) -> None:
    change, message = BOMBS[name]
    assert_refused(xl, files.write(tmp_path / "adapter.safetensors", change(good(xl))), message)


@pytest.mark.parametrize("kind", MADE)
def test_a_kind_for_another_base(sd: DiffusersEngine, tmp_path: Path, kind: str) -> None:
    """Either the layers are not there, or they have other shapes."""
    tensors = {
        key.replace("mid_block_attentions_0", "mid_block_attentions_1"): t for key, t in MADE[kind].items()
    }
    tensors = {key.replace("conv1", "conv3").replace("norm_out", "norm_in"): t for key, t in tensors.items()}
    assert_refused(sd, files.write(tmp_path / "adapter.safetensors", tensors), "made for another base")


def test_a_second_text_encoder_where_there_is_one(sd: DiffusersEngine, tmp_path: Path) -> None:
    made = Maker(0).lora((32, 32))
    tensors = spelled({"lora_te2_text_model_encoder_layers_0_self_attn_q_proj": made})
    assert_refused(sd, files.write(tmp_path / "adapter.safetensors", tensors), "another kind of model")
