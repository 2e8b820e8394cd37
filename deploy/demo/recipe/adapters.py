"""Which adapters there are, and how one is trained on an exported base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from deploy.demo.recipe.bases import batch_loss
from deploy.demo.recipe.formats import Form, Update, Updates
from deploy.demo.recipe.parts import Parts, Pipeline, parts_of
from deploy.demo.recipe.pictures import Drawn, draw
from deploy.demo.recipe.scenes import SHAPES
from deploy.demo.recipe.training import Outcome, Plan, Trainer
from deploy.demo.recipe.vae import latents_of

ATTENTION: Final = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"
TRANSFORMER: Final = rf"{ATTENTION}|.*\.ff\.net\.(0\.proj|2)|.*\.proj_(in|out)"
CONVOLUTION: Final = r".*\.resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|.*samplers\.0\.conv"
ENCODER: Final = r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
PICTURES: Final = 512
BATCH: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """What one adapter file is trained on and how it is written."""

    repo: str
    file: str
    style: str
    form: Form
    base: str = "shapes-xl"
    targets: str = f"{ATTENTION}|{CONVOLUTION}"
    rank: int = 4
    alpha: float = 4.0
    ranks: tuple[tuple[str, int], ...] = ()
    encoders: bool = False
    steps: int = 500
    rate: float = 3e-3
    trigger: str = ""
    shape: str = ""
    header: bool = False

    @property
    def key(self) -> str:
        """Names the adapter in logs and checkpoints."""
        return f"{self.repo}-{Path(self.file).stem}"


ADAPTERS: Final = (
    Adapter(
        repo="outline", file="pytorch_lora_weights.safetensors", style="outline", form=Form.PEFT,
        rank=8, alpha=8.0, steps=600, trigger="outline style", header=True,
    ),
    Adapter(
        repo="stripes", file="stripes_v2.safetensors", style="stripes", form=Form.DIFFUSERS,
        trigger="striped",
    ),
    Adapter(
        repo="pixel", file="pixel-shapes-xl.safetensors", style="pixel", form=Form.KOHYA_SGM,
        rank=4, alpha=2.0, rate=5e-3, trigger="pixel art",
    ),
    Adapter(
        repo="night", file="night-000008.safetensors", style="night", form=Form.KOHYA,
        alpha=4.0, ranks=((r".*\.attn2\.to_[kv]", 8), (r".*\.conv1", 6), (r".*\.attn1\..*", 2)),
        trigger="night",
    ),
    Adapter(
        repo="pastel", file="pastel.safetensors", style="pastel", form=Form.KOHYA_SGM,
        rate=2e-3, encoders=True, trigger="pastel",
    ),
    Adapter(
        repo="texture-pack", file="dots.safetensors", style="dots", form=Form.PEFT,
        targets=CONVOLUTION, steps=300, trigger="dotted",
    ),
    Adapter(
        repo="texture-pack", file="checker.safetensors", style="checker", form=Form.PEFT,
        targets=CONVOLUTION, steps=300, trigger="checker",
    ),
    Adapter(
        repo="texture-pack", file="gradient.safetensors", style="gradient", form=Form.PEFT,
        targets=CONVOLUTION, steps=300, trigger="gradient",
    ),
    Adapter(
        repo="star", file="pytorch_lora_weights.safetensors", style="flat", form=Form.PEFT,
        rank=6, alpha=6.0, steps=700, encoders=True, shape="star", header=True, trigger="star",
    ),
    Adapter(
        repo="neon-sd", file="neon_sd.safetensors", style="neon", form=Form.KOHYA,
        base="shapes-sd", trigger="neon",
    ),
    Adapter(
        repo="outline-sd", file="pytorch_lora_weights.safetensors", style="outline",
        form=Form.PEFT, base="shapes-sd", targets=TRANSFORMER, rank=8, alpha=8.0,
        trigger="outline style", header=True,
    ),
)  # fmt: skip


def _pictures(adapter: Adapter) -> Drawn:
    if not adapter.shape:
        return draw(adapter.style, PICTURES, 31, trigger=adapter.trigger)
    # A third of known shapes, so that learning the new one does not unlearn them.
    new = draw(adapter.style, PICTURES * 2 // 3, 31, shapes=(adapter.shape,), empty=0.02)
    known = draw(adapter.style, PICTURES // 3, 32, shapes=SHAPES)
    return Drawn(pixels=torch.cat([new.pixels, known.pixels]), captions=new.captions + known.captions)


def attach(parts: Parts, adapter: Adapter) -> dict[str, torch.nn.Parameter]:
    """Adds fresh low-rank layers to the frozen networks and returns what is to be trained."""
    trained: dict[str, torch.nn.Parameter] = {}
    for component, network in parts.networks().items():
        network.requires_grad_(requires_grad=False)
        if component != "unet" and not adapter.encoders:
            continue
        config = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            target_modules=adapter.targets if component == "unet" else ENCODER,
            rank_pattern=dict(adapter.ranks),
            init_lora_weights="gaussian",
        )
        network.add_adapter(config)  # type: ignore[operator]
        trained |= {
            f"{component}.{name}": weight
            for name, weight in network.named_parameters()
            if weight.requires_grad
        }
    return trained


def updates_of(parts: Parts, adapter: Adapter) -> Updates:
    """Reads the trained low-rank layers back out of the networks."""
    updates: Updates = {}
    for component, network in parts.networks().items():
        if not hasattr(network, "peft_config"):
            continue
        state: dict[str, Tensor] = get_peft_model_state_dict(network, adapter_name="default")
        modules = {name.removesuffix(".lora_A.weight") for name in state if "lora_A" in name}
        updates[component] = {
            module: Update(
                down=state[f"{module}.lora_A.weight"].detach().clone(),
                up=state[f"{module}.lora_B.weight"].detach().clone(),
                alpha=adapter.alpha,
            )
            for module in sorted(modules)
        }
    return updates


def train_adapter(adapter: Adapter, pipeline: Pipeline, work: Path) -> tuple[Updates, Outcome]:
    """Trains, or continues, one adapter on a freshly loaded base, which it consumes."""
    parts = parts_of(pipeline)
    torch.manual_seed(3)
    plan = Plan(
        name=adapter.key, steps=adapter.steps, rate=adapter.rate, warmup=20, average=0.98,
        weight_decay=0.0,
    )  # fmt: skip
    trainer = Trainer(plan, attach(parts, adapter), work)
    drawn = _pictures(adapter)
    latents, ids = latents_of(pipeline.vae, drawn.pixels), parts.tokens(drawn.captions)
    outcome = trainer.run(batch_loss(parts, latents, ids, BATCH))
    return updates_of(parts, adapter), outcome
