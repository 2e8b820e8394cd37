"""A pipeline and an adapter, loaded from the local Hub by the libraries that load them from the Hub."""

import asyncio
import json
import os
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("pipeline_round_trip.py")
PROJECT = Path(__file__).parents[3]


async def test_diffusers_loads_a_pipeline_and_an_adapter(hub, hub_root, tmp_path):
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environ |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "client"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(PROJECT),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), str(hub_root)),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    answer = json.loads(output)
    assert answer["class"] == "StableDiffusionPipeline"
    assert answer["received"] == answer["sent"]
    assert answer["adapters"] == {"unet": ["style"]}
    assert answer["image_shape"] == [32, 32, 3]
    assert hub.requests.count("/api/models/house/tiny", "GET") == 1
    assert not [request for request in hub.requests.matching() if request.status >= 500]
