"""The VAE that both bases share, trained on every style so that all of them survive decoding."""

from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from deploy.demo.recipe.pictures import Drawn, draw, normalised
from deploy.demo.recipe.scenes import SHAPES, SIZE
from deploy.demo.recipe.styles import STYLES
from deploy.demo.recipe.training import Outcome, Plan, Trainer
from deploy.demo.recipe.vae_start import start_with_colours

LATENT_CHANNELS: Final = 12
FACTOR: Final = 8
PLAN: Final = Plan(name="vae", steps=2000, rate=1.5e-3, warmup=50, average=0.99, weight_decay=0.0)
BATCH: Final = 16
CROP: Final = 32
CROP_STEPS: Final = 1600
"""Most steps see quarters of pictures: four times as cheap, and hardly less is to be seen."""
EDGE_WEIGHT: Final = 2.0
"""Weight of the error of differences between neighbouring pixels: it asks for sharp edges."""
DECAY: Final = 1e-3
"""Keeps latents small in place of a KL term: one of 2e-5 made most of them carry nothing."""


def new_vae() -> AutoencoderKL:
    """SDXL's VAE in small: factor 8 in three halvings, twelve latent channels."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        sample_size=64,
        force_upcast=False,
    )
    start_with_colours(vae, LATENT_CHANNELS)
    return vae


def _pictures() -> Drawn:
    """Half plain, half shared out among the styles; half of the styled ones show stars too."""
    parts = [draw("flat", 2400, 11, shapes=(*SHAPES, "star"))]
    styled = [style for style in STYLES if style != "flat"]
    parts += [draw(style, 400, 12 + i, shapes=(*SHAPES, "star")) for i, style in enumerate(styled)]
    return Drawn(
        pixels=torch.cat([part.pixels for part in parts]),
        captions=[words for part in parts for words in part.captions],
    )


def train_vae(work: Path) -> tuple[AutoencoderKL, Outcome]:
    """Trains, or continues, the VAE; sets its scaling factor so that latents have unit std."""
    torch.manual_seed(1)
    vae = new_vae().to(memory_format=torch.channels_last)
    trainer = Trainer(PLAN, dict(vae.named_parameters()), work)
    if trainer.done < PLAN.steps:
        pixels = _pictures().pixels

        def loss_of(step: int) -> Tensor:
            chooser = torch.Generator().manual_seed(step)
            chosen = torch.randint(len(pixels), (BATCH,), generator=chooser)
            target = normalised(pixels[chosen])
            if step < CROP_STEPS:
                left, top = torch.randint(SIZE - CROP + 1, (2,), generator=chooser).tolist()
                target = target[:, :, top : top + CROP, left : left + CROP]
            target = target.contiguous(memory_format=torch.channels_last)
            posterior = vae.encode(target).latent_dist
            error = vae.decode(posterior.sample()).sample - target
            edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
            plain = error.abs().mean() + error.pow(2).mean()
            loss: Tensor = plain + EDGE_WEIGHT * edges + DECAY * posterior.mean.pow(2).mean()
            return loss

        vae.train()
        outcome = trainer.run(loss_of)
    else:
        trainer.use_averaged()
        outcome = Outcome(loss=trainer.loss, seconds=trainer.seconds, steps=trainer.done)
    vae = vae.to(memory_format=torch.contiguous_format).eval()
    vae.register_to_config(scaling_factor=_scaling_factor(vae))
    return vae, outcome


@torch.no_grad()
def _scaling_factor(vae: AutoencoderKL) -> float:
    sample = draw("flat", 256, 5).pixels
    return round(1.0 / float(vae.encode(normalised(sample)).latent_dist.mean.std()), 4)


@torch.no_grad()
def latents_of(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Scaled latents (n, 12, 8, 8) of pictures, computed once and reused in every epoch."""
    parts = torch.split(pixels, 128)
    means = [vae.encode(normalised(part)).latent_dist.mean for part in parts]
    scaled: Tensor = torch.cat(means) * vae.config.scaling_factor
    return scaled.contiguous()
