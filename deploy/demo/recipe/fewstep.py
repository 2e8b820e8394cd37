"""A few-step adapter: the student learns to jump from any point of the base's path to its end.

The paths are the base's own, guided, in 20 DDIM steps, so that the adapter needs no guidance. The
loss is plain regression on the path's end ("Knowledge Distillation in Iterative Generative
Models", Luhman & Luhman, 2021), here from every point of the path instead of only the first:
what a consistency model (Song et al., 2023; LCM, Luo et al., 2023) learns step by step, learned
directly, because paths of a model this small cost next to nothing. LCMScheduler samples from it.
"""

import logging
from pathlib import Path
from typing import Final

import torch
from diffusers import LCMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from deploy.demo.recipe.adapters import (
    CONVOLUTION,
    TRANSFORMER,
    Adapter,
    attach,
    updates_of,
)
from deploy.demo.recipe.formats import Form, Updates
from deploy.demo.recipe.parts import Parts, Pipeline, conditions, new_scheduler, parts_of
from deploy.demo.recipe.pictures import draw
from deploy.demo.recipe.training import Outcome, Plan, Trainer
from deploy.demo.recipe.vae import LATENT_CHANNELS

logger: Final = logging.getLogger(__name__)

LCM: Final = Adapter(
    repo="lcm-shapes", file="pytorch_lora_weights.safetensors", style="flat", form=Form.KOHYA,
    targets=f"{TRANSFORMER}|{CONVOLUTION}", rank=16, alpha=16.0,
    ranks=((r".*\.(resnets|upsamplers|downsamplers)\..*", 8),), steps=600, rate=2e-3,
)  # fmt: skip
GUIDANCE: Final = 3.0
PATH_STEPS: Final = 20
PATHS: Final = 1024
BATCH: Final = 48
FIRST_SHARE: Final = 0.3
"""Share of pairs that start at pure noise, the hardest jump and the one every picture needs."""


@torch.no_grad()
def _guided_paths(parts: Parts, ids: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the guided DDIM paths (n, PATH_STEPS, 12, 8, 8) and their ends (n, 12, 8, 8)."""
    scheduler = new_scheduler()
    scheduler.set_timesteps(PATH_STEPS)
    empty = parts.tokens([""]).expand(len(ids), -1)
    context, extra = conditions(parts, torch.cat([empty, ids]))
    state, points = noise, []
    for time in scheduler.timesteps:
        points.append(state)
        velocity = parts.unet(torch.cat([state, state]), time, context, added_cond_kwargs=extra).sample
        free, bound = velocity.chunk(2)
        guided = free + GUIDANCE * (bound - free)
        state = scheduler.step(guided, time, state).prev_sample
    return torch.stack(points, 1), state


def _paths(parts: Parts, work: Path) -> dict[str, Tensor]:
    """The paths of many captions, computed once and kept in the work folder."""
    path = work / "paths.safetensors"
    if not path.exists():
        ids = parts.tokens(draw("flat", PATHS, 41, empty=0.0).captions)
        generator = torch.Generator().manual_seed(42)
        noise = torch.randn((PATHS, LATENT_CHANNELS, 8, 8), generator=generator)
        points, ends = [], []
        for batch_ids, batch_noise in zip(torch.split(ids, 64), torch.split(noise, 64), strict=True):
            some, end = _guided_paths(parts, batch_ids, batch_noise)
            points.append(some.half())
            ends.append(end)
            logger.info("paths %d/%d", 64 * len(points), PATHS)
        save_file({"points": torch.cat(points), "ends": torch.cat(ends), "ids": ids}, path)
    stored: dict[str, Tensor] = load_file(path)
    return stored


def train_few_steps(pipeline: Pipeline, work: Path) -> tuple[Updates, Outcome]:
    """Distils, or goes on distilling, the few-step adapter of a freshly loaded base."""
    parts = parts_of(pipeline)
    scheduler = new_scheduler()
    scheduler.set_timesteps(PATH_STEPS)
    times, alphas = scheduler.timesteps, scheduler.alphas_cumprod
    paths = _paths(parts, work)
    torch.manual_seed(4)
    plan = Plan(name=LCM.key, steps=LCM.steps, rate=LCM.rate, warmup=20, average=0.98, weight_decay=0.0)
    trainer = Trainer(plan, attach(parts, LCM), work)

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(PATHS, (BATCH,), generator=generator)
        place = torch.randint(PATH_STEPS, (BATCH,), generator=generator)
        place[torch.rand(BATCH, generator=generator) < FIRST_SHARE] = 0
        point, when = paths["points"][chosen, place].float(), times[place]
        context, extra = conditions(parts, paths["ids"][chosen])
        velocity = parts.unet(point, when, context, added_cond_kwargs=extra).sample
        alpha = alphas[when].view(-1, 1, 1, 1)
        # The clean picture that a velocity stands for (Salimans & Ho, 2022).
        clean = alpha.sqrt() * point - (1 - alpha).sqrt() * velocity
        # Huber's loss, as LCM uses: squared errors would blur where several ends are possible.
        return torch.nn.functional.smooth_l1_loss(clean, paths["ends"][chosen], beta=0.2)

    outcome = trainer.run(loss_of)
    return updates_of(parts, LCM), outcome


def use_lcm(pipeline: Pipeline) -> None:
    """Gives a pipeline the scheduler that the adapter's card asks for."""
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
