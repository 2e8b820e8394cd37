"""The merged weights against an independent merge in float64, for each way to spell an adapter."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import adapter_files as files
from tests.integration.worker.engine.conftest import activation, open_engine
from worker.engine.contract import SwapReport
from worker.engine.diffusers_engine import DiffusersEngine

SGM_NAMES = {
    "conv_in": "input_blocks_0_0",
    "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
    "down_blocks.0.resnets.1.time_emb_proj": "input_blocks_2_0_emb_layers_1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_4_0_skip_connection",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (
        "input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    ),
    "down_blocks.1.attentions.1.proj_in": "input_blocks_5_1_proj_in",
    "mid_block.attentions.0.transformer_blocks.1.attn2.to_out.0": (
        "middle_block_1_transformer_blocks_1_attn2_to_out_0"
    ),
    "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3",
    "up_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj": (
        "output_blocks_0_1_transformer_blocks_0_ff_net_0_proj"
    ),
    "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
    "up_blocks.1.resnets.0.conv1": "output_blocks_3_0_in_layers_2",
    "time_embedding.linear_1": "time_embed_0",
    "add_embedding.linear_2": "label_emb_0_2",
    "conv_out": "out_2",
}
"""Stability's names of this base's modules, by diffusers' names."""

Weights = dict[str, Tensor]


def weights_of(engine: DiffusersEngine) -> Weights:
    """Copies of the weights in use, by component and module."""
    return {
        f"{component}.{path}": module.weight.detach().clone()
        for component in ("unet", "text_encoder", "text_encoder_2")
        if (root := engine._pipeline.components.get(component)) is not None
        for path, module in root.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }


def expected(base: Weights, *parts: tuple[Sequence[files.Layer], float]) -> Weights:
    merged = {name: weight.double() for name, weight in base.items()}
    for layers, strength in parts:
        for each in layers:
            merged[f"{each.component}.{each.module}"] += strength * each.delta()
    return merged


def assert_equal(actual: Weights, wanted: Weights) -> None:
    """Equal to the last bits of float32, and where nothing was to change, equal."""
    for name, weight in wanted.items():
        torch.testing.assert_close(
            actual[name].double(), weight, rtol=2e-6, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def everything(engine: DiffusersEngine) -> list[tuple[str, str]]:
    pipeline = engine._pipeline
    encoders = [
        target
        for component in ("text_encoder", "text_encoder_2")
        for target in files.linears(
            pipeline, component, "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"
        )
    ]
    return (
        files.linears(pipeline, "unet", ".to_q", ".to_k", ".to_v", ".to_out.0", ".proj_in", "net.2")
        + encoders
    )


def check(engine: DiffusersEngine, path: Path, layers: Sequence[files.Layer], strength: float = 0.75) -> None:
    base = weights_of(engine)
    adapter = engine.ingest(path)
    report = engine.activate([activation(adapter, strength)])
    assert report == SwapReport(written=len(layers), restored=0)
    assert_equal(weights_of(engine), expected(base, (layers, strength)))
    engine.activate([])
    assert all(torch.equal(weight, base[name]) for name, weight in weights_of(engine).items())


def test_pefts_keys(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(xl._pipeline, everything(xl))
    check(xl, files.write(tmp_path / "a.safetensors", files.peft(layers)), layers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats(xl: DiffusersEngine, tmp_path: Path, dtype: torch.dtype) -> None:
    layers = files.random_layers(xl._pipeline, everything(xl), dtype=dtype)
    check(xl, files.write(tmp_path / "a.safetensors", files.peft(layers)), layers)


def test_mixed_number_formats_and_odd_sizes_that_misalign_the_file(
    xl: DiffusersEngine, tmp_path: Path
) -> None:
    targets = everything(xl)[:6]
    layers = [
        *files.random_layers(xl._pipeline, targets[:3], rank=lambda _: 3, dtype=torch.float16),
        *files.random_layers(xl._pipeline, targets[3:], rank=lambda _: 3),
    ]
    path = files.write(tmp_path / "a.safetensors", files.peft(layers))
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].rstrip()
    header += b" " * (1 + len(header) % 2)
    assert len(header) % 2, "the point is an odd header"
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    check(xl, path, layers)


def test_old_diffusers_keys(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(xl._pipeline, everything(xl))
    check(xl, files.write(tmp_path / "a.safetensors", files.old_diffusers(layers)), layers)


def test_the_keys_between_old_diffusers_and_peft(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(xl._pipeline, [each for each in everything(xl) if each[0] == "unet"])
    tensors = {
        key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): tensor
        for key, tensor in files.peft(layers).items()
    }
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layers)


def test_kohyas_keys_with_an_alpha_of_its_own_for_every_layer(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(
        xl._pipeline,
        everything(xl),
        rank=lambda n: (2, 4, 8)[n % 3],
        alpha=lambda n: (1, 2.5, 16)[n // 2 % 3],
    )
    check(xl, files.write(tmp_path / "a.safetensors", files.kohya(layers)), layers)


def test_kohyas_keys_without_alpha_mean_a_scale_of_one(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(xl._pipeline, everything(xl))
    tensors = {key: tensor for key, tensor in files.kohya(layers).items() if not key.endswith(".alpha")}
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layers)


def test_kohyas_keys_with_stabilitys_block_names(xl: DiffusersEngine, tmp_path: Path) -> None:
    targets = [("unet", module) for module in SGM_NAMES]
    layers = files.random_layers(xl._pipeline, targets, alpha=lambda _: 2.0)
    check(xl, files.write(tmp_path / "a.safetensors", files.kohya(layers, SGM_NAMES)), layers)


def test_convolutions_of_every_kernel(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(xl._pipeline, files.convolutions(xl._pipeline))
    assert {each.down.shape[-1] for each in layers} == {1, 3}
    check(xl, files.write(tmp_path / "a.safetensors", files.peft(layers)), layers)


def test_a_linear_layer_whose_factors_are_written_as_1x1_convolutions(
    xl: DiffusersEngine, tmp_path: Path
) -> None:
    layers = files.random_layers(xl._pipeline, everything(xl)[:3])
    tensors = {key: tensor[:, :, None, None] for key, tensor in files.peft(layers).items()}
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layers)


def test_the_config_in_the_header_gives_rank_and_alpha_by_module(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(
        xl._pipeline, everything(xl), rank=lambda n: 2 + n % 3, alpha=lambda n: 1 + n % 5
    )
    path = files.write(tmp_path / "a.safetensors", files.peft(layers), files.peft_config(layers))
    check(xl, path, layers)


def test_clips_modules_with_and_without_their_old_prefix(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(xl._pipeline, [t for t in everything(xl) if t[0] != "unet"])
    for respell in (
        lambda m: f"text_model.{m.removeprefix('text_model.')}",
        lambda m: m.removeprefix("text_model."),
    ):
        tensors = {}
        for key, tensor in files.peft(layers).items():
            component, _, module = key.partition(".")
            tensors[f"{component}.{respell(module)}"] = tensor
        check(xl, files.write(tmp_path / "a.safetensors", tensors), layers)


def test_sd_too(sd: DiffusersEngine, tmp_path: Path) -> None:
    pipeline = sd._pipeline
    targets = files.linears(pipeline, "unet") + files.convolutions(pipeline)
    targets += files.linears(pipeline, "text_encoder")
    layers = files.random_layers(pipeline, targets, alpha=lambda _: 1.5)
    tensors = {key.replace("lora_te1_", "lora_te_"): value for key, value in files.kohya(layers).items()}
    check(sd, files.write(tmp_path / "a.safetensors", tensors), layers)


def test_several_adapters_add_up_at_their_strengths_in_any_order(xl: DiffusersEngine, tmp_path: Path) -> None:
    targets = everything(xl)
    first = files.random_layers(xl._pipeline, targets[:40], seed=1)
    second = files.random_layers(xl._pipeline, targets[20:], seed=2, rank=lambda _: 6, dtype=torch.float16)
    base = weights_of(xl)
    one = activation(xl.ingest(files.write(tmp_path / "1.safetensors", files.peft(first))), 0.6)
    two = activation(xl.ingest(files.write(tmp_path / "2.safetensors", files.peft(second))), -1.25)
    xl.activate([one, two])
    merged = weights_of(xl)
    assert_equal(merged, expected(base, (first, 0.6), (second, -1.25)))
    assert xl.activate([two, one]) == SwapReport(written=0, restored=0)
    xl.activate([])
    xl.activate([two, one])
    assert all(torch.equal(weight, merged[name]) for name, weight in weights_of(xl).items())


def test_going_on_restores_what_only_the_last_one_touched(xl: DiffusersEngine, tmp_path: Path) -> None:
    targets = everything(xl)
    first = files.random_layers(xl._pipeline, targets[:30], seed=1)
    second = files.random_layers(xl._pipeline, targets[20:], seed=2)
    base = weights_of(xl)
    xl.activate([activation(xl.ingest(files.write(tmp_path / "1.safetensors", files.peft(first))))])
    report = xl.activate([activation(xl.ingest(files.write(tmp_path / "2.safetensors", files.peft(second))))])
    assert report == SwapReport(written=len(second), restored=20)
    after = weights_of(xl)
    assert_equal(after, expected(base, (second, 1.0)))
    for component, module in targets[:20]:
        name = f"{component}.{module}"
        assert torch.equal(after[name], base[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_computed_in_float32_and_rounded_once(
    xl_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Some get one adapter's change, some another's, and some both, of ranks that differ in a batch."""
    engine = open_engine(xl_folder, dtype)
    targets = everything(engine) + files.convolutions(engine._pipeline)
    base = weights_of(engine)
    parts, activations = [], []
    for some, strength, of_factors in ((targets[:-20], 0.5, dtype), (targets[20:], -0.7, torch.float32)):
        name = f"{strength}.safetensors"
        layers = files.random_layers(
            engine._pipeline,
            some,
            rank=lambda n: 2 + n % 3,
            alpha=lambda _: 3.0,
            seed=len(parts),
            dtype=of_factors,
        )
        path = files.write(tmp_path / name, files.peft(layers), files.peft_config(layers))
        parts.append((layers, strength))
        activations.append(activation(engine.ingest(path), strength, name))
    engine.activate(activations)
    wanted = expected(base, *parts)
    after = weights_of(engine)
    different = total = 0
    for name, weight in wanted.items():
        # float32 and float64 may round to different neighbours, in the rare case of a near tie
        different += int((after[name] != weight.to(dtype)).sum())
        total += weight.numel()
        torch.testing.assert_close(after[name].double(), weight, rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert different <= total * 1e-3
    engine.verify()


def test_channels_last_weights_keep_their_layout(sd_folder: Path, tmp_path: Path) -> None:
    engine = open_engine(sd_folder)
    engine._pipeline.unet.to(memory_format=torch.channels_last)
    engine = DiffusersEngine(engine._pipeline, engine.info)
    layers = files.random_layers(engine._pipeline, files.convolutions(engine._pipeline))
    check(engine, files.write(tmp_path / "a.safetensors", files.peft(layers)), layers)
    weight = engine._pipeline.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    engine.verify()


def test_modules_that_share_a_weight_both_change_it(sd_folder: Path, tmp_path: Path) -> None:
    pipeline = open_engine(sd_folder)._pipeline
    first, second = files.linears(pipeline, "text_encoder", "q_proj")
    encoder = pipeline.text_encoder
    encoder.get_submodule(second[1]).weight = encoder.get_submodule(first[1]).weight
    engine = DiffusersEngine(pipeline, open_engine(sd_folder).info)
    layers = files.random_layers(pipeline, [first, second], rank=lambda n: n + 1)
    base = encoder.get_submodule(first[1]).weight.detach().clone()
    adapter = engine.ingest(files.write(tmp_path / "a.safetensors", files.peft(layers)))
    assert engine.activate([activation(adapter)]) == SwapReport(written=1, restored=0)
    wanted = base.double() + layers[0].delta() + layers[1].delta()
    torch.testing.assert_close(encoder.get_submodule(second[1]).weight.double(), wanted, rtol=2e-6, atol=2e-6)
    engine.verify()
    assert torch.equal(encoder.get_submodule(first[1]).weight, base)
