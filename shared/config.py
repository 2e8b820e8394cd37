"""Configuration: read once, in `main`, into frozen objects that are passed down.

This is the only reader of environment variables. A bad value names its variable and stops the process.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shared.errors import InvalidRequest
from shared.redis_address import parse_address
from shared.refs import FileRef, RepoId, parse_file_ref, parse_repo_id

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
DEFAULT_HUB = "https://huggingface.co"
DEFAULT_RESULTS_BYTES = 2 << 30

T = TypeVar("T")


class ConfigError(ValueError):
    """A variable holds a value that cannot be used; the message names both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may ask for. A source is the picture that a drawing starts from."""

    max_steps: int = 150
    max_side: int = 2048
    max_adapters: int = 8
    max_scale: float = 4.0
    max_prompt: int = 4000
    max_guidance: float = 50.0
    max_source_bytes: int = 8 << 20
    max_source_pixels: int = 4096 * 4096
    max_source_side: int = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonConfig:
    """What router and worker both need.

    Attributes:
        secret: seals callers' Hub tokens on their way to the worker; empty means that adapters which
            need the caller's token are refused.
        hub: address of the Hub.
        hub_token: the deployment's own token, for what the operator's bases need; never used for what a
            caller asks for.
        results_url: where images are kept; None: in Redis, beside the queue.
        results_bytes: what all images together may have.
    """

    redis_url: str
    hub: str
    hub_token: str | None
    secret: str
    log_level: str
    results_url: str | None = None
    results_bytes: int = DEFAULT_RESULTS_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterConfig:
    """The router's configuration. Times are in seconds."""

    common: CommonConfig
    limits: Limits
    host: str
    port: int
    request_timeout: float
    metadata_ttl: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """The worker's configuration. Times are in seconds, sizes in bytes.

    Attributes:
        base: the repository of the base.
        denoiser: a GGUF file that takes the place of the weights of the base's denoiser.
        copy_of: the base that this one is a quantised copy of, where its card does not say so.
        device: a torch device, or `auto`.
        dtype: `float32`, `float16`, `bfloat16`, or `auto`: bfloat16 on CUDA, float32 on CPU.
        compiled: compile the denoiser at the start.
        probe_port: where health, readiness and metrics are served; 0 picks a free port.
        max_adapter_bytes: larger weight files are refused.
        disk_folder: where downloaded adapters are kept; None: beside huggingface_hub's own store.
        disk_budget: bytes of adapters kept there.
        ram_budget: bytes of adapters kept in RAM.
        gpu_budget: bytes of adapters kept in the device's memory; 0 for none. Means nothing on a CPU.
        pinned: repositories whose adapters, once used, leave no tier unless a job's own need their place.
        drain: seconds that a running job gets to finish after SIGTERM.
        stall: seconds without a denoising step after which the worker gives itself up.
    """

    common: CommonConfig
    base: RepoId
    device: str
    dtype: str
    compiled: bool
    host: str
    probe_port: int
    max_adapter_bytes: int
    ram_budget: int
    disk_folder: Path | None
    disk_budget: int
    gpu_budget: int
    pinned: frozenset[RepoId]
    drain: float
    stall: float
    denoiser: FileRef | None = None
    copy_of: RepoId | None = None

    @property
    def served(self) -> RepoId:
        """The id that is served, of the pool and its queue.

        With a file in its denoiser's place it draws other pictures than the base does: it is the file's.
        """
        return self.denoiser.repo if self.denoiser else self.base


def router_config(environ: Mapping[str, str] = os.environ) -> RouterConfig:
    """Read the router's configuration.

    Raises:
        ConfigError: a variable holds a value that cannot be used.
    """
    return RouterConfig(
        common=_common(environ),
        limits=Limits(),
        host=_read(environ, "WARMBASE_HOST", "127.0.0.1", _host),
        port=_read(environ, "WARMBASE_PORT", 8000, _port),
        request_timeout=_read(environ, "WARMBASE_REQUEST_TIMEOUT", 300.0, _positive),
        metadata_ttl=_read(environ, "WARMBASE_METADATA_TTL", 300.0, _positive),
    )


def worker_config(environ: Mapping[str, str] = os.environ) -> WorkerConfig:
    """Read the worker's configuration.

    Raises:
        ConfigError: a variable is missing or holds a value that cannot be used.
    """
    if "WARMBASE_BASE" not in environ:
        raise ConfigError("WARMBASE_BASE is not set: name the base model, as organisation/name")
    return WorkerConfig(
        common=_common(environ),
        base=_read(environ, "WARMBASE_BASE", None, _repo),
        device=environ.get("WARMBASE_DEVICE", "auto"),
        dtype=_read(environ, "WARMBASE_DTYPE", "auto", _one_of("auto", "float32", "float16", "bfloat16")),
        compiled=_read(environ, "WARMBASE_COMPILE", "off", _one_of("off", "on")) == "on",
        host=_read(environ, "WARMBASE_HOST", "127.0.0.1", _host),
        probe_port=_read(environ, "WARMBASE_PROBE_PORT", 0, _port),
        max_adapter_bytes=_read(environ, "WARMBASE_MAX_ADAPTER_BYTES", 4 << 30, _count),
        ram_budget=_read(environ, "WARMBASE_RAM_BUDGET", 4 << 30, _count),
        disk_folder=_optional(environ, "WARMBASE_DISK_FOLDER", _folder),
        disk_budget=_read(environ, "WARMBASE_DISK_BUDGET", 32 << 30, _count),
        gpu_budget=_read(environ, "WARMBASE_GPU_BUDGET", 2 << 30, _whole),
        pinned=_read(environ, "WARMBASE_PINNED", frozenset(), _repos),
        drain=_read(environ, "WARMBASE_DRAIN", 20.0, _positive),
        stall=_read(environ, "WARMBASE_STALL", 120.0, _positive),
        denoiser=_optional(environ, "WARMBASE_DENOISER_FILE", _gguf_file),
        copy_of=_optional(environ, "WARMBASE_COPY_OF", _repo),
    )


def redis_url(environ: Mapping[str, str]) -> str:
    """Return the address of Redis.

    Raises:
        ConfigError: it cannot be used. The message holds nothing of it, because it may hold a password.
    """
    url = environ.get("REDIS_URL", DEFAULT_REDIS_URL)
    try:
        parse_address(url)
    except ValueError as error:
        raise ConfigError(f"REDIS_URL: {error}") from error
    return url


def _common(environ: Mapping[str, str]) -> CommonConfig:
    return CommonConfig(
        redis_url=redis_url(environ),
        hub=_hub(environ),
        hub_token=environ.get("HF_TOKEN") or None,
        secret=environ.get("WARMBASE_SECRET", ""),
        log_level=_read(environ, "WARMBASE_LOG_LEVEL", "info", _one_of("debug", "info", "warning", "error")),
        results_url=_results_url(environ),
        results_bytes=_read(environ, "WARMBASE_RESULTS_BYTES", DEFAULT_RESULTS_BYTES, _count),
    )


def _hub(environ: Mapping[str, str]) -> str:
    """Return the Hub's address. Who it would name goes before each caller's own token: it names nobody."""
    name = "HF_ENDPOINT"
    if "@" in environ.get(name, ""):
        raise ConfigError(f"{name}: holds a user or a password; leave them out, and use HF_TOKEN")
    return _read(environ, name, DEFAULT_HUB, _http_url)


def _results_url(environ: Mapping[str, str]) -> str | None:
    url = environ.get("WARMBASE_RESULTS_URL")
    if not url:
        return None
    if url.startswith("file:"):
        if not re.fullmatch(r"file:///[^?#]+", url):
            raise ConfigError("WARMBASE_RESULTS_URL: names a directory as file:///its/absolute/path")
        return url
    try:
        parse_address(url)
    except ValueError as error:
        also = "" if url.startswith(("redis", "unix")) else "; or with file:///"
        raise ConfigError(f"WARMBASE_RESULTS_URL: {error}{also}") from error
    return url


def _read(environ: Mapping[str, str], name: str, default: T | None, parse: Callable[[str], T]) -> T:
    """Parse a variable. A default of None means that the variable is there."""
    text = environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return parse(text or "")
    except (ValueError, InvalidRequest) as error:
        raise ConfigError(f"{name}={text!r}: {error}") from error


def _optional(environ: Mapping[str, str], name: str, parse: Callable[[str], T]) -> T | None:
    """Parse a variable; None where it is not set, or empty."""
    return _read(environ, name, None, parse) if environ.get(name) else None


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("has to begin with http:// or https://")
    return text.rstrip("/")


def _host(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: all addresses are 0.0.0.0, and leaving it out is 127.0.0.1")
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError("has to be a port, a number between 0 and 65535")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError("has to be a number above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError("has to be a whole number above 0")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("has to be a whole number")
    return int(text)


def _folder(text: str) -> Path:
    if not Path(text).is_absolute():
        raise ValueError("has to be an absolute path")
    return Path(text)


def _repos(text: str) -> frozenset[RepoId]:
    return frozenset(parse_repo_id(part, "each") for part in text.replace(",", " ").split())


def _repo(text: str) -> RepoId:
    return parse_repo_id(text, "base")


def _gguf_file(text: str) -> FileRef:
    if not text.endswith(".gguf"):
        raise ValueError("has to name a .gguf file")
    return parse_file_ref(text, "file")


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"has to be one of {', '.join(choices)}")
        return text

    return parse
