"""A denoising step with an adapter and without one, eager and compiled."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.bench.swap_figures import on_cuda, timed
from worker.engine.compilation import compile_denoiser
from worker.engine.diffusers_engine import DiffusersEngine

STEPS = 2
"""In a row, few: what is compared shall lie near each other in time."""
SECONDS_OF_STEPS = {"cpu": 30.0, "cuda": 15.0}
"""For as long small steps are repeated, which wander most; those of a GPU wander less."""


def steps(engine: DiffusersEngine, wanted: Sequence[Any], rounds: int, seconds: float) -> tuple[float, float]:
    """Return seconds of a denoising step with an adapter, and how many without one that is.

    Medians; the second of the ratios of neighbours in time, which saw the same machine.
    """
    found: dict[bool, list[float]] = {False: [], True: []}
    step = one_step(engine)
    step()
    affordable = seconds / (2 * STEPS * timed(engine, step))
    for _ in range(max(rounds, int(affordable))):
        for active, seen in found.items():
            engine.activate(wanted if active else [])
            step()
            seen.append(sum(timed(engine, step) for _ in range(STEPS)) / STEPS)
    ratios = [one / other for other, one in zip(found[False], found[True], strict=True)]
    return statistics.median(found[True]), statistics.median(ratios)


def eager_steps(engine: DiffusersEngine, wanted: Sequence[Any], rounds: int) -> tuple[float, float]:
    return steps(engine, wanted, rounds, SECONDS_OF_STEPS["cuda" if on_cuda(engine) else "cpu"])


def compiled_steps(
    engine: DiffusersEngine, mixes: Sequence[Sequence[Any]], rounds: int
) -> list[tuple[float, float]]:
    """Compile the denoiser, for good, and return the same of each of `mixes`.

    On a CPU its graphs are run as they are, and in one round only: whether a swap has
    something compiled anew is seen there, too.

    Raises:
        RecompileError: it has.
    """
    cuda = on_cuda(engine)
    compile_denoiser(engine._pipeline.unet, "inductor" if cuda else "eager")
    engine.activate([])
    one_step(engine)()
    rounds, seconds = (rounds, SECONDS_OF_STEPS["cuda"]) if cuda else (1, 0.0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        return [steps(engine, wanted, rounds, seconds) for wanted in mixes]


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
