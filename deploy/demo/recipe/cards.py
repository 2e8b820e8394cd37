"""Model cards: YAML front matter as the Hub's own cards have it, a text, an example picture."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

Front = dict[str, object]

EXAMPLE: Final = "images/example.webp"


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A repository's README.md, and the settings that the Hub keeps beside its files."""

    repo: str
    text: str
    front: Front
    settings: Front = field(default_factory=dict)


def write_card(card: Card, hub: Path) -> None:
    """Writes README.md and, where there are settings, `.hub.yaml`."""
    folder = hub / card.repo
    folder.mkdir(parents=True, exist_ok=True)
    front = yaml.safe_dump(card.front, sort_keys=False, allow_unicode=True, width=100)
    (folder / "README.md").write_text(f"---\n{front}---\n\n{card.text.strip()}\n")
    if card.settings:
        settings = yaml.safe_dump(card.settings, sort_keys=False)
        (folder / ".hub.yaml").write_text(settings)


def base_front(prompt: str, *, xl: bool) -> Front:
    """Front matter of a base."""
    kind = "stable-diffusion-xl" if xl else "stable-diffusion"
    return {
        "license": "apache-2.0",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", kind, "diffusers"],
        "widget": [{"text": prompt, "output": {"url": EXAMPLE}}],
        "inference": {"parameters": {"num_inference_steps": 20, "guidance_scale": 3.0}},
    }


def adapter_front(base: str | list[str], prompt: str, trigger: str, *, tags: tuple[str, ...] = ()) -> Front:
    """Front matter of an adapter with an example picture."""
    front: Front = {
        "license": "apache-2.0",
        "base_model": base,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "lora", "template:sd-lora", *tags],
        "widget": [{"text": prompt, "output": {"url": EXAMPLE}}],
    }
    return front | ({"instance_prompt": trigger} if trigger else {})


def usage(base: str, repo: str, file: str, prompt: str) -> str:
    """The snippet that cards show."""
    return f"""## Use

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{base}")
pipeline.load_lora_weights("{repo}", weight_name="{file}")
image = pipeline("{prompt}", num_inference_steps=20, guidance_scale=3.0).images[0]
```"""
