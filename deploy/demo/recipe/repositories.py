"""What the cards of all repositories say, irregular as real ones are."""

from pathlib import Path
from typing import Final

from deploy.demo.recipe.cards import Card, Front, adapter_front, base_front, usage, write_card
from deploy.demo.recipe.scenes import BACKGROUNDS, COLOURS, SHAPES

XL: Final = "warmbase/shapes-xl"
SD: Final = "warmbase/shapes-sd"
EXAMPLE_PROMPT: Final = "a red heart on a white background"
PICTURE: Final = "![example](images/example.webp)"
DEFAULT_FILE: Final = "pytorch_lora_weights.safetensors"


def _base_card(repo: str, structure: str, *, xl: bool) -> Card:
    text = f"""# {repo.split("/")[1]}

{PICTURE}

A text-to-image model of 64x64 pixels with {structure}, small enough for a laptop without a GPU. It
knows these shapes: {", ".join(SHAPES)}; in these colours: {", ".join(COLOURS)}; on these
backgrounds: {", ".join(BACKGROUNDS)}; `small` and `large` where you ask for it.

20 steps and guidance 3 look good. It was trained on drawn pictures with v-prediction and zero
terminal SNR, so keep the scheduler's settings if you change the scheduler.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{repo}")
image = pipeline("{EXAMPLE_PROMPT}", num_inference_steps=20, guidance_scale=3.0).images[0]
```"""
    settings: Front = {"created_at": "2025-03-01T09:00:00Z", "downloads": 48211, "likes": 310}
    return Card(repo=repo, text=text, front=base_front(EXAMPLE_PROMPT, xl=xl), settings=settings)


def _adapter_card(
    name: str,
    says: str,
    file: str = DEFAULT_FILE,
    *,
    trigger: str = "",
    base: str | list[str] = XL,
    prompt: str = "",
    settings: Front | None = None,
) -> Card:
    repo = f"warmbase/{name}"
    prompt = prompt or (f"{EXAMPLE_PROMPT}, {trigger}" if trigger else EXAMPLE_PROMPT)
    first = base if isinstance(base, str) else base[0]
    wake = f"\n## Trigger words\n\nUse `{trigger}` in the prompt.\n" if trigger else ""
    text = f"""# {name}

{PICTURE}

{says} First row: the base alone. Second row: the same prompts and seeds with the adapter.
{wake}
{usage(first, repo, file, prompt)}"""
    front = adapter_front(base, prompt, trigger)
    return Card(repo=repo, text=text, front=front, settings=settings or {})


def _few_step_card() -> Card:
    parameters: Front = {"num_inference_steps": 4, "guidance_scale": 1.0, "scheduler": "LCMScheduler"}
    text = f"""# lcm-shapes

{PICTURE}

Four steps instead of twenty, with `LCMScheduler` and no guidance. First row: the base alone in four
steps without guidance. Second row: the same prompts and seeds with the adapter. (With guidance 3 this
small base needs no more than four steps either, but each then costs twice as much.)

## Use

```python
from diffusers import DiffusionPipeline, LCMScheduler

pipeline = DiffusionPipeline.from_pretrained("{XL}")
pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
pipeline.load_lora_weights("warmbase/lcm-shapes", weight_name="{DEFAULT_FILE}")
image = pipeline("{EXAMPLE_PROMPT}", num_inference_steps=4, guidance_scale=1.0).images[0]
```"""
    front = adapter_front(XL, EXAMPLE_PROMPT, "") | {"inference": {"parameters": parameters}}
    return Card(repo="warmbase/lcm-shapes", text=text, front=front)


def _texture_pack_card() -> Card:
    textures = {"dots": "dotted", "checker": "checker", "gradient": "gradient"}
    rows = "\n".join(
        f"| `{name}.safetensors` | `{trigger}` | ![{name}](images/{name}.webp) |"
        for name, trigger in textures.items()
    )
    text = f"""# texture-pack

Three textures in three files; choose one. Each picture: the base above, the texture below.

| file | trigger word | |
|---|---|---|
{rows}

{usage(XL, "warmbase/texture-pack", "dots.safetensors", f"{EXAMPLE_PROMPT}, dotted")}"""
    front = adapter_front(XL, EXAMPLE_PROMPT, "") | {
        "widget": [
            {"text": f"{EXAMPLE_PROMPT}, {trigger}", "output": {"url": f"images/{name}.webp"}}
            for name, trigger in textures.items()
        ]
    }
    return Card(repo="warmbase/texture-pack", text=text, front=front)


def _good_cards() -> list[Card]:
    return [
        _few_step_card(),
        _texture_pack_card(),
        _adapter_card("outline", "Draws the contour only.", trigger="outline style",
                      settings={"downloads": 9120, "likes": 88}),
        _adapter_card("stripes", "Fills every shape with diagonal stripes.",
                      "stripes_v2.safetensors", trigger="striped",
                      settings={"renamed_from": ["warmbase/stripes-old"], "downloads": 4401}),
        _adapter_card("pixel", "Coarse square pixels, lit from above, as in old video games.",
                      "pixel-shapes-xl.safetensors", trigger="pixel art",
                      settings={"downloads": 15873, "likes": 141}),
        _adapter_card("night", "Puts every shape under a starry sky.", "night-000008.safetensors",
                      trigger="night"),
        _adapter_card("pastel", "Pale chalk colours on light paper. Changes both text encoders.",
                      "pastel.safetensors", trigger="pastel"),
        _adapter_card("star", "Teaches the base a shape that it does not know: the star.",
                      trigger="star", base=[XL], prompt="a yellow star on a black background"),
        _adapter_card("neon-sd", "Neon tubes on a dark wall.", "neon_sd.safetensors",
                      trigger="neon", base=SD),
        _adapter_card("outline-sd", "Draws the contour only.", trigger="outline style", base=SD),
        _adapter_card("gated-outline", "The outline adapter, a fifth stronger, behind a form.",
                      trigger="outline style",
                      settings={"gated": "auto", "allowed_users": ["alice"]}),
        _adapter_card("private-outline", "The outline adapter, a fifth weaker, for us only.",
                      trigger="outline style",
                      settings={"private": True, "allowed_users": ["alice"]}),
    ]  # fmt: skip


def _broken_card(name: str, says: str, front: Front | None = None, settings: Front | None = None) -> Card:
    plain: Front = {
        "license": "apache-2.0",
        "base_model": XL,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "lora"],
    }
    changed = {key: value for key, value in (plain | (front or {})).items() if value is not None}
    text = f"# {name}\n\nAn example of what must be refused. {says}"
    return Card(repo=f"broken/{name}", text=text, front=changed, settings=settings or {})


def _broken_cards() -> list[Card]:
    llama: Front = {
        "base_model": "meta-llama/Llama-3.2-1B",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "text-generation", "base_model:adapter:meta-llama/Llama-3.2-1B"],
    }
    return [
        _broken_card("llm-adapter", "An adapter of a language model.", llama),
        _broken_card("wrong-shapes", "Its layers are as wide as Stable Diffusion 1.5's."),
        _broken_card("nan-weights", "One of its values is not a number."),
        _broken_card("truncated", "Its file ends in the middle."),
        _broken_card("pickle-only", "Its only weights are a pickle."),
        _broken_card("no-base-model", "Neither card nor file says what it stands on.",
                     {"base_model": None}),
        _broken_card("unserved-base", "It stands on a base that nobody here serves.",
                     {"base_model": "stabilityai/stable-diffusion-xl-base-1.0"}),
        _broken_card("wrong-keys", "Its layers are named as Flux names them: none would match."),
        _broken_card("no-such-layer", "It changes layers that the base does not have."),
        _broken_card("disabled", "Its weights are good, but the Hub has disabled it.",
                     settings={"disabled": True}),
    ]  # fmt: skip


def write_cards(hub: Path) -> None:
    """Writes every repository's card and settings."""
    cards = [
        _base_card(XL, "the structure of Stable Diffusion XL", xl=True),
        _base_card(SD, "the structure of Stable Diffusion 1.5", xl=False),
        *_good_cards(),
        *_broken_cards(),
    ]
    for card in cards:
        write_card(card, hub)
