"""One image from a pipeline, with nothing of one job left for the next."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from shared.errors import InvalidRequest
from shared.jobs import GenerationParams
from worker.engine.contract import BaseInfo, BrokenImage, Generated, StepCallback
from worker.engine.device_memory import drawing_on
from worker.engine.families import FAMILIES
from worker.engine.schedulers import Schedulers, set_steps

MAX_ENLARGEMENT = 8
"""Of a base's own width and height: beyond it no base draws sense, and one request takes minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """What a request left open, decided. `strength` is None if no picture is started from."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str
    strength: float | None = None


class Drawing:
    """Draws images with one pipeline. Scheduler and generator are fresh for every image."""

    def __init__(self, pipeline: Any, info: BaseInfo) -> None:  # noqa: ANN401 - diffusers is untyped
        self._pipeline = pipeline
        self._info = info
        self._family = FAMILIES[info.pipeline_class]
        self._schedulers = Schedulers(pipeline.scheduler, any_compatible=self._family.any_scheduler)
        self._vae_dtype = pipeline.vae.dtype
        self._device = pipeline.device  # asking walks through all modules
        pipeline.set_progress_bar_config(disable=True)

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Class names of those that the base can be run with."""
        return self._schedulers.names

    def draw(self, params: GenerationParams, on_step: StepCallback, source: Image | None = None) -> Generated:
        """Draw an image, from noise or from `source`.

        Equal parameters, weights and sources give equal bytes, whatever was drawn before.

        Raises:
            InvalidRequest: a parameter that this base cannot take, or an image too large for its device.
            Interrupted: the callback said so.
            BrokenImage: the image holds NaN or infinity.
        """
        choice = self._choose(params, source)
        pipeline = self._pipeline if source is None else self._from_pictures()
        pipeline.scheduler = self._scheduler(choice, params.timestep_spacing)
        # not every pipeline hands the generator to its scheduler, which then takes noise from the global one
        torch.manual_seed(params.seed)
        try:
            with drawing_on(self._device):
                image = pipeline(
                    prompt=params.prompt,
                    num_inference_steps=choice.steps,
                    generator=torch.Generator("cpu").manual_seed(params.seed),
                    callback_on_step_end=_reporting(on_step, whole=source is None),
                    output_type="pt",
                    **self._options(params, choice),
                    **self._start(choice, source),
                ).images
        except torch.OutOfMemoryError:
            if choice.width * choice.height <= self._info.default_width * self._info.default_height:
                raise  # of this size there are many: it is not the request's fault
            image = None  # told below, where what this error's frames hold has been let go
        finally:
            if self._pipeline.vae.dtype != self._vae_dtype:
                # SDXL widens a half-precision VAE to decode, and an error there leaves it wide
                self._pipeline.vae.to(self._vae_dtype)
        if image is None:
            raise InvalidRequest(
                _field("width", params, source),
                f"the worker has no memory for an image of {choice.width} x {choice.height}; its own size is "
                f"{self._info.default_width} x {self._info.default_height}",
            )
        if not torch.isfinite(image).all():
            raise BrokenImage("the image came out as NaN or infinity; no picture can be made of it")
        picture = _picture(image)
        return Generated(
            image=picture,
            width=picture.width,  # some families scale what is asked for to an area of their own
            height=picture.height,
            # of a picture, those that its strength leaves; some schedulers take two times in a step
            steps=choice.steps if source is None else -(-pipeline.num_timesteps // pipeline.scheduler.order),
            guidance_scale=choice.guidance_scale,
            scheduler=choice.scheduler,
            strength=choice.strength,
        )

    def _choose(self, params: GenerationParams, source: Image | None) -> _Choice:
        info = self._info
        guidance = params.guidance_scale
        width, height = (params.width, params.height) if source is None else source.size
        steps = params.steps or info.default_steps
        return _Choice(
            width=self._size(_field("width", params, source), width, info.default_width),
            height=self._size(_field("height", params, source), height, info.default_height),
            steps=steps,
            guidance_scale=info.default_guidance_scale if guidance is None else guidance,
            scheduler=params.scheduler or info.default_scheduler,
            strength=None if source is None else self._strength(params.strength, steps),
        )

    def _strength(self, wanted: float | None, steps: int) -> float:
        if not self._info.image_to_image:
            raise InvalidRequest("inputs", f"a {self._family.name} does not start from a picture")
        arguments = inspect.signature(self._family.image_to_image.__call__).parameters
        strength = float(arguments["strength"].default if wanted is None else wanted)
        if not self._family.strength_in_scheduler and int(steps * strength) < 1:
            raise InvalidRequest(
                "parameters.strength", f"{strength:g} of {steps} steps is less than one: raise either"
            )
        return strength

    def _from_pictures(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        """Return the pipeline that draws from a picture: new around the same modules, and words.

        As `AutoPipelineForImage2Image.from_pipe` makes it, without an import of all that it knows.
        """
        kind = self._family.image_to_image
        taken = inspect.signature(kind.__init__).parameters
        given = {**self._pipeline.config, **self._pipeline.components, "add_watermarker": False}
        pipeline = kind(**{name: value for name, value in given.items() if name in taken})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _start(self, choice: _Choice, source: Image | None) -> dict[str, Any]:
        """Return the arguments that say what the drawing starts from, and its size."""
        size = {"width": choice.width, "height": choice.height}
        if source is None:
            return size
        taken = inspect.signature(self._family.image_to_image.__call__).parameters
        return {
            "image": source,
            "strength": choice.strength,
            **{side: pixels for side, pixels in size.items() if side in taken},
        }

    def _options(self, params: GenerationParams, choice: _Choice) -> dict[str, Any]:
        """Return the arguments that are not the same for every family.

        No negative prompt is left out, not given as an empty text: SDXL reads that as something else.
        """
        family = self._family
        if params.negative_prompt and not family.takes_negative:
            raise InvalidRequest(
                "parameters.negative_prompt", f"has no effect on a {family.name}; leave it out"
            )
        negative = params.negative_prompt or family.no_negative
        given = {} if negative is None else {"negative_prompt": negative}
        return {family.guidance: choice.guidance_scale, **given, **family.options}

    def _size(self, field: str, wanted: int | None, default: int) -> int:
        if wanted is None:
            return default
        multiple = self._info.size_multiple
        if wanted < multiple or wanted % multiple:
            raise InvalidRequest(field, f"{wanted} pixels are not a multiple of {multiple}")
        if wanted > MAX_ENLARGEMENT * default:
            raise InvalidRequest(
                field, f"{wanted} pixels are more than {MAX_ENLARGEMENT} times this base's {default}"
            )
        return wanted

    def _scheduler(self, choice: _Choice, spacing: str | None) -> Any:  # noqa: ANN401 - diffusers is untyped
        scheduler = self._schedulers.fresh(choice.scheduler, spacing)
        try:
            strength = choice.strength if self._family.strength_in_scheduler else None
            set_steps(scheduler, choice.steps, **({} if strength is None else {"strength": strength}))
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
            # its own words are of its code, or of parameters that are not those of a request
            raise InvalidRequest(
                "parameters.num_inference_steps",
                f"{choice.scheduler} cannot make {choice.steps} steps: ask for more or fewer, "
                "or for another scheduler",
            ) from error
        return scheduler


def _field(side: str, params: GenerationParams, source: Image | None) -> str:
    """Return the field that says how long a side is: where that is as the picture has it, the picture."""
    if source is not None and getattr(params, side) is None:
        return "inputs"
    if source is not None and None not in {params.width, params.height}:
        return f"parameters.target_size.{side}"
    return f"parameters.{side}"


def _reporting(on_step: StepCallback, *, whole: bool) -> Any:  # noqa: ANN401 - a callback in diffusers' own shape
    """Return a callback; `whole`: all that the scheduler has divided its time into is gone through."""

    def at_step_end(pipeline: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
        on_step(step + 1, len(pipeline.scheduler.timesteps) if whole else pipeline.num_timesteps)
        return values

    return at_step_end


def _picture(image: Tensor) -> Image:
    """Return an image `[1, 3, height, width]` of numbers from 0 to 1.

    As `VaeImageProcessor.numpy_to_pil` of diffusers does, but where the image is: then a quarter of the bytes
    leaves the device, and the next job waits for nothing else.
    """
    (pixels,) = (image.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return fromarray(pixels)
