"""The swap against what the original service did: load, fuse, unfuse and unload with plain diffusers.

    python tests/bench/swap.py [--device cuda] [--quarter] [--base FOLDER --adapters FILE FILE ...]

Two arms in one process, taken in turn, medians. Ours goes from one adapter to the other, both in RAM;
the reference loads the same files from the page cache, fuses, and takes them out again. Without arguments
it runs on the demo's base and adapters. `--quarter` is SDXL's topology at a quarter of its width, with
random weights and adapters of SDXL's usual sizes.
"""

import argparse
import copy
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import UNet2DConditionModel

from shared.refs import AdapterRef, RepoId, Revision
from tests import adapter_files as files
from tests.tiny_bases import tiny_xl
from worker.engine.adapter import CanonicalAdapter
from worker.engine.contract import Activation, AdapterFault
from worker.engine.diffusers_engine import DiffusersEngine
from worker.engine.load import describe, open_base
from worker.engine.snapshot import Snapshot

HUB = Path(__file__).parents[2] / "deploy/demo/hub/warmbase"
COMMIT = "0" * 40
PARTS = ["unet", "text_encoder", "text_encoder_2"]


def main() -> None:
    """Measure and print."""
    arguments = parse()
    quieten()
    print(machine(arguments.device))
    with tempfile.TemporaryDirectory() as folder:
        engine = quarter_engine(arguments.device) if arguments.quarter else demo_engine(arguments)
        paths = arguments.adapters or ([] if arguments.quarter else demo_adapters(engine))
        groups = [paths[:2]] if len(paths) >= 2 else random_adapters(engine, Path(folder))
        reference = copy.deepcopy(engine._pipeline)
        for pair in groups:
            report(engine, reference, pair, arguments.rounds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=HUB / "shapes-xl", help="folder of a base")
    parser.add_argument("--adapters", type=Path, nargs="*", help="two weight files or more")
    parser.add_argument("--quarter", action="store_true", help="SDXL at a quarter of its width, random")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def quieten() -> None:
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


def machine(device: str) -> str:
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return f"{where} ({platform.machine()}), torch {torch.__version__}, diffusers {diffusers.__version__}"


def demo_engine(arguments: argparse.Namespace) -> DiffusersEngine:
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    snapshot = Snapshot(folder=arguments.base, revision=COMMIT, variant=None)
    return open_base(RepoId("bench/base"), snapshot, device=device, dtype=dtype)


def quarter_engine(device: str) -> DiffusersEngine:
    """A base with SDXL's 722 linear layers at a quarter of their width; its text encoders are tiny."""
    pipeline = tiny_xl()
    pipeline.unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(80, 160, 320),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        cross_attention_dim=512,
        addition_embed_type="text_time",
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=6 * 64 + 32,
        norm_num_groups=16,
    )
    pipeline.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    snapshot = Snapshot(folder=Path(), revision=COMMIT, variant=None)
    return DiffusersEngine(pipeline, describe(RepoId("bench/quarter"), snapshot, pipeline))


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


def random_adapters(engine: DiffusersEngine, folder: Path) -> list[list[Path]]:
    """Pairs of random adapters: small (attention, rank 8) and large (all linear layers, rank 32)."""
    pipeline = engine._pipeline
    attention = files.linears(pipeline, "unet", ".to_q", ".to_k", ".to_v", ".to_out.0")
    blocks = [each for each in files.linears(pipeline, "unet") if ".attentions." in each[1]]
    return [
        [
            random_adapter(pipeline, folder / f"{name}-{seed}.safetensors", targets, rank, seed)
            for seed in (1, 2)
        ]
        for name, targets, rank in (("small", attention, 8), ("large", blocks, 32))
    ]


def random_adapter(
    pipeline: Any, path: Path, targets: Sequence[tuple[str, str]], rank: int, seed: int
) -> Path:
    layers = files.random_layers(
        pipeline, targets, rank=lambda _: rank, seed=seed, size=0.02, dtype=torch.float16
    )
    return files.write(path, files.peft(layers))


def report(engine: DiffusersEngine, reference: Any, pair: Sequence[Path], rounds: int) -> None:
    """Time both arms in turn and print their medians."""
    adapters = [engine.ingest(path) for path in pair]
    activations = [[activation(adapter, path)] for adapter, path in zip(adapters, pair, strict=True)]
    engine.activate(activations[0])  # keeps the pristine copies, as a worker's first jobs do
    engine.activate(activations[1])
    cycle(reference, pair[0])  # peft's and transformers' imports
    ours, theirs, restores, ingests, reads = [], [], [], [], []
    for number in range(rounds):
        ours.append(timed(engine, lambda n=number: engine.activate(activations[n % 2])))
        theirs.append(timed(engine, lambda n=number: cycle(reference, pair[n % 2])))
        ingests.append(timed(engine, lambda n=number: engine.ingest(pair[n % 2])))
        reads.append(timed(engine, lambda n=number: pair[n % 2].read_bytes()))
        restores.append(timed(engine, lambda: engine.activate([])))
        engine.activate(activations[number % 2])
    swap, full = statistics.median(ours), statistics.median(theirs)
    size = sum(path.stat().st_size for path in pair) / len(pair) / 1e6
    print(f"\n{title(pair[0])} <-> {title(pair[1])}: {size:.1f} MB, {len(adapters[0].changes)} weights")
    print(
        f"  swap, both in RAM         {swap * 1e3:10.2f} ms   median of {rounds}, min {min(ours) * 1e3:.2f}"
    )
    print(f"  load+fuse+unfuse+unload   {full * 1e3:10.2f} ms   min {min(theirs) * 1e3:.2f}")
    print(f"  ratio                     {full / swap:10.1f} x")
    print(f"  back to the bare base     {statistics.median(restores) * 1e3:10.2f} ms")
    ingest, read = statistics.median(ingests), statistics.median(reads)
    print(f"  file to canonical tensors {ingest * 1e3:10.2f} ms   {ingest / read:.1f} x reading its bytes")
    apart = difference(engine, reference, adapters, pair)
    print(f"  largest difference of a weight from fuse_lora's: {apart:.1e}")
    engine.verify()
    print("  the base is bit by bit what it was")


def cycle(pipeline: Any, path: Path) -> None:
    """What the original did for every request with another adapter."""
    load(pipeline, path)
    pipeline.unfuse_lora(components=parts(pipeline))
    pipeline.unload_lora_weights()


def load(pipeline: Any, path: Path) -> None:
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(components=parts(pipeline))


def parts(pipeline: Any) -> list[str]:
    return [name for name in PARTS if name in pipeline.components]


def difference(
    engine: DiffusersEngine, reference: Any, adapters: Sequence[CanonicalAdapter], pair: Sequence[Path]
) -> float:
    """Return by how much our weights differ from fused ones: both arms did the same work."""
    pristine = {name: weight.clone() for name, weight in reference.unet.state_dict().items()}
    engine.activate([activation(adapters[0], pair[0])])
    load(reference, pair[0])
    fused = {
        name.replace(".base_layer", ""): weight
        for name, weight in reference.unet.state_dict().items()
        if "lora_" not in name
    }
    largest = max(
        (weight.float() - fused[name].float()).abs().max().item()
        for name, weight in engine._pipeline.unet.state_dict().items()
    )
    reference.unload_lora_weights()
    reference.unet.load_state_dict(pristine)
    return largest


def title(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.is_relative_to(HUB) else path.stem


def activation(adapter: CanonicalAdapter, path: Path) -> Activation[CanonicalAdapter]:
    ref = AdapterRef(repo=RepoId("bench/adapter"), revision=Revision(COMMIT), weight_name=path.name)
    return Activation(ref=ref, adapter=adapter)


def timed(engine: DiffusersEngine, work: Callable[[], object]) -> float:
    """Return seconds, the device idle at both ends."""
    synchronise(engine)
    started = time.perf_counter()
    work()
    synchronise(engine)
    return time.perf_counter() - started


def synchronise(engine: DiffusersEngine) -> None:
    if engine.info.device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
