"""Trains the two bases and writes them as repositories."""

import copy
import json
import logging
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from deploy.demo.recipe.parts import Parts, assemble, conditions, new_scheduler, new_sd, new_xl
from deploy.demo.recipe.pictures import draw
from deploy.demo.recipe.training import Loss, Outcome, Plan, Trainer
from deploy.demo.recipe.vae import latents_of

logger: Final = logging.getLogger(__name__)

XL: Final = Plan(name="shapes-xl", steps=5900, rate=1.2e-3, warmup=200, average=0.995)
SD: Final = Plan(name="shapes-sd", steps=4200, rate=1.2e-3, warmup=200, average=0.995)
BATCH: Final = 64
PICTURES: Final = 8192
LATENTS_SEED: Final = 21
FORMING: Final = 300
"""Half of the times lie beyond this one, where shapes form; the details need less practice."""


def noised(latents: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents and the velocity to predict at these times (Salimans & Ho, 2022)."""
    alphas = new_scheduler().alphas_cumprod[times].view(-1, 1, 1, 1)
    signal, spread = alphas.sqrt(), (1 - alphas).sqrt()
    return signal * latents + spread * noise, signal * noise - spread * latents


def velocity_loss(parts: Parts, latents: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted velocity for one batch of clean latents."""
    times = torch.randint(1000, (len(latents),), generator=generator)
    late = torch.randint(FORMING, 1000, (len(latents),), generator=generator)
    times = torch.where(torch.rand(len(latents), generator=generator) < 0.5, late, times)
    noise = torch.randn(latents.shape, generator=generator)
    noisy, velocity = noised(latents, noise, times)
    context, extra = conditions(parts, ids)
    predicted = parts.unet(noisy, times, context, added_cond_kwargs=extra).sample
    return torch.nn.functional.mse_loss(predicted, velocity)


def flat_latents(vae: AutoencoderKL, parts: Parts, work: Path) -> tuple[Tensor, Tensor]:
    """Latents and token ids of the plain pictures, encoded once and kept in the work folder."""
    path = work / "latents.safetensors"
    if not path.exists():
        drawn = draw("flat", PICTURES, LATENTS_SEED)
        ids = parts.tokens(drawn.captions)
        save_file({"latents": latents_of(vae, drawn.pixels), "ids": ids}, path)
        logger.info("encoded %d pictures", PICTURES)
    stored = load_file(path)
    return stored["latents"], stored["ids"]


def batch_loss(parts: Parts, latents: Tensor, ids: Tensor, batch: int) -> Loss:
    """The velocity loss as a function of the step, which also seeds the choice and the noise."""

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        return velocity_loss(parts, latents[chosen], ids[chosen], generator)

    return loss_of


def _start_from(parts: Parts, work: Path) -> None:
    """Starts the second base from the first one's averaged weights of equal name and shape."""
    trained = load_file(work / f"{XL.name}.safetensors")
    with torch.no_grad():
        for name, weight in parts.parameters().items():
            found = trained.get(f"mean.{name}")
            if found is not None and found.shape == weight.shape:
                weight.copy_(found)


def train_base(plan: Plan, vae: AutoencoderKL, work: Path) -> tuple[Parts, Outcome]:
    """Trains, or continues, one base; the networks end with their averaged weights."""
    torch.manual_seed(2)
    parts = new_xl() if plan is XL else new_sd()
    if plan is SD:
        _start_from(parts, work)
    trainer = Trainer(plan, parts.parameters(), work)
    latents, ids = flat_latents(vae, parts, work)
    outcome = trainer.run(batch_loss(parts, latents, ids, BATCH))
    return parts, outcome


def restored_base(plan: Plan, work: Path) -> Parts:
    """The networks as the newest checkpoint has them, so that a run can be looked at midway."""
    parts = new_xl() if plan is XL else new_sd()
    Trainer(plan, parts.parameters(), work).use_averaged()
    return parts


def export_base(parts: Parts, vae: AutoencoderKL, folder: Path) -> None:
    """Writes a base as a diffusers repository, weights in half precision."""
    pipeline = copy.deepcopy(assemble(parts, vae)).to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for config in folder.glob("text_encoder*/config.json"):
        # transformers loads in the type named here, diffusers in float32: keep them equal.
        content = json.loads(config.read_text()) | {"dtype": "float32"}
        config.write_text(json.dumps(content, indent=2) + "\n")
