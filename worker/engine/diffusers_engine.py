"""The engine on diffusers: one warm base, adapters merged into its weights, one image at a time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from shared.jobs import GenerationParams
from worker.engine.adapter import CanonicalAdapter
from worker.engine.contract import Activation, BaseDamaged, BaseInfo, Generated, StepCallback, SwapReport
from worker.engine.conversion import Conversion
from worker.engine.drawing import Drawing
from worker.engine.families import FAMILIES, denoiser_name
from worker.engine.fingerprint import fingerprint
from worker.engine.ingest import ingest
from worker.engine.layouts import Layouts
from worker.engine.readings import Readings
from worker.engine.swap import Swap
from worker.engine.targets import find_targets
from worker.engine.tiers import pinned, raised
from worker.engine.unmerged import AdaptableWeights
from worker.engine.vocabulary import Vocabulary


class DiffusersEngine:
    """One warm base. It takes the pipeline over: nothing else may touch its weights from then on."""

    def __init__(self, pipeline: Any, info: BaseInfo) -> None:  # noqa: ANN401 - diffusers is untyped
        parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        adaptable = FAMILIES[info.pipeline_class].adaptable
        self._pipeline = pipeline
        self._device = pipeline.device  # asking walks through all modules
        self._parts = tuple(parts.values())
        self._targets = find_targets({name: parts[name] for name in adaptable if name in parts})
        self._conversion = _conversion(pipeline)
        self._layouts = Layouts()
        self._readings = Readings()
        self._swap = Swap(AdaptableWeights(self._targets))
        self._drawing = Drawing(pipeline, info)
        self._info = replace(
            info,
            adapters="unmerged" if self._targets.kept else "merged",
            schedulers=self._drawing.schedulers,
        )
        self._vocabulary = Vocabulary(pipeline)
        self._fingerprint = fingerprint(self._parts)

    @property
    def info(self) -> BaseInfo:
        """The warm base."""
        return self._info

    def ingest(self, path: Path) -> CanonicalAdapter:
        """Read and validate a weight file. May run beside a generation, a swap or another ingest.

        Raises:
            AdapterFault: broken, hostile, or made for another base.
        """
        adapter = ingest(path, self._targets, self._conversion, self._layouts, self._readings)
        self._vocabulary.check(adapter.words)
        return pinned(adapter) if self._device.type == "cuda" else adapter

    def raise_up(self, adapter: CanonicalAdapter) -> CanonicalAdapter | None:
        """Return the adapter with its bytes on the device; None when that has no room to spare.

        May run beside a generation or a swap.
        """
        return raised(adapter, self._device)

    def activate(self, wanted: Sequence[Activation[CanonicalAdapter]]) -> SwapReport:
        """Make exactly `wanted` active, computed from pristine weights. All of it happens, or none.

        Raises:
            AdapterFault: an adapter is of another base, or too strong for the base's number format.
            InvalidRequest: a strength is of a part that the base does not have.
            BaseDamaged: a failed swap could not be undone.
        """
        return self._swap.activate(wanted)

    def generate(
        self, params: GenerationParams, on_step: StepCallback, source: Image | None = None
    ) -> Generated:
        """Draw one image with what is active; what has a schedule changes its strength between the steps.

        From noise, or from `source`: with the same modules, and so with the same adapters in their weights.

        Raises:
            InvalidRequest: a parameter that this base cannot take, or an image too large for its device.
            Interrupted: the callback said so.
            BrokenImage: the image holds NaN or infinity.
            BaseDamaged: the weights cannot be trusted.
        """
        if self._swap.is_scheduled:
            self._swap.follow(0.0)  # an image before this one may have ended elsewhere
        with self._vocabulary.extended(self._swap.words):
            return self._drawing.draw(params, self._following_schedule(on_step), source)

    def _following_schedule(self, on_step: StepCallback) -> StepCallback:
        if not self._swap.is_scheduled:
            return on_step

        def at_step_end(done: int, total: int) -> None:
            on_step(done, total)
            if done < total:
                self._swap.follow(done / total)

        return at_step_end

    def verify(self) -> None:
        """Deactivate everything and compare all weights with what they were at the start.

        Raises:
            BaseDamaged: they differ.
        """
        self.activate([])
        if not torch.equal(fingerprint(self._parts), self._fingerprint):
            self._swap.condemn()
            raise BaseDamaged("the base's weights differ from what they were at the start")


def _conversion(pipeline: Any) -> Conversion:  # noqa: ANN401
    denoiser = denoiser_name(pipeline.components)
    module = pipeline.components[denoiser]
    return Conversion(
        converter=type(pipeline).lora_state_dict,
        unet_config=module.config if denoiser == "unet" else None,
        denoiser=denoiser,
        children=frozenset(name for name, _ in module.named_children()),
    )
