"""Makes the demo repositories: `python -m deploy.demo.recipe [stage...] --work DIR`.

Without stages, all of them in order. Every stage continues from what the work folder holds.
"""

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.demo.recipe.adapters import ADAPTERS, PICTURES, Adapter, train_adapter
from deploy.demo.recipe.bases import SD, XL, export_base, restored_base, train_base
from deploy.demo.recipe.broken import write_broken
from deploy.demo.recipe.examples import draw_examples
from deploy.demo.recipe.fewstep import LCM, train_few_steps
from deploy.demo.recipe.formats import Form, resized, write
from deploy.demo.recipe.headers import kohya_header, peft_header
from deploy.demo.recipe.parts import load
from deploy.demo.recipe.repositories import write_cards
from deploy.demo.recipe.training import Outcome
from deploy.demo.recipe.vae import train_vae

logger: Final = logging.getLogger("deploy.demo.recipe")

HUB: Final = Path(__file__).resolve().parents[1] / "hub"
BASES: Final = {plan.name: plan for plan in (XL, SD)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where checkpoints are kept and where repositories are written."""

    work: Path
    hub: Path


def _note(name: str, outcome: Outcome) -> None:
    logger.info("%s: %d steps, loss %.4f, %.0f s", name, outcome.steps, outcome.loss,
                outcome.seconds)  # fmt: skip


def make_vae(places: Places) -> None:
    """Trains the VAE."""
    _, outcome = train_vae(places.work)
    _note("vae", outcome)


def make_base(name: str, places: Places) -> None:
    """Trains one base and writes its repository."""
    vae, _ = train_vae(places.work)
    parts, outcome = train_base(BASES[name], vae, places.work)
    _note(name, outcome)
    export_base(parts, vae, places.hub / "warmbase" / name)


def export_bases(places: Places) -> None:
    """Writes both bases as their newest checkpoints have them, finished or not."""
    vae, _ = train_vae(places.work)
    for name, plan in BASES.items():
        export_base(restored_base(plan, places.work), vae, places.hub / "warmbase" / name)


def make_adapter(adapter: Adapter, places: Places) -> None:
    """Trains one adapter and writes its file; the outline's also at two other strengths."""
    warmbase = places.hub / "warmbase"
    pipeline = load(warmbase / adapter.base)
    train = train_few_steps if adapter is LCM else None
    updates, outcome = (
        train(pipeline, places.work) if train else train_adapter(adapter, pipeline, places.work)
    )
    _note(adapter.key, outcome)
    header: dict[str, str] = {}
    if adapter.form in {Form.KOHYA, Form.KOHYA_SGM}:
        header = kohya_header(adapter, PICTURES)
    elif adapter.header:
        header = peft_header(adapter, updates)
    two_encoders = adapter.base == XL.name
    path = warmbase / adapter.repo / adapter.file
    write(updates, adapter.form, path, header, two_encoders=two_encoders)
    if adapter.repo == "outline":
        for repo, strength in (("gated-outline", 1.2), ("private-outline", 0.8)):
            other = resized(updates, rank=3, strength=strength)
            where = warmbase / repo / adapter.file
            write(other, adapter.form, where, {}, two_encoders=two_encoders)


def _stages() -> dict[str, Callable[[Places], None]]:
    stages: dict[str, Callable[[Places], None]] = {"vae": make_vae}
    for name in BASES:
        stages[name] = lambda places, name=name: make_base(name, places)  # type: ignore[misc]
    for adapter in (*ADAPTERS, LCM):
        stages[adapter.key] = lambda places, adapter=adapter: (  # type: ignore[misc]
            make_adapter(adapter, places)
        )
    return stages | {
        "broken": lambda places: write_broken(places.hub),
        "examples": lambda places: draw_examples(places.hub),
        "cards": lambda places: write_cards(places.hub),
    }


def main() -> None:
    """Runs the stages that the command line names."""
    stages = _stages() | {"export": export_bases}
    parser = argparse.ArgumentParser(prog="python -m deploy.demo.recipe", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="stage", help=", ".join(stages))
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--hub", type=Path, default=HUB, help="folder of the repositories")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.stages) - set(stages)):
        parser.error(f"no such stage: {', '.join(unknown)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    places = Places(work=asked.work, hub=asked.hub)
    for name in asked.stages or _stages():
        logger.info("stage %s", name)
        stages[name](places)


if __name__ == "__main__":
    main()
