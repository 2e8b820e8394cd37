"""Several adapters are ingested at once, and beside a generation: each comes out as it does alone."""

from concurrent.futures import ThreadPoolExecutor

import torch

from deploy.plan import DEMO_REPOSITORIES
from shared.jobs import GenerationParams
from shared.refs import RepoId
from tests.integration.worker.engine.conftest import assert_equal
from worker.engine.contract import AdapterFault
from worker.engine.load import open_base
from worker.engine.snapshot import Snapshot

FILES = sorted(DEMO_REPOSITORIES.glob("warmbase/*/*.safetensors"))


def test_ingests_beside_each_other_and_a_generation_give_what_they_give_alone() -> None:
    snapshot = Snapshot(folder=DEMO_REPOSITORIES / "warmbase/shapes-xl", revision="0" * 40, variant=None)
    engine = open_base(
        RepoId("warmbase/shapes-xl"), snapshot, device=torch.device("cpu"), dtype=torch.float32
    )

    def read(path):
        try:
            return engine.ingest(path)
        except AdapterFault as fault:  # of the other base
            return str(fault)

    alone = [read(path) for path in FILES]
    params = GenerationParams(prompt="a red circle", seed=1, steps=4)
    picture = engine.generate(params, lambda _done, _total: None).image.tobytes()
    with ThreadPoolExecutor(5) as threads:
        beside = threads.submit(engine.generate, params, lambda _done, _total: None)
        together = list(threads.map(read, FILES * 4))
        assert beside.result().image.tobytes() == picture

    assert any(not isinstance(each, str) for each in alone)
    for one, other in zip(alone * 4, together, strict=True):
        if isinstance(one, str):
            assert one == other
            continue
        assert_equal(one, other)
        assert engine.raise_up(other) is other
