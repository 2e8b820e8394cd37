"""A local Hub on a free port, repositories to order, and the real client."""

import json
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, file_download
from huggingface_hub.utils import disable_progress_bars

from deploy.local_hub.faults import Faults
from deploy.local_hub.server import LocalHubConfig, RunningHub, serve

WriteRepo = Callable[..., Path]

ADAPTER_CARD = """---
base_model: house/base
tags: [lora, text-to-image]
license: mit
instance_prompt: in crayon style
widget:
- text: a red circle in crayon style
  output: {url: images/one.png}
---
# Crayon
"""


def safetensors(tensors: Mapping[str, tuple[str, list[int], bytes]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file; each tensor is its type, shape and content."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
    encoded = json.dumps(header).encode()
    contents = b"".join(content for _, _, content in tensors.values())
    return struct.pack("<Q", len(encoded)) + encoded + contents


@pytest.fixture
def lora_weights() -> bytes:
    tensors = {"unet.down.lora_A.weight": ("F32", [2, 3], bytes(range(24)))}
    return safetensors(tensors, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"})


@pytest.fixture
def hub_root(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    root.mkdir()
    (root / ".hub-tokens.yaml").write_text("hf_alice: alice\nhf_bob: bob\n")
    return root


@pytest.fixture
def write_repo(hub_root: Path) -> WriteRepo:
    """Write a repository: its id, its files by path, and the text of its `.hub.yaml`."""

    def write(repo_id: str, files: Mapping[str, str | bytes], settings: str = "") -> Path:
        folder = hub_root / repo_id
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        if settings:
            (folder / ".hub.yaml").write_text(settings)
        return folder

    return write


@pytest.fixture
def adapter(write_repo: WriteRepo, lora_weights: bytes) -> str:
    """An adapter and its base, as on the Hub; returns the adapter's id."""
    base_files = {
        "README.md": "---\npipeline_tag: text-to-image\n---\n",
        "model_index.json": '{"_class_name": "StableDiffusionXLPipeline"}',
    }
    write_repo("house/base", base_files)
    files = {
        "README.md": ADAPTER_CARD,
        "images/one.png": b"\x89PNG picture",
        "images/more/two.png": b"\x89PNG another",
        "notes on style.txt": "thick lines",
        "pytorch_lora_weights.safetensors": lora_weights,
    }
    write_repo("someone/crayon", files, "likes: 3\ncreated_at: 2023-11-09T00:34:02Z\n")
    return "someone/crayon"


@pytest.fixture
def fault_sleeps() -> list[float]:
    """How long each fault would have waited."""
    return []


@pytest.fixture
async def hub(hub_root: Path, fault_sleeps: list[float]) -> AsyncIterator[RunningHub]:
    async def note(seconds: float) -> None:
        fault_sleeps.append(seconds)

    config = LocalHubConfig(root=hub_root, allow_faults=True)
    async with serve(config, faults=Faults(sleep=note)) as running:
        yield running


@pytest.fixture
def client_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the real client keeps its files."""
    folder = tmp_path / "client"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def client_of(hub: RunningHub, client_cache: Path) -> Iterator[Callable[[str | None], HfApi]]:
    """Make the real client, for the holder of a token or for a stranger."""
    disable_progress_bars()
    yield lambda token=None: HfApi(endpoint=hub.url, token=token or False)
    huggingface_hub.close_session()


@pytest.fixture
def stranger(client_of: Callable[..., HfApi]) -> HfApi:
    return client_of()


@pytest.fixture
def alice(client_of: Callable[..., HfApi]) -> HfApi:
    return client_of("hf_alice")


@pytest.fixture
def bob(client_of: Callable[..., HfApi]) -> HfApi:
    return client_of("hf_bob")


@pytest.fixture
async def raw(hub: RunningHub) -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client for what the real one never sends."""
    async with aiohttp.ClientSession(hub.url) as session:
        yield session


@pytest.fixture
def impatient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the pauses out of the real client's retries, and let it keep small pieces (not 10 MiB ones)."""
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _seconds: None))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 16)
