"""Bases whose weights cannot be rewritten: adapters run beside their layers, under the same contract."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import bitsandbytes
import diffusers
import gguf
import numpy as np
import pytest
import torch
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from shared.jobs import GenerationParams
from shared.refs import RepoId
from tests import adapter_files as files
from tests.adapter_kinds import Made, Maker, spelled
from tests.integration.worker.engine.conftest import COMMIT, activation, params
from tests.tiny_families import build
from worker.engine.contract import AdapterFault, SwapReport
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import describe, open_base
from worker.engine.snapshot import Snapshot

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    # PEFT says of torchao's layers that it could not merge into them, which is not asked of it
    pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without:UserWarning"),
]

TOLERANCE = 1
"""Of 255."""


class Int8Linear(nn.Linear):
    """A linear layer of integers with a scale for each row, as weight-only quantisers make them."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
        self.register_buffer("scales", plain.weight.detach().abs().amax(dim=1, keepdim=True) / 127)
        integers = (plain.weight.detach() / self.scales).round().to(torch.int8)
        self.weight = nn.Parameter(integers, requires_grad=False)
        self.bias = plain.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight.to(inputs.dtype) * self.scales, self.bias)


def int8(part: nn.Module) -> None:
    replace_linears(part, Int8Linear)


def bitsandbytes_nf4(part: nn.Module) -> None:
    def layer(plain: nn.Linear) -> nn.Module:
        quantised = bitsandbytes.nn.Linear4bit(
            plain.in_features,
            plain.out_features,
            bias=plain.bias is not None,
            compute_dtype=torch.float32,
            quant_type="nf4",
        )
        quantised.weight = bitsandbytes.nn.Params4bit(
            plain.weight.data, requires_grad=False, quant_type="nf4"
        )
        quantised.bias = plain.bias
        return quantised.to("cpu")

    replace_linears(part, layer)


def bitsandbytes_int8(part: nn.Module) -> None:
    def layer(plain: nn.Linear) -> nn.Module:
        quantised = bitsandbytes.nn.Linear8bitLt(
            plain.in_features, plain.out_features, bias=plain.bias is not None, has_fp16_weights=False
        )
        quantised.weight = bitsandbytes.nn.Int8Params(
            plain.weight.data, requires_grad=False, has_fp16_weights=False
        )
        quantised.bias = plain.bias
        return quantised.to("cpu")

    replace_linears(part, layer)


def torchao_int8(part: nn.Module) -> None:
    quantize_(part, Int8WeightOnlyConfig())


def gguf_q8(part: nn.Module) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0

    def layer(plain: nn.Linear) -> nn.Module:
        quantised = GGUFLinear(
            plain.in_features, plain.out_features, plain.bias is not None, compute_dtype=torch.float32
        )
        content = torch.from_numpy(gguf.quants.quantize(plain.weight.detach().numpy(), kind))
        quantised.weight = GGUFParameter(content, quant_type=kind)
        quantised.bias = plain.bias
        return quantised

    replace_linears(part, layer)


def replace_linears(part: nn.Module, layer: Callable[[nn.Linear], nn.Module]) -> None:
    """In the blocks, as quantisers do; rows of 32 are what GGUF's blocks ask for."""
    for parent in list(part.transformer_blocks.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.in_features % 32 == 0:
                setattr(parent, name, layer(child))


QUANTISERS = (int8, bitsandbytes_nf4, bitsandbytes_int8, torchao_int8, gguf_q8)
"""The first of no library, as others may come to make them."""


def quantised(quantise: Callable[[nn.Module], None]) -> diffusers.FluxPipeline:
    pipeline = build("FluxPipeline")
    pipeline.set_progress_bar_config(disable=True)
    quantise(pipeline.transformer)
    return pipeline


@pytest.fixture(params=QUANTISERS, ids=lambda quantise: quantise.__name__)
def quantise(request: pytest.FixtureRequest) -> Callable[[nn.Module], None]:
    return request.param


@pytest.fixture
def engine(quantise: Callable[[nn.Module], None]) -> DiffusersEngine:
    pipeline = quantised(quantise)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    return DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))


def request() -> GenerationParams:
    return params(width=64, height=64)


def pixels(engine: DiffusersEngine) -> np.ndarray:
    return np.asarray(engine.generate(request(), lambda *_: None).image).astype(int)


def reference_pixels(pipeline: diffusers.FluxPipeline) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(request().seed)
    image = pipeline(
        request().prompt, width=64, height=64, num_inference_steps=2, generator=generator
    ).images[0]
    return np.asarray(image).astype(int)


def layers_of(engine: DiffusersEngine, some: slice, **options: Any) -> list[files.Layer]:
    """Random factors; by the layers of the plain base, as the quantised ones hide their shapes."""
    plain = build("FluxPipeline")
    targets = files.linears(plain, "transformer")[some] + files.linears(plain, "text_encoder")[some]
    return files.random_layers(plain, targets, **options)


def test_an_adapter_gives_the_picture_of_diffusers_layers_that_are_not_merged(
    engine: DiffusersEngine, quantise: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    assert engine.info.adapters == "unmerged"
    layers = layers_of(engine, slice(None), alpha=lambda n: 1.0 + n % 3)
    path = files.write(tmp_path / "adapter.safetensors", files.peft(layers), files.peft_config(layers))
    bare = pixels(engine)
    assert engine.activate([activation(engine.ingest(path))]) == SwapReport(written=len(layers), restored=0)
    ours = pixels(engine)
    assert np.abs(ours - bare).max() > 10 * TOLERANCE

    reference = quantised(quantise)
    reference.load_lora_weights(path.parent, weight_name=path.name)
    assert np.abs(ours - reference_pixels(reference)).max() <= TOLERANCE

    engine.activate([])
    assert (pixels(engine) == bare).all()
    engine.verify()


def test_several_adapters_add_up_and_leave_without_a_trace(engine: DiffusersEngine, tmp_path: Path) -> None:
    bare = pixels(engine)
    first, second = (
        engine.ingest(
            files.write(
                tmp_path / f"{seed}.safetensors",
                files.peft(layers_of(engine, some, seed=seed, rank=lambda _, seed=seed: 3 + seed)),
            )
        )
        for seed, some in enumerate((slice(None, 40), slice(20, None)))
    )
    engine.activate([activation(first)])
    alone = pixels(engine)
    engine.activate([activation(first, 0.7), activation(second, -0.4)])
    both = pixels(engine)
    engine.activate([activation(second, -0.4), activation(first, 0.7)])
    assert (pixels(engine) == both).all()
    engine.activate([activation(first)])
    assert (pixels(engine) == alone).all()
    assert (both != alone).any()
    engine.verify()
    assert (pixels(engine) == bare).all()


def int8_engine() -> DiffusersEngine:
    pipeline = quantised(int8)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    return DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))


def engine_of_the_same_numbers() -> DiffusersEngine:
    """The base with what the integers amount to, as weights that can be rewritten."""
    pipeline = build("FluxPipeline")
    pipeline.set_progress_bar_config(disable=True)
    for name, layer in quantised(int8).transformer.named_modules():
        if isinstance(layer, Int8Linear):
            plain = pipeline.transformer.get_submodule(name)
            plain.weight.data = layer.weight.float() * layer.scales
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    return DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))


BESIDE = {
    "LoHa": Maker.loha,
    "LoKr": Maker.lokr,
    "LoKr, both in factors": Maker.lokr_in_factors,
    "LoKr, both whole": Maker.lokr_whole,
    "full": Maker.full,
}


def a_file_of(kind: Callable[[Maker, Any], Made], path: Path, seed: int = 3) -> Path:
    """That kind and a LoRA, in turn, for every layer of the blocks."""
    plain, maker = build("FluxPipeline"), Maker(seed=seed)
    targets = [
        module for _, module in files.linears(plain, "transformer") if module.startswith("transformer_blocks")
    ]
    made = {}
    for number, module in enumerate(targets):
        layer = (kind, Maker.lora)[number % 2](maker, plain.transformer.get_submodule(module).weight.shape)
        made[f"transformer.{module}"] = Made(parts={k: v for k, v in layer.parts.items() if k != "diff_b"})
    return files.write(path, spelled(made))


@pytest.mark.parametrize("kind", BESIDE)
def test_other_kinds_beside_a_layer_give_the_picture_of_those_that_are_merged(
    tmp_path: Path, kind: str
) -> None:
    path = a_file_of(BESIDE[kind], tmp_path / "adapter.safetensors")
    beside, merged = int8_engine(), engine_of_the_same_numbers()
    bare = pixels(beside)
    assert np.abs(bare - pixels(merged)).max() <= TOLERANCE
    for engine in (beside, merged):
        engine.activate([activation(engine.ingest(path), 0.8)])
    ours = pixels(beside)
    assert np.abs(ours - bare).max() > 10 * TOLERANCE
    assert np.abs(ours - pixels(merged)).max() <= TOLERANCE
    beside.activate([])
    assert (pixels(beside) == bare).all()


def test_a_dora_is_refused_where_its_weight_is_quantised(tmp_path: Path) -> None:
    def dora(maker: Maker, shape: Any) -> Made:
        return maker.decomposed(maker.lora(shape), shape, per_output=True)

    path = a_file_of(dora, tmp_path / "adapter.safetensors")
    with pytest.raises(AdapterFault, match="quantised, and a DoRA needs it"):
        int8_engine().ingest(path)


def test_a_base_of_plain_weights_is_merged_into(tmp_path: Path) -> None:
    pipeline = quantised(lambda _: None)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    engine = DiffusersEngine(pipeline, describe(RepoId("tests/tiny"), snapshot, pipeline))
    assert engine.info.adapters == "merged"
    assert not engine._targets.kept


def test_a_base_of_layers_that_keep_their_weights_is_not_compiled(tmp_path: Path) -> None:
    for quantise, compilations in ((int8, 0), (lambda _: None, 1)):
        pipeline = quantised(quantise)
        pipeline.save_config(tmp_path)
        snapshot = Snapshot(folder=tmp_path, revision=COMMIT, variant=None)
        with (
            mock.patch.object(diffusers.FluxPipeline, "from_pretrained", return_value=pipeline),
            mock.patch("worker.engine.load.compile_denoiser") as compiler,
        ):
            open_base(
                RepoId("tests/tiny"),
                snapshot,
                device=torch.device("cpu"),
                dtype=torch.float32,
                compiled=True,
            )
        assert compiler.call_count == compilations
