"""The swap against what the original service did: load, fuse, unfuse and unload with plain diffusers.

    python tests/bench/swap.py [--device cuda] [--quarter] [--base FOLDER --adapters FILE FILE ...]

Two arms in one process, taken in turn, medians. Ours goes from one adapter to the other, both in RAM;
the reference loads the same files from the page cache, fuses, and takes them out again. Without arguments
it runs on the demo's base and adapters. `--quarter` is SDXL's topology at a quarter of its width, with
random weights and adapters of SDXL's usual sizes.
"""

import argparse
import copy
import gc
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
from worker.engine.ingest import ingest
from worker.engine.layouts import Layouts
from worker.engine.load import describe, open_base
from worker.engine.snapshot import Snapshot

HUB = Path(__file__).parents[2] / "deploy/demo/hub/warmbase"
COMMIT = "0" * 40
STEPS = 5
SECONDS_OF_STEPS = 30.0
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
        gc.collect()
        gc.freeze()  # as a worker does
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
    """Time all arms in turn and print their medians."""
    adapters = [engine.ingest(path) for path in pair]
    wanted = [[activation(adapter, path)] for adapter, path in zip(adapters, pair, strict=True)]
    weaker = [[activation(adapter, path, 0.5)] for adapter, path in zip(adapters, pair, strict=True)]
    engine.activate(wanted[0])  # keeps the pristine copies, as a worker's first jobs do
    engine.activate(wanted[1])
    cycle(reference, pair[0])  # peft's and transformers' imports
    arms: dict[str, Callable[[int], object]] = {
        "swap": lambda n: engine.activate(wanted[n]),
        "strength": lambda n: engine.activate(weaker[n]),
        "copy": lambda n: copy_touched(engine, adapters[n]),
        "product": lambda n: multiply(adapters[n]),
        "restore": lambda _: engine.activate([]),
        "ingest": lambda n: engine.ingest(pair[n]),
        "first of its kind": lambda n: ingest(pair[n], engine._targets, engine._conversion, Layouts()),
        "read": lambda n: pair[n].read_bytes(),
        "load and fuse": lambda n: load(reference, pair[n]),
        "unfuse and unload": lambda _: unload(reference),
    }
    took: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm, work in arms.items():
            took[arm].append(timed(engine, lambda work=work, n=number: work(n % 2)))
        engine.activate(wanted[number % 2])
    median = {arm: statistics.median(seconds) for arm, seconds in took.items()}
    size = sum(path.stat().st_size for path in pair) / len(pair) / 1e6
    print(f"\n{title(pair[0])} <-> {title(pair[1])}: {size:.1f} MB, {len(adapters[0].changes)} weights")
    floor, full = median["copy"] + median["product"], median["load and fuse"] + median["unfuse and unload"]
    row("swap, both in RAM", median["swap"], f"median of {rounds}, min {min(took['swap']) * 1e3:.2f}")
    row("load+fuse+unfuse+unload", full, f"{full / median['swap']:.1f} x the swap")
    row("copy of the weights + product", floor, f"the swap is {median['swap'] / floor:.2f} x that (bar: 2.5)")
    row(
        "strength only",
        median["strength"],
        f"{median['strength'] / median['swap']:.2f} x a swap (bar: 1.0)",
    )
    row("back to the bare base", median["restore"], "")
    for arm, title_of_arm in (("ingest", "known header"), ("first of its kind", "new header")):
        row(
            f"file to canonical, {title_of_arm}",
            median[arm],
            f"{median[arm] / median['read']:.1f} x reading its bytes (bar: 3); "
            f"load+fuse is {median['load and fuse'] / median[arm]:.0f} x that (bar: 10)",
        )
    bare, active = steps(engine, wanted[0], rounds)
    row("denoising step", active, f"{active / bare:.3f} x without an adapter (bar: 1.01)")
    apart = difference(engine, reference, adapters, pair)
    print(f"  largest difference of a weight from fuse_lora's: {apart:.1e}")
    engine.verify()
    print("  the base is bit by bit what it was")


def row(name: str, seconds: float, remark: str) -> None:
    print(f"  {name:<30}{seconds * 1e3:10.2f} ms   {remark}".rstrip())


def copy_touched(engine: DiffusersEngine, adapter: CanonicalAdapter) -> None:
    """Copy the weights that the adapter changes: all that memory has to do for a swap."""
    weights = [engine._targets.weights[name] for name in adapter.changes]
    torch._foreach_copy_([beside(weight) for weight in weights], weights)


_beside: dict[int, torch.Tensor] = {}


def beside(weight: torch.Tensor) -> torch.Tensor:
    """Return memory of a weight's size, which was touched before."""
    return _beside.setdefault(weight.data_ptr(), weight.clone())


_products: dict[tuple[int, int], torch.Tensor] = {}


@torch.no_grad()
def multiply(adapter: CanonicalAdapter) -> None:
    """Multiply the factors of each weight: all that the arithmetic has to do."""
    for parts in adapter.changes.values():
        for delta in parts:
            up, down = delta.low_rank.up.float(), delta.low_rank.down.float()
            shape = up.shape[0], down.shape[1]
            torch.mm(up, down, out=_products.setdefault(shape, torch.empty(shape, device=up.device)))


def steps(engine: DiffusersEngine, wanted: Sequence[Any], rounds: int) -> tuple[float, float]:
    """Return seconds of a denoising step without and with an adapter, medians, taken in turn."""
    found: dict[bool, list[float]] = {False: [], True: []}
    step = one_step(engine)
    step()
    # small steps wander most, and are soon repeated
    affordable = SECONDS_OF_STEPS / (2 * STEPS * timed(engine, step))
    for _ in range(max(rounds, int(affordable))):
        for active in found:
            engine.activate(wanted if active else [])
            step()
            found[active] += [timed(engine, step) for _ in range(STEPS)]
    return statistics.median(found[False]), statistics.median(found[True])


def one_step(engine: DiffusersEngine) -> Callable[[], object]:
    """Return a call of the UNet, of an image and its negative: what the steps of a drawing consist of."""
    unet = engine._pipeline.unet
    side, like = unet.config.sample_size, {"device": unet.device, "dtype": unet.dtype}
    latents = torch.randn(2, unet.config.in_channels, side, side, **like)
    texts = torch.randn(2, 77, unet.config.cross_attention_dim, **like)
    more = {}
    if unet.config.addition_embed_type == "text_time":
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        more = {"text_embeds": torch.randn(2, width, **like), "time_ids": torch.ones(2, 6, **like)}

    @torch.no_grad()
    def step() -> object:
        return unet(latents, 500, encoder_hidden_states=texts, added_cond_kwargs=more)

    return step


def cycle(pipeline: Any, path: Path) -> None:
    """What the original did for every request with another adapter."""
    load(pipeline, path)
    unload(pipeline)


def load(pipeline: Any, path: Path) -> None:
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(components=parts(pipeline))


def unload(pipeline: Any) -> None:
    pipeline.unfuse_lora(components=parts(pipeline))
    pipeline.unload_lora_weights()


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


def activation(adapter: CanonicalAdapter, path: Path, scale: float = 1.0) -> Activation[CanonicalAdapter]:
    ref = AdapterRef(
        repo=RepoId("bench/adapter"), revision=Revision(COMMIT), weight_name=path.name, scale=scale
    )
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
