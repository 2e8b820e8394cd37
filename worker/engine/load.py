"""From a base's name to a warm engine."""

import inspect
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import ModelCard
from transformers.utils import logging as transformers_logging

from shared.errors import UnsupportedModel
from shared.refs import FileRef, RepoId
from worker.engine.compilation import compile_denoiser
from worker.engine.contract import BaseInfo
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.families import FAMILIES, Family, denoiser_of
from worker.engine.gguf_file import load_denoiser, replaced_part
from worker.engine.quantisers import check_quantisers, compute_in, quantisers_of
from worker.engine.snapshot import CARD, INDEX, SKIPPED_PARTS, OnStage, Snapshot, family_of, fetch_base

log = logging.getLogger(__name__)


def load_base(
    repo: RepoId,
    *,
    hub: str,
    token: str | None,
    device: str,
    dtype: str,
    on_stage: OnStage,
    revision: str | None = None,
    cache_dir: Path | None = None,
    compiled: bool = False,
    denoiser: FileRef | None = None,
) -> DiffusersEngine:
    """Download a base and load it onto the device. The first generation of the engine warms it up.

    Args:
        repo: the base.
        hub: address of the Hub.
        token: for gated and private bases.
        device: a torch device, or `auto`: CUDA where there is one.
        dtype: `float32`, `float16`, `bfloat16`, or `auto`: bfloat16 on CUDA, float32 on CPU.
        on_stage: told what the loading is at.
        revision: branch, tag or commit; the default branch when None.
        cache_dir: where downloads are kept; huggingface_hub's own place when None.
        compiled: compile the denoiser, in the course of the first generation, unless it is quantised.
        denoiser: a GGUF file that takes the place of the denoiser's weights; the base is then the file's
            repository, and `repo` has its other parts.

    Raises:
        UnsupportedModel: not a text-to-image pipeline that Warmbase serves.
        RepoNotFound: the Hub has no such repository, or not for this token.
        RepoForbidden: it is gated.
        HubUnavailable: the Hub does not answer.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    where = _device(device)
    number = _dtype(dtype, where)
    on_stage("asking the Hub")
    snapshot = fetch_base(
        repo,
        revision,
        hub=hub,
        token=token,
        half=number != torch.float32,
        cache_dir=cache_dir,
        on_stage=on_stage,
        denoiser=denoiser,
    )
    on_stage("loading")
    return open_base(repo, snapshot, device=where, dtype=number, compiled=compiled)


def open_base(
    repo: RepoId,
    snapshot: Snapshot,
    *,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool = False,
) -> DiffusersEngine:
    """Load a base from the files of a commit.

    Raises:
        UnsupportedModel: not a text-to-image pipeline that Warmbase serves, or stored in a way that cannot
            be read here.
    """
    # images for which NVIDIA's libraries are built in say otherwise, and what is merged would have 10 bits
    torch.set_float32_matmul_precision("highest")
    if device.type == "cuda" and device.index is not None:
        # quantisers load to the current GPU, whatever is asked for later
        torch.cuda.set_device(device)
    index = json.loads((snapshot.folder / INDEX).read_bytes())
    kind = family_of(repo, index).pipeline
    replaced = replaced_part(repo, index) if snapshot.denoiser else None
    stored = {part: kind for part, kind in index.items() if part != replaced}
    check_quantisers(repo, snapshot.folder, stored, device)
    expected = inspect.signature(kind.__init__).parameters
    options: dict[str, Any] = {part: None for part in SKIPPED_PARTS if part in expected}
    options |= {name: False for name in ("requires_safety_checker", "add_watermarker") if name in expected}
    if snapshot.denoiser and replaced:
        options[replaced] = load_denoiser(
            snapshot.denoiser.path, snapshot.folder, replaced, index[replaced][1], dtype
        )
    try:
        pipeline = kind.from_pretrained(
            snapshot.folder,
            dtype=dtype,
            variant=snapshot.variant,
            use_safetensors=True,
            local_files_only=True,
            **options,
        )
    except ImportError as error:
        raise UnsupportedModel(f"{repo} needs a library that is not installed: {error}") from error
    for part, _ in quantisers_of(snapshot.folder, stored):
        if part not in SKIPPED_PARTS:
            compute_in(dtype, pipeline.components[part])
    pipeline.to(device)
    info = describe(repo, snapshot, pipeline)
    log.info("base is loaded", extra={"action": "base_loaded", "base": info.repo, "revision": info.revision})
    engine = DiffusersEngine(pipeline, info)
    if compiled and engine.info.adapters == "unmerged":
        log.warning("a quantised base is not compiled", extra={"action": "not_compiled", "base": repo})
    elif compiled:
        compile_denoiser(denoiser_of(pipeline))
    return engine


def describe(repo: RepoId, snapshot: Snapshot, pipeline: Any) -> BaseInfo:  # noqa: ANN401 - diffusers is untyped
    """Return what the base is, and its choices: its card's, else those of the pipeline's signature."""
    family = FAMILIES[type(pipeline).__name__]
    card = _card_parameters(snapshot.folder)
    height, width = _size(pipeline, family)
    guidance = family.guidance_default or family.arguments[family.guidance].default
    file = snapshot.denoiser
    return BaseInfo(
        repo=file.repo if file else repo,
        revision=file.revision if file else snapshot.revision,
        pipeline_class=family.name,
        device=str(pipeline.device),
        dtype=str(pipeline.dtype).removeprefix("torch."),
        default_width=int(card.get("width", width)),
        default_height=int(card.get("height", height)),
        default_steps=int(card.get("num_inference_steps", family.arguments["num_inference_steps"].default)),
        default_guidance_scale=float(card.get("guidance_scale", guidance)),
        default_scheduler=type(pipeline.scheduler).__name__,
        # the pipelines ask for 8, the VAE for its own factor, the denoiser for whole patches
        size_multiple=math.lcm(8, pipeline.vae_scale_factor * family.patch),
        image_to_image=family.image_to_image is not None,
        copy_of=file.copy_of if file else snapshot.copy_of,
        denoiser_file=file.name if file else None,
        other_parts=f"{repo}@{snapshot.revision}" if file else None,
    )


def _size(pipeline: Any, family: Family) -> tuple[int, int]:  # noqa: ANN401
    """Return the height and the width of a call that asks for none."""
    if side := family.side or family.arguments["height"].default:
        return side, side
    side = getattr(pipeline, "default_sample_size", None) or denoiser_of(pipeline).config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor


def _card_parameters(folder: Path) -> Mapping[str, float]:
    """Return the numbers of `inference.parameters` in the base's card; the operator chose this base."""
    if not (folder / CARD).is_file():
        return {}
    inference = ModelCard.load(folder / CARD).data.to_dict().get("inference")
    parameters = inference.get("parameters") if isinstance(inference, dict) else None
    if not isinstance(parameters, dict):
        return {}
    return {
        name: value
        for name, value in parameters.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]
