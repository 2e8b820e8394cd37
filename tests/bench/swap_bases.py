"""The bases that the swap is measured on, and adapters for them."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from shared.refs import AdapterRef, RepoId, Revision
from tests import adapter_files as files
from tests.tiny_bases import encoder_config, tiny_xl
from worker.engine.adapter import CanonicalAdapter
from worker.engine.contract import Activation, AdapterFault
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import describe, open_base
from worker.engine.snapshot import Snapshot

HUB = Path(__file__).parents[2] / "deploy/demo/hub/warmbase"
COMMIT = "0" * 40
SEEDS = (1, 2, 3, 4)
"""One for each random adapter of a size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The widths of a random base with SDXL's topology: its 722 linear layers in attention blocks.

    Attributes:
        channels: of the UNet's three levels.
        side: of its latents.
        groups: of its group norms.
        time: embedding of each of the six numbers that SDXL is told of a picture.
        encoders: what both text encoders differ in from a tiny one.
        vae: channels of its four levels.
        large: the rank of a large adapter.
    """

    channels: tuple[int, int, int]
    side: int
    groups: int
    time: int
    encoders: tuple[Mapping[str, int], Mapping[str, int]]
    vae: tuple[int, int, int, int]
    large: int

    @property
    def text_width(self) -> int:
        """Of a prompt's embeddings: those of both encoders beside each other."""
        return sum(encoder["hidden_size"] for encoder in self.encoders)


QUARTER = Scale(
    channels=(80, 160, 320),
    side=32,
    groups=16,
    time=64,
    encoders=(
        {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3},
        {
            "hidden_size": 320,
            "intermediate_size": 1280,
            "num_attention_heads": 5,
            "projection_dim": 320,
        },
    ),
    vae=(32, 64, 128, 128),
    large=32,
)
"""Its text encoders have two layers only."""

FULL = Scale(
    channels=(320, 640, 1280),
    side=128,
    groups=32,
    time=256,
    encoders=(
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
        },
    ),
    vae=(128, 256, 512, 512),
    large=64,
)
"""SDXL itself, but for its vocabulary."""


def engine_of(arguments: argparse.Namespace) -> DiffusersEngine:
    """Open the base that the command line asks for."""
    scale = scale_of(arguments)
    return demo_engine(arguments) if scale is None else random_engine(scale, arguments.device)


def weight_files(arguments: argparse.Namespace, engine: DiffusersEngine, folder: Path) -> list[list[Path]]:
    """Return the weight files to swap, up to four together; random ones are written to `folder`."""
    scale = scale_of(arguments)
    paths = arguments.adapters or ([] if scale else demo_adapters(engine))
    if len(paths) >= 2:
        return [paths[: len(SEEDS)]]
    return random_adapters(engine, folder, (scale or QUARTER).large)


def scale_of(arguments: argparse.Namespace) -> Scale | None:
    """Return that of the random base that is asked for."""
    if arguments.full:
        return FULL
    return QUARTER if arguments.quarter else None


def demo_engine(arguments: argparse.Namespace) -> DiffusersEngine:
    """Open the base in the folder `arguments.base`, the demo's where that is None."""
    device = torch.device(arguments.device)
    snapshot = Snapshot(folder=arguments.base or HUB / "shapes-xl", revision=COMMIT, variant=None)
    return open_base(RepoId("bench/base"), snapshot, device=device, dtype=dtype_on(device))


def random_engine(scale: Scale, device: str) -> DiffusersEngine:
    """Make a base with random weights, of which there is never a copy elsewhere or in another format."""
    tiny, where = tiny_xl(), torch.device(device)
    first, second = (encoder_config(**more) for more in scale.encoders)
    with made_in(where, dtype_on(where)):
        parts = {
            "unet": random_unet(scale).eval(),
            "vae": random_vae(scale).eval(),
            "text_encoder": CLIPTextModel(first).eval(),
            "text_encoder_2": CLIPTextModelWithProjection(second).eval(),
        }
    pipeline = StableDiffusionXLPipeline(
        **parts,
        tokenizer=tiny.tokenizer,
        tokenizer_2=tiny.tokenizer_2,
        scheduler=tiny.scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    return DiffusersEngine(pipeline, describe(RepoId("bench/random"), snapshot, pipeline))


def random_unet(scale: Scale) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=scale.side,
        block_out_channels=scale.channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        cross_attention_dim=scale.text_width,
        addition_embed_type="text_time",
        addition_time_embed_dim=scale.time,
        projection_class_embeddings_input_dim=6 * scale.time + scale.encoders[1]["projection_dim"],
        norm_num_groups=scale.groups,
    )


def random_vae(scale: Scale) -> AutoencoderKL:
    levels = len(scale.vae)
    return AutoencoderKL(
        block_out_channels=scale.vae,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        latent_channels=4,
        sample_size=scale.side * 2 ** (levels - 1),
    )


def dtype_on(device: torch.device) -> torch.dtype:
    """Return what a worker computes in there by itself."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@contextmanager
def made_in(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Have modules made on `device`, in `dtype`, while inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def demo_adapters(engine: DiffusersEngine) -> list[Path]:
    """The demo's adapters that fit the base, largest first."""
    good = []
    for path in sorted(HUB.glob("*/*.safetensors"), key=lambda path: -path.stat().st_size):
        try:
            engine.ingest(path)
        except AdapterFault:
            continue
        good.append(path)
    return good


def random_adapters(engine: DiffusersEngine, folder: Path, large: int) -> list[list[Path]]:
    """Random adapters of two sizes: attention at rank 8, and all linear layers of attention blocks."""
    pipeline = engine._pipeline
    attention = files.linears(pipeline, "unet", ".to_q", ".to_k", ".to_v", ".to_out.0")
    blocks = [each for each in files.linears(pipeline, "unet") if ".attentions." in each[1]]
    return [
        [
            random_adapter(pipeline, folder / f"{name}-{seed}.safetensors", targets, rank, seed)
            for seed in SEEDS
        ]
        for name, targets, rank in (("small", attention, 8), ("large", blocks, large))
    ]


def random_adapter(
    pipeline: Any, path: Path, targets: Sequence[tuple[str, str]], rank: int, seed: int
) -> Path:
    layers = files.random_layers(
        pipeline, targets, rank=lambda _: rank, seed=seed, size=0.02, dtype=torch.float16
    )
    return files.write(path, files.peft(layers))


def activation(adapter: CanonicalAdapter, path: Path, scale: float = 1.0) -> Activation[CanonicalAdapter]:
    ref = AdapterRef(
        repo=RepoId("bench/adapter"), revision=Revision(COMMIT), weight_name=path.name, scale=scale
    )
    return Activation(ref=ref, adapter=adapter)
