from pathlib import Path

import pytest

from shared.config import ConfigError, router_config, worker_config
from shared.refs import FileRef

BASE = {"WARMBASE_BASE": "warmbase/shapes-xl"}


def test_a_router_needs_no_variable():
    config = router_config({})
    assert config.common.redis_url == "redis://127.0.0.1:6379/0"
    assert config.common.hub == "https://huggingface.co"
    assert (config.common.hub_token, config.common.secret) == (None, "")
    assert (config.host, config.port) == ("127.0.0.1", 8000)


def test_a_worker_needs_its_base():
    with pytest.raises(ConfigError, match="WARMBASE_BASE is not set"):
        worker_config({})


def test_a_worker_needs_nothing_else():
    config = worker_config(BASE)
    assert (config.base, config.device, config.dtype) == ("warmbase/shapes-xl", "auto", "auto")
    assert (config.disk_folder, config.pinned, config.copy_of) == (None, frozenset(), None)
    assert (config.denoiser, config.served) == (None, config.base)


def test_what_is_set_is_used():
    config = worker_config(
        {
            **BASE,
            "REDIS_URL": "rediss://queue:7000/1",
            "HF_ENDPOINT": "http://127.0.0.1:9000/",
            "HF_TOKEN": "hf_x",
            "WARMBASE_SECRET": "s",
            "WARMBASE_LOG_LEVEL": "debug",
            "WARMBASE_DTYPE": "bfloat16",
            "WARMBASE_COMPILE": "on",
            "WARMBASE_RAM_BUDGET": "1024",
            "WARMBASE_DISK_FOLDER": "/var/adapters",
            "WARMBASE_DISK_BUDGET": "2048",
            "WARMBASE_GPU_BUDGET": "0",
            "WARMBASE_PINNED": "someone/crayon, someone/ink",
            "WARMBASE_DRAIN": "2.5",
            "WARMBASE_COPY_OF": "lab/flux",
            "WARMBASE_DENOISER_FILE": "someone/flux-gguf@main/Q8/flux.gguf",
        }
    )
    assert config.common.redis_url == "rediss://queue:7000/1"
    assert config.common.hub == "http://127.0.0.1:9000"
    assert (config.common.hub_token, config.common.secret, config.common.log_level) == ("hf_x", "s", "debug")
    assert (config.dtype, config.compiled) == ("bfloat16", True)
    assert (config.ram_budget, config.drain) == (1024, 2.5)
    assert (config.disk_folder, config.disk_budget, config.gpu_budget) == (Path("/var/adapters"), 2048, 0)
    assert config.pinned == {"someone/crayon", "someone/ink"}
    assert config.copy_of == "lab/flux"
    assert config.denoiser == FileRef(repo="someone/flux-gguf", name="Q8/flux.gguf", revision="main")
    assert (config.base, config.served) == ("warmbase/shapes-xl", "someone/flux-gguf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WARMBASE_PORT", "http"),
        ("WARMBASE_PORT", "65536"),
        ("WARMBASE_PORT", "-1"),
        ("WARMBASE_REQUEST_TIMEOUT", "0"),
        ("WARMBASE_REQUEST_TIMEOUT", "inf"),
        ("WARMBASE_REQUEST_TIMEOUT", "nan"),
        ("WARMBASE_METADATA_TTL", ""),
        ("WARMBASE_LOG_LEVEL", "loud"),
        ("HF_ENDPOINT", "huggingface.co"),
        ("WARMBASE_HOST", ""),
    ],
)
def test_a_bad_value_of_the_router_is_named_with_its_variable(name, value):
    with pytest.raises(ConfigError, match=f"{name}='{value}': "):
        router_config({name: value})


def test_a_hub_s_address_that_holds_a_password_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="HF_ENDPOINT: holds a user or a password") as caught:
        router_config({"HF_ENDPOINT": "https://me:secret@mirror.example"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WARMBASE_BASE", "../shapes"),
        ("WARMBASE_BASE", ""),
        ("WARMBASE_DENOISER_FILE", "someone/flux-gguf"),
        ("WARMBASE_DENOISER_FILE", "someone/flux-gguf/flux.safetensors"),
        ("WARMBASE_COPY_OF", "flux"),
        ("WARMBASE_DTYPE", "int8"),
        ("WARMBASE_COMPILE", "yes"),
        ("WARMBASE_PROBE_PORT", "x"),
        ("WARMBASE_MAX_ADAPTER_BYTES", "0"),
        ("WARMBASE_RAM_BUDGET", "-1"),
        ("WARMBASE_DISK_FOLDER", "adapters"),
        ("WARMBASE_DISK_BUDGET", "0"),
        ("WARMBASE_GPU_BUDGET", "-1"),
        ("WARMBASE_PINNED", "crayon"),
        ("WARMBASE_DRAIN", "-1"),
        ("WARMBASE_STALL", "x"),
    ],
)
def test_a_bad_value_of_the_worker_is_named_with_its_variable(name, value):
    with pytest.raises(ConfigError, match=f"{name}='{value}': "):
        worker_config({**BASE, name: value})


@pytest.mark.parametrize("name", ["REDIS_URL", "WARMBASE_RESULTS_URL"])
def test_an_option_that_redis_has_not_is_named_with_its_variable(name):
    environ = {**BASE, name: "redis://:hunter2@queue?nonsense=1"}
    for read in (router_config, worker_config):
        with pytest.raises(ConfigError, match=f"^{name}: the option nonsense is not known") as caught:
            read(environ)
        assert "hunter2" not in str(caught.value)


def test_a_bad_redis_url_is_named_without_its_password():
    with pytest.raises(ConfigError, match="REDIS_URL") as caught:
        router_config({"REDIS_URL": "http://:hunter2@queue"})
    assert "hunter2" not in str(caught.value)
