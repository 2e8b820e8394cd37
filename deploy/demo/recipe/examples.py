"""The cards' example pictures: what the repositories really draw."""

from pathlib import Path
from typing import Final

from deploy.demo.recipe.adapters import ADAPTERS, Adapter
from deploy.demo.recipe.cards import EXAMPLE
from deploy.demo.recipe.fewstep import LCM, use_lcm
from deploy.demo.recipe.gallery import Shot, judged_prompts, render, save_picture, sheet
from deploy.demo.recipe.parts import load

PROMPTS: Final = (
    "a red heart on a white background",
    "a blue circle on a pink background",
    "a green square on a white background",
    "a yellow triangle on a black background",
    "a purple cross on a gray background",
    "an orange diamond on a white background",
)
FEW: Final = 4


def prompts_for(adapter: Adapter) -> tuple[str, ...]:
    """The examples' prompts with the adapter's trigger word, or with its new shape."""
    if adapter.shape:
        return tuple(" ".join([*words[:2], adapter.shape, *words[3:]])
                     for words in (prompt.split() for prompt in PROMPTS))  # fmt: skip
    return tuple(f"{p}, {adapter.trigger}" if adapter.trigger else p for p in PROMPTS)


def draw_base(hub: Path, name: str) -> None:
    """A sheet of twelve prompts."""
    pipeline = load(hub / "warmbase" / name)
    prompts = judged_prompts(12)
    pictures = render(pipeline, Shot(prompts=prompts))
    save_picture(sheet([pictures[:6], pictures[6:]]), hub / "warmbase" / name / EXAMPLE)


def draw_adapter(hub: Path, adapter: Adapter, repo: str) -> None:
    """Two rows: the base and the base with the adapter, same prompts and seeds."""
    folder = hub / "warmbase" / repo
    pipeline = load(hub / "warmbase" / adapter.base)
    few = adapter is LCM
    shot = Shot(prompts=prompts_for(adapter), steps=FEW if few else 20, guidance=1.0 if few else 3.0)
    plain = render(pipeline, shot)
    pipeline.load_lora_weights(folder, weight_name=adapter.file)
    pipeline.fuse_lora()
    if few:
        use_lcm(pipeline)
    name = f"images/{Path(adapter.file).stem}.webp" if repo == "texture-pack" else EXAMPLE
    save_picture(sheet([plain, render(pipeline, shot)]), folder / name)


def draw_examples(hub: Path) -> None:
    """Draws the examples of every repository whose weights are there."""
    for name in ("shapes-xl", "shapes-sd"):
        draw_base(hub, name)
    for adapter in (*ADAPTERS, LCM):
        alike = ("gated-outline", "private-outline") if adapter.repo == "outline" else ()
        for repo in (adapter.repo, *alike):
            if (hub / "warmbase" / repo / adapter.file).exists():
                draw_adapter(hub, adapter, repo)
