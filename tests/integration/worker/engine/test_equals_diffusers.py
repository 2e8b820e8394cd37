"""The picture against the one that plain diffusers gives, with `load_lora_weights` and `fuse_lora`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_kohya
from torch import Tensor

from shared.jobs import GenerationParams
from tests import adapter_files as files
from tests.integration.worker.engine.conftest import activation, params
from tests.integration.worker.engine.test_merged_weights import SGM_NAMES
from worker.engine.diffusers_engine import DiffusersEngine

TOLERANCE = 2
"""Of 255: both merge in float32, in another order of operations."""

Case = Callable[[object], tuple[dict[str, Tensor], dict[str, str]]]


def attention_only(base: object) -> list[tuple[str, str]]:
    return files.linears(base, "unet", ".to_q", ".to_k", ".to_v", ".to_out.0")


def with_encoders(base: object) -> list[tuple[str, str]]:
    ends = ("q_proj", "k_proj", "v_proj", "out_proj")
    return [
        *attention_only(base),
        *files.linears(base, "text_encoder", *ends),
        *files.linears(base, "text_encoder_2", *ends),
    ]


def peft_unet(base: object):
    layers = files.random_layers(base, attention_only(base))
    return files.peft(layers), {}


def peft_with_encoders(base: object):
    layers = files.random_layers(base, with_encoders(base))
    return files.peft(layers), {}


def peft_mixed_ranks(base: object):
    layers = files.random_layers(base, attention_only(base), rank=lambda n: (2, 4, 8)[n % 3])
    return files.peft(layers), {}


def peft_config(base: object):
    layers = files.random_layers(
        base, attention_only(base), rank=lambda n: 2 + n % 3, alpha=lambda n: 1 + n % 5
    )
    return files.peft(layers), files.peft_config(layers)


def peft_rank_stabilised(base: object):
    layers = files.random_layers(base, attention_only(base))
    header = {
        "lora_adapter_metadata": (
            '{"unet.r": 4, "unet.lora_alpha": 3, "unet.use_rslora": true, "unet.target_modules": '
            '["to_q", "to_k", "to_v", "to_out.0"]}'
        )
    }
    return files.peft(layers), header


def peft_convolutions(base: object):
    layers = files.random_layers(base, files.convolutions(base), size=0.1)
    return files.peft(layers), {}


def old_diffusers(base: object):
    layers = files.random_layers(base, with_encoders(base))
    return files.old_diffusers(layers), {}


def kohya_alpha(base: object):
    layers = files.random_layers(base, with_encoders(base), alpha=lambda _: 2.0)
    return files.kohya(layers), {}


def kohya_mixed_ranks(base: object):
    layers = files.random_layers(base, attention_only(base), rank=lambda n: 2 + n % 3, alpha=lambda _: 2.0)
    return files.kohya(layers), {}


def kohya_sgm(base: object):
    layers = files.random_layers(base, [("unet", name) for name in SGM_NAMES], alpha=lambda _: 2.0)
    return files.kohya(layers, SGM_NAMES), {}


def kohya_by_diffusers(base: object):
    layers = files.random_layers(base, with_encoders(base))
    return convert_state_dict_to_kohya(files.peft(layers)), {}


CASES = [
    peft_unet,
    peft_with_encoders,
    peft_mixed_ranks,
    peft_config,
    peft_rank_stabilised,
    peft_convolutions,
    old_diffusers,
    kohya_alpha,
    kohya_mixed_ranks,
    kohya_sgm,
    kohya_by_diffusers,
]


def pixels(engine: DiffusersEngine, request: GenerationParams) -> np.ndarray:
    return np.asarray(engine.generate(request, lambda *_: None).image).astype(int)


def reference_pixels(pipeline: StableDiffusionXLPipeline, request: GenerationParams) -> np.ndarray:
    image = pipeline(
        request.prompt,
        num_inference_steps=request.steps,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_picture_with_an_adapter(
    xl: DiffusersEngine, reference: StableDiffusionXLPipeline, tmp_path: Path, case: Case
) -> None:
    tensors, header = case(xl._pipeline)
    path = files.write(tmp_path / "adapter.safetensors", tensors, header)
    bare = pixels(xl, params())

    xl.activate([activation(xl.ingest(path))])
    ours = pixels(xl, params())

    reference.load_lora_weights(path.parent, weight_name=path.name)
    reference.fuse_lora(components=["unet", "text_encoder", "text_encoder_2"])
    theirs = reference_pixels(reference, params())

    assert np.abs(ours - theirs).max() <= TOLERANCE
    assert np.abs(ours - bare).max() > 10 * TOLERANCE, "an adapter that changes nothing proves nothing"


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_a_picture_with_two_adapters_at_their_strengths(
    xl: DiffusersEngine, reference: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    strengths = {"first": 0.8, "second": -0.5}
    paths = {}
    for seed, name in enumerate(strengths):
        layers = files.random_layers(xl._pipeline, with_encoders(xl._pipeline), seed=seed, rank=lambda _: 3)
        paths[name] = files.write(tmp_path / f"{name}.safetensors", files.peft(layers))

    xl.activate([activation(xl.ingest(path), strengths[name]) for name, path in paths.items()])
    ours = pixels(xl, params())

    for name, path in paths.items():
        reference.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    reference.set_adapters(list(strengths), list(strengths.values()))
    reference.fuse_lora(adapter_names=list(strengths), components=["unet", "text_encoder", "text_encoder_2"])
    theirs = reference_pixels(reference, params())
    assert np.abs(ours - theirs).max() <= TOLERANCE


def test_the_bare_base(xl: DiffusersEngine, reference: StableDiffusionXLPipeline) -> None:
    assert (pixels(xl, params()) == reference_pixels(reference, params())).all()
