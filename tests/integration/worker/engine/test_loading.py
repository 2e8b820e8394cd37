"""A base from a Hub to an engine, over HTTP: what is fetched, what is refused, what is told on the way."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi

from deploy.local_hub.server import LocalHubConfig, RunningHub, serve
from shared.errors import HubUnavailable, RepoForbidden, RepoNotFound, UnsupportedModel
from shared.refs import FileRef, RepoId
from tests import gguf_files
from tests.integration.worker.engine.conftest import picture
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import load_base

CARD = """---
inference:
  parameters: {num_inference_steps: 4, guidance_scale: 2.5, negative_prompt: blurred}
---
# Tiny
"""
BASE = RepoId("tests/tiny")
REASONS = {
    "WanPipeline": "videos",
    "StableAudioPipeline": "sound",
    "StableDiffusionXLImg2ImgPipeline": "from a picture",
    "FluxControlPipeline": "from a picture",
    "PixArtSigmaPipeline": "no LoRA loader",
    "HunyuanDiTPipeline": "no LoRA loader",
    "PRXPipeline": "loads nothing",
    "OnnxStableDiffusionPipeline": "library",
    "StrangersPipeline": "no such pipeline",
    "AutoencoderKL": "no such pipeline",
}
"""Classes that are not served, and a word of the reason."""


@pytest.fixture
def root(tmp_path: Path, xl_folder: Path) -> Path:
    folder = tmp_path / "hub" / BASE
    shutil.copytree(xl_folder, folder)
    (folder / "README.md").write_text(CARD)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02 a pickle")
    (folder / "pipeline.py").write_text("raise SystemExit('code from a stranger')\n")
    return tmp_path / "hub"


@pytest.fixture
async def hub(root: Path) -> AsyncIterator[RunningHub]:
    async with serve(LocalHubConfig(root=root)) as running:
        yield running


@pytest.fixture(autouse=True)
def closed_session() -> Iterator[None]:
    yield
    huggingface_hub.close_session()


class Loading:
    """Loads off the event loop that serves the Hub, and notes the stages."""

    def __init__(self, hub: str, cache: Path) -> None:
        self.hub, self.cache = hub, cache
        self.stages: list[str] = []

    async def __call__(
        self,
        repo: str = BASE,
        revision: str | None = None,
        dtype: str = "auto",
        denoiser: FileRef | None = None,
    ) -> DiffusersEngine:
        return await asyncio.to_thread(
            load_base,
            RepoId(repo),
            hub=self.hub,
            token=None,
            device="cpu",
            dtype=dtype,
            on_stage=self.stages.append,
            revision=revision,
            cache_dir=self.cache,
            denoiser=denoiser,
        )


@pytest.fixture
def load(hub: RunningHub, tmp_path: Path) -> Loading:
    return Loading(hub.url, tmp_path / "cache")


async def test_a_base_is_pinned_described_and_drawn_with(load: Loading, hub: RunningHub) -> None:
    engine = await load()
    info = engine.info
    commit = await asyncio.to_thread(lambda: HfApi(endpoint=hub.url, token=False).model_info(BASE).sha)
    assert (info.repo, info.revision) == (BASE, commit)
    assert info.pipeline_class == "StableDiffusionXLPipeline"
    assert (info.device, info.dtype) == ("cpu", "float32")
    assert (info.default_steps, info.default_guidance_scale) == (4, 2.5)
    assert (info.default_width, info.default_height, info.size_multiple) == (32, 32, 8)
    assert info.default_scheduler == "EulerDiscreteScheduler"
    assert info.copy_of is None
    assert len(picture(engine)) == 32 * 32 * 3


async def test_a_base_says_what_its_card_calls_it_a_quantised_copy_of(load: Loading, root: Path) -> None:
    relation = "base_model: tests/original\nbase_model_relation: quantized\n"
    (root / BASE / "README.md").write_text(f"---\n{relation}---\n")
    assert (await load()).info.copy_of == "tests/original"


async def test_only_what_the_pipeline_needs_is_fetched_no_pickle_and_no_code(load: Loading) -> None:
    await load()
    names = {path.name for path in load.cache.rglob("*") if path.suffix}
    assert "diffusion_pytorch_model.safetensors" in names
    assert not {"diffusion_pytorch_model.bin", "pipeline.py"} & names


class TestDenoiserFiles:
    """A base whose denoiser is a GGUF file of another repository."""

    REPO = RepoId("tests/tiny-gguf")
    FILE = FileRef(repo=REPO, name="Q8/unet.gguf")

    @pytest.fixture
    def root(self, root: Path, opened_xl: DiffusersEngine) -> Path:
        path = root / self.REPO / self.FILE.name
        path.parent.mkdir(parents=True)
        gguf_files.write(path, gguf_files.weights_of(opened_xl._pipeline.unet))
        card = f"---\nbase_model: {BASE}\nbase_model_relation: quantized\n---\n"
        (root / self.REPO / "README.md").write_text(card)
        return root

    async def test_it_is_pinned_to_its_commit_and_the_weights_that_it_replaces_are_not_fetched(
        self, load: Loading, hub: RunningHub
    ) -> None:
        api = HfApi(endpoint=hub.url, token=False)
        commit, base_commit = await asyncio.to_thread(
            lambda: [api.model_info(repo).sha for repo in (self.REPO, BASE)]
        )
        engine = await load(denoiser=replace(self.FILE, revision=commit))
        info = engine.info
        assert (info.repo, info.revision, info.copy_of) == (self.REPO, commit, BASE)
        assert (info.denoiser_file, info.other_parts) == (self.FILE.name, f"{BASE}@{base_commit}")
        assert info.adapters == "unmerged"
        assert (info.default_steps, info.default_guidance_scale) == (4, 2.5)
        fetched = {path.relative_to(path.parents[1]).as_posix() for path in load.cache.rglob("*.*")}
        assert {"unet/config.json", "vae/diffusion_pytorch_model.safetensors", self.FILE.name} <= fetched
        assert "unet/diffusion_pytorch_model.safetensors" not in fetched
        assert len(picture(engine)) == 32 * 32 * 3

    async def test_a_file_that_is_not_there(self, load: Loading) -> None:
        with pytest.raises(RepoNotFound, match=r"tests/tiny-gguf has no file Q4/unet\.gguf"):
            await load(denoiser=replace(self.FILE, name="Q4/unet.gguf"))

    async def test_its_repository_alone_is_no_base(self, load: Loading) -> None:
        with pytest.raises(UnsupportedModel, match=r"no model_index\.json; WARMBASE_DENOISER_FILE takes"):
            await load(self.REPO)


async def test_the_stages_tell_how_far_the_download_is(load: Loading) -> None:
    await load()
    downloading = [stage for stage in load.stages if stage.startswith("downloading")]
    assert load.stages[0] == "asking the Hub"
    assert load.stages[-1] == "loading"
    assert re.fullmatch(r"downloading ([\d.]+) of \1 MB", downloading[-1])


async def test_a_base_on_this_machine_is_not_fetched_again(load: Loading) -> None:
    await load()
    load.stages.clear()
    await load()
    assert not [stage for stage in load.stages if stage.startswith("downloading")]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision(load: Loading, dtype: str) -> None:
    engine = await load(dtype=dtype)
    assert engine.info.dtype == dtype
    assert engine._pipeline.unet.dtype == getattr(torch, dtype)


async def test_an_id_that_the_hub_does_not_know(load: Loading) -> None:
    with pytest.raises(RepoNotFound, match="tests/nothing"):
        await load("tests/nothing")


async def test_a_revision_that_the_hub_does_not_know(load: Loading) -> None:
    with pytest.raises(RepoNotFound):
        await load(revision="f" * 40)


async def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(HubUnavailable):
        await Loading("http://127.0.0.1:9", tmp_path)()


class TestRefusals:
    """Repositories that are no base; written before the Hub starts."""

    @pytest.fixture
    def root(self, root: Path) -> Path:
        folder = root / BASE
        index = json.loads((folder / "model_index.json").read_text())
        for name in REASONS:
            (root / "tests" / name).mkdir()
            (root / "tests" / name / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
        (root / "tests/lora").mkdir()
        (root / "tests/lora/adapter.safetensors").write_bytes(b"")
        shutil.copytree(folder, root / "tests/pickled")
        (root / "tests/pickled/unet/diffusion_pytorch_model.safetensors").unlink()
        (root / "tests/gated").mkdir()
        (root / "tests/gated/model_index.json").write_text(json.dumps(index))
        (root / "tests/gated/.hub.yaml").write_text("gated: manual\n")
        return root

    @pytest.mark.parametrize("name", REASONS)
    async def test_another_pipeline_and_why(self, load: Loading, name: str) -> None:
        with pytest.raises(UnsupportedModel, match=f"{name} is not served: .*{REASONS[name]}"):
            await load(f"tests/{name}")

    async def test_no_pipeline(self, load: Loading) -> None:
        with pytest.raises(UnsupportedModel, match=r"model_index\.json"):
            await load("tests/lora")

    async def test_weights_in_pickles_only(self, load: Loading) -> None:
        with pytest.raises(UnsupportedModel, match="unet has no safetensors"):
            await load("tests/pickled")

    async def test_gated_without_access(self, load: Loading) -> None:
        with pytest.raises(RepoForbidden, match="gated"):
            await load("tests/gated")
