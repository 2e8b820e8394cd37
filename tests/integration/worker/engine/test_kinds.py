"""Kinds as Kohya's and LyCORIS' trainers write them, against an independent merge in float64."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests import adapter_files as files
from tests.adapter_kinds import Made, Maker, spelled
from tests.integration.worker.engine.conftest import activation, open_engine
from tests.integration.worker.engine.test_merged_weights import SGM_NAMES
from worker.engine.contract import AdapterFault, SwapReport
from worker.engine.diffusers_engine import DiffusersEngine

Make = Callable[[Maker, Sequence[int]], Made]

ANYWHERE: dict[str, Make] = {
    "LoRA": Maker.lora,
    "LoHa": Maker.loha,
    "LoKr": Maker.lokr,
    "LoKr, both in factors": Maker.lokr_in_factors,
    "LoKr, both whole": Maker.lokr_whole,
    "full": Maker.full,
    "DoRA": lambda maker, shape: maker.decomposed(maker.lora(shape), shape, per_output=True),
    "DoRA per input": lambda maker, shape: maker.decomposed(maker.lora(shape), shape, per_output=False),
    "LoHa with magnitudes": lambda maker, shape: maker.decomposed(maker.loha(shape), shape, per_output=True),
    "LoKr with magnitudes": lambda maker, shape: maker.decomposed(maker.lokr(shape), shape, per_output=False),
}
IN_KERNELS: dict[str, Make] = {
    "LoCon with a middle": Maker.locon_with_mid,
    "LoHa, Tucker": Maker.loha_with_tucker,
    "LoKr, Tucker": Maker.lokr_with_tucker,
    "LoCon with a middle and magnitudes": lambda maker, shape: maker.decomposed(
        maker.locon_with_mid(shape), shape, per_output=True
    ),
}
KINDS = ANYWHERE | IN_KERNELS

LINEAR = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.1.attn2.to_out.0",
    "up_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.1.attentions.1.proj_in",
    "down_blocks.0.resnets.1.time_emb_proj",
]
KERNELS = ["down_blocks.0.resnets.0.conv1", "mid_block.resnets.1.conv2", "up_blocks.0.upsamplers.0.conv"]
POINTWISE = ["down_blocks.1.resnets.0.conv_shortcut"]
ENCODERS = {
    "lora_te1_": ("text_encoder", "encoder.layers.0.self_attn.q_proj"),
    "lora_te2_": ("text_encoder_2", "encoder.layers.1.mlp.fc1"),
}


def layer_of(engine: DiffusersEngine, component: str, path: str) -> torch.nn.Module:
    root = engine._pipeline.components[component]
    return _in_clip(root, path) if component.startswith("text_encoder") else root.get_submodule(path)


def _in_clip(root: torch.nn.Module, path: str) -> torch.nn.Module:
    modules = dict(root.named_modules())
    return modules.get(path) or modules[f"text_model.{path}"]


def named(component: str, path: str) -> str:
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[component]
    return prefix + (path if component == "unet" else f"text_model.{path}").replace(".", "_")


def check(
    engine: DiffusersEngine, path: Path, layers: Mapping[tuple[str, str], Made], strength: float = 0.7
) -> None:
    """All that the layers change is as they say, and afterwards as it was."""
    before = {}
    for component, module in layers:
        layer = layer_of(engine, component, module)
        before[component, module] = (layer.weight.clone(), None if layer.bias is None else layer.bias.clone())
    changes = sum((made.weight is not None) + (made.bias is not None) for made in layers.values())
    with mock.patch("worker.engine.ingest.REHEARSED_NBYTES", 0):
        engine.ingest(path)  # without its numbers, too, it fits
    adapter = engine.ingest(path)
    assert not adapter.warnings
    assert engine.activate([activation(adapter, strength)]) == SwapReport(written=changes, restored=0)
    for (component, module), made in layers.items():
        layer = layer_of(engine, component, module)
        for actual, merge, was in zip(
            (layer.weight, layer.bias), (made.weight, made.bias), before[component, module], strict=True
        ):
            if merge is not None:
                wanted = merge(was.double(), strength)
                torch.testing.assert_close(actual.double(), wanted, rtol=2e-6, atol=2e-6)
    first = [layer_of(engine, *target).weight.clone() for target in layers]
    assert engine.activate([]) == SwapReport(written=0, restored=changes)
    engine.activate([activation(adapter, strength)])
    second = [layer_of(engine, *target).weight for target in layers]
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True)), "the adapter changed itself"
    engine.activate([])
    for (component, module), (weight, bias) in before.items():
        layer = layer_of(engine, component, module)
        assert torch.equal(layer.weight, weight)
        assert bias is None or torch.equal(layer.bias, bias)


def made_for(
    engine: DiffusersEngine, make: Make, targets: Sequence[tuple[str, str]], maker: Maker | None = None
) -> dict[tuple[str, str], Made]:
    maker = maker or Maker(seed=5)
    layers = {}
    for component, path in targets:
        layer = layer_of(engine, component, path)
        made = make(maker, layer.weight.shape)
        if layer.bias is None:
            made = Made(parts={k: v for k, v in made.parts.items() if k != "diff_b"}, weight=made.weight)
        layers[component, path] = made
    return layers


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_in_every_sort_of_layer(xl: DiffusersEngine, tmp_path: Path, kind: str) -> None:
    paths = KERNELS if kind in IN_KERNELS else LINEAR + KERNELS + POINTWISE
    targets = [("unet", path) for path in paths]
    targets += [] if kind in IN_KERNELS else ENCODERS.values()
    layers = made_for(xl, KINDS[kind], targets)
    tensors = spelled({named(*target): made for target, made in layers.items()})
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layers)


@pytest.mark.parametrize("kind", ANYWHERE)
def test_a_kind_under_stabilitys_block_names(xl: DiffusersEngine, tmp_path: Path, kind: str) -> None:
    names = {path: name for path, name in SGM_NAMES.items() if path not in ("conv_in", "conv_out")}
    layers = made_for(xl, KINDS[kind], [("unet", path) for path in names])
    tensors = spelled({f"lora_unet_{names[path]}": made for (_, path), made in layers.items()})
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layers)


@pytest.mark.parametrize("kind", ANYWHERE)
def test_a_kind_under_diffusers_names(xl: DiffusersEngine, tmp_path: Path, kind: str) -> None:
    """As OneTrainer and others write them: dots in the names, Kohya's ends."""
    layers = made_for(xl, KINDS[kind], [("unet", path) for path in LINEAR + KERNELS])
    tensors = spelled({f"{component}.{path}": made for (component, path), made in layers.items()})
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layers)


@pytest.mark.parametrize("kind", ANYWHERE)
def test_a_kind_under_lycoris_own_names(xl: DiffusersEngine, tmp_path: Path, kind: str) -> None:
    layers = made_for(xl, KINDS[kind], [("unet", path) for path in LINEAR + KERNELS])
    tensors = spelled({f"lycoris_{path.replace('.', '_')}": made for (_, path), made in layers.items()})
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layers)


@pytest.mark.parametrize("kind", ANYWHERE)
def test_a_kind_under_lycoris_own_names_for_flux(flux: DiffusersEngine, tmp_path: Path, kind: str) -> None:
    paths = [
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.ff.net.2",
        "single_transformer_blocks.0.proj_out",
    ]
    layers = made_for(flux, KINDS[kind], [("transformer", path) for path in paths])
    tensors = spelled({f"lycoris_{path.replace('.', '_')}": made for (_, path), made in layers.items()})
    check(flux, files.write(tmp_path / "a.safetensors", tensors), layers)


NORMS = {
    "down_blocks.0.resnets.0.norm1": "input_blocks_1_0_in_layers_0",
    "mid_block.resnets.1.norm2": "middle_block_2_out_layers_0",
    "down_blocks.1.attentions.0.norm": "input_blocks_4_1_norm",
    "up_blocks.0.attentions.1.transformer_blocks.0.norm3": "output_blocks_1_1_transformer_blocks_0_norm3",
    "conv_norm_out": "out_0",
}


@pytest.mark.parametrize(
    "names", [NORMS, {path: path.replace(".", "_") for path in NORMS}], ids=["sgm", "diffusers"]
)
def test_norms(xl: DiffusersEngine, tmp_path: Path, names: Mapping[str, str]) -> None:
    layers = made_for(xl, Maker.norm, [("unet", path) for path in names])
    encoder = made_for(xl, Maker.norm, [("text_encoder_2", "encoder.layers.0.layer_norm1")])
    tensors = spelled({f"lora_unet_{names[path]}": made for (_, path), made in layers.items()})
    tensors |= spelled({named(*target): made for target, made in encoder.items()})
    check(xl, files.write(tmp_path / "a.safetensors", tensors), layers | encoder)


def test_all_kinds_in_one_file_and_several_in_one_weight(xl: DiffusersEngine, tmp_path: Path) -> None:
    """Together they change a weight by the sum of what each one alone makes of the pristine one."""
    paths = LINEAR[:2] + KERNELS[:1]
    base = {path: layer_of(xl, "unet", path).weight.double().clone() for path in paths}
    wanted = {path: weight.clone() for path, weight in base.items()}
    activations = []
    for number, (kind, strength) in enumerate([("DoRA", 0.5), ("LoHa", -0.8), ("LoRA", 1.2), ("LoKr", 0.3)]):
        layers = made_for(xl, KINDS[kind], [("unet", path) for path in paths])
        path = files.write(
            tmp_path / f"{number}.safetensors",
            spelled({named(*target): made for target, made in layers.items()}),
        )
        activations.append(activation(xl.ingest(path), strength))
        for (_, module), made in layers.items():
            assert made.weight
            wanted[module] += made.weight(base[module], strength) - base[module]
    xl.activate(activations)
    for path, weight in wanted.items():
        torch.testing.assert_close(layer_of(xl, "unet", path).weight.double(), weight, rtol=2e-6, atol=4e-6)
    first = {path: layer_of(xl, "unet", path).weight.clone() for path in paths}
    xl.activate([])
    xl.activate(activations[::-1])
    assert all(torch.equal(layer_of(xl, "unet", path).weight, weight) for path, weight in first.items())


def test_sd_takes_them_too(sd: DiffusersEngine, tmp_path: Path) -> None:
    layers = {}
    for number, kind in enumerate(ANYWHERE):
        projection = f"attn{1 + number % 2}.to_{'qkv'[number // 2 % 3]}"
        path = f"down_blocks.0.attentions.0.transformer_blocks.0.{projection}"
        layers |= made_for(sd, KINDS[kind], [("unet", path)])
    tensors = spelled({named(*target): made for target, made in layers.items()})
    check(sd, files.write(tmp_path / "a.safetensors", tensors), layers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_rounded_once(xl_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    engine = open_engine(xl_folder, dtype)
    for kind in ("DoRA", "LoHa", "LoKr, Tucker"):
        layers = made_for(engine, KINDS[kind], [("unet", path) for path in KERNELS])
        base = {path: layer_of(engine, "unet", path).weight.double().clone() for path in KERNELS}
        tensors = spelled({named(*target): made for target, made in layers.items()})
        engine.activate([activation(engine.ingest(files.write(tmp_path / "a.safetensors", tensors)), 0.5)])
        for (_, path), made in layers.items():
            assert made.weight
            wanted = made.weight(base[path], 0.5)
            actual = layer_of(engine, "unet", path).weight
            torch.testing.assert_close(actual.double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-6)
            assert (actual != wanted.to(dtype)).sum() <= 1e-3 * actual.numel() + 2
        engine.activate([])
    engine.verify()


def test_a_row_of_zeros_stays_one_in_a_dora(sd_folder: Path, tmp_path: Path) -> None:
    pipeline = open_engine(sd_folder)._pipeline
    weight = pipeline.unet.get_submodule(KERNELS[0]).weight
    weight.data[3] = 0
    engine = DiffusersEngine(pipeline, open_engine(sd_folder).info)
    made = Maker(1).lora(weight.shape)
    made.parts["lora_up.weight"][3] = 0
    layers = {named("unet", KERNELS[0]): Maker(1).decomposed(made, weight.shape, per_output=True)}
    engine.activate([activation(engine.ingest(files.write(tmp_path / "a.safetensors", spelled(layers))))])
    assert torch.isfinite(weight).all()
    assert not weight[3].any()
    engine.verify()


class TestLayersThatTheBaseDoesNotHave:
    """Few of them are left out and told; many mean another base."""

    def paths(self, engine: DiffusersEngine) -> list[str]:
        return [path for _, path in files.linears(engine._pipeline, "unet", ".to_q", ".to_k", ".to_v")][:40]

    def layers(self, engine: DiffusersEngine, strangers: int) -> dict[str, Made]:
        paths = self.paths(engine)
        layers = made_for(engine, Maker.lora, [("unet", path) for path in paths])
        spelled_layers = {named(*target): made for target, made in layers.items()}
        some = next(iter(layers.values()))
        return spelled_layers | {
            f"lora_unet_down_blocks_9_attentions_{n}_proj_in": some for n in range(strangers)
        }

    def test_below_the_share_the_rest_is_served_with_a_warning(
        self, xl: DiffusersEngine, tmp_path: Path
    ) -> None:
        path = files.write(tmp_path / "a.safetensors", spelled(self.layers(xl, 2)))
        adapter = xl.ingest(path)
        assert len(adapter.changes) == 40
        (warning,) = adapter.warnings
        assert "2 of its 42 layers" in warning
        assert "down_blocks.9.attentions.0.proj_in" in warning

    def test_a_bias_that_the_layer_does_not_have_counts_too(
        self, xl: DiffusersEngine, tmp_path: Path
    ) -> None:
        layers = self.layers(xl, 0)
        name = next(iter(layers))
        tensors = spelled(layers) | {f"{name}.diff_b": torch.ones(64)}
        adapter = xl.ingest(files.write(tmp_path / "a.safetensors", tensors))
        assert len(adapter.changes) == 40
        (warning,) = adapter.warnings
        assert "1 of its 41 layers" in warning
        assert f"unet.{self.paths(xl)[0]}.bias" in warning

    def test_above_it_the_file_is_refused(self, xl: DiffusersEngine, tmp_path: Path) -> None:
        path = files.write(tmp_path / "a.safetensors", spelled(self.layers(xl, 3)))
        with pytest.raises(AdapterFault, match="3 of its 43 layers do not exist"):
            xl.ingest(path)

    def test_a_part_that_the_base_lacks_and_keys_of_no_form_count_too(
        self, xl: DiffusersEngine, tmp_path: Path
    ) -> None:
        dotted = {
            f"unet.{path}.lora_{end}.weight": torch.zeros(shape)
            for path in self.paths(xl)
            for end, shape in (
                ("A", (2, layer_of(xl, "unet", path).in_features)),
                ("B", (layer_of(xl, "unet", path).out_features, 2)),
            )
        }
        more = {
            "text_encoder_3.a.lora_A.weight": torch.zeros(2, 4),
            "text_encoder_3.a.lora_B.weight": torch.zeros(4, 2),
            "unet.what": torch.zeros(1),
        }
        adapter = xl.ingest(files.write(tmp_path / "a.safetensors", dotted | more))
        (warning,) = adapter.warnings
        assert "2 of its 42 layers" in warning
