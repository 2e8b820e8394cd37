"""Every good demo adapter: is our picture the one that plain diffusers draws, and does the adapter show?

    python tests/bench/picture_equality.py

Prints the largest difference of a pixel (of 255) from diffusers' load and fuse, and the mean difference
from the base's own picture; then whether the base's picture is the same to the byte after a hundred random
swaps. Fails when one of ours is further from diffusers than rounding explains, or the base has changed.
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline

from shared.jobs import GenerationParams
from shared.refs import RepoId
from tests.bench import swap_bases, swap_figures, swap_reference
from worker.engine.contract import AdapterFault
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import open_base
from worker.engine.snapshot import Snapshot

TOLERANCE = 2
SWAPS = 100
PARAMS = GenerationParams(prompt="a red heart on a white background", seed=3)
BASES = ("shapes-xl", "shapes-sd")


def main() -> int:
    """Compare on each base of the demo."""
    swap_figures.quieten()
    print(swap_figures.machine("cpu"))
    good = [compare(name) for name in BASES if (swap_bases.HUB / name / "model_index.json").is_file()]
    return int(not all(good))


def compare(base: str) -> bool:
    """Print a line for each adapter that fits, and one for the base; return whether all is well."""
    snapshot = Snapshot(folder=swap_bases.HUB / base, revision=swap_bases.COMMIT, variant=None)
    engine = open_base(RepoId("bench/base"), snapshot, device=torch.device("cpu"), dtype=torch.float32)
    bare = ours(engine)
    worst = 0
    active = []
    print(f"\n{base:56} from diffusers (max)   from the base (mean)")
    for path in sorted(swap_bases.HUB.glob("*/*.safetensors")):
        try:
            adapter = engine.ingest(path)
        except AdapterFault:
            continue
        active.append(swap_bases.activation(adapter, path))
        engine.activate(active[-1:])
        picture = ours(engine)
        apart = int(np.abs(picture - theirs(engine, path)).max())
        worst = max(worst, apart)
        name = f"{path.parent.name}/{path.name}"
        print(f"  {name:54} {apart:20} {np.abs(picture - bare).mean():22.1f}")
    chance = random.Random(0)  # noqa: S311 - a repeatable order
    for _ in range(SWAPS):
        engine.activate(chance.sample(active, chance.randint(1, min(3, len(active)))))
    engine.verify()
    same = bool((ours(engine) == bare).all())
    print(f"  the base after {SWAPS} random swaps: {'the same to the byte' if same else 'DIFFERENT'}")
    return same and worst <= TOLERANCE


def ours(engine: DiffusersEngine) -> np.ndarray:
    return np.asarray(engine.generate(PARAMS, lambda *_: None).image).astype(int)


def theirs(engine: DiffusersEngine, path: Path) -> np.ndarray:
    """Draw with a fresh pipeline: what plain diffusers does for one adapter, and nothing else."""
    pipeline = DiffusionPipeline.from_pretrained(swap_bases.HUB / _base_of(engine), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    swap_reference.load(pipeline, path)
    image = pipeline(
        PARAMS.prompt,
        num_inference_steps=engine.info.default_steps,
        guidance_scale=engine.info.default_guidance_scale,
        generator=torch.Generator("cpu").manual_seed(PARAMS.seed),
    ).images[0]
    return np.asarray(image).astype(int)


def _base_of(engine: DiffusersEngine) -> str:
    return "shapes-xl" if "XL" in engine.info.pipeline_class else "shapes-sd"


if __name__ == "__main__":
    sys.exit(main())
