"""The one training loop: warm-up and cosine decay, averaged weights, checkpoints, progress lines."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

logger: Final = logging.getLogger(__name__)

Loss = Callable[[int], Tensor]
"""Computes the loss of one batch; the argument is the step, for seeding."""

REPORT_EVERY: Final = 50
CHECKPOINT_EVERY: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How long and how fast to train; `average` is the decay of the averaged (EMA) weights."""

    name: str
    steps: int
    rate: float
    warmup: int = 50
    average: float = 0.995
    weight_decay: float = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a training run reached: its last mean loss and the seconds that it took."""

    loss: float
    seconds: float
    steps: int


class Trainer:
    """Trains named parameters in place, continuing from a checkpoint where there is one.

    The optimizer's moments are not stored: after a restart they build up again within some
    twenty steps, which costs less than files three times as large.
    """

    def __init__(self, plan: Plan, parameters: Mapping[str, torch.nn.Parameter], work: Path) -> None:
        self.plan = plan
        self.parameters = dict(parameters)
        self.path = work / f"{plan.name}.safetensors"
        self.averaged = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.done = 0
        self.seconds = 0.0
        self.loss = math.nan
        if self.path.exists():
            self._restore()

    def _restore(self) -> None:
        with safe_open(self.path, "pt") as file, torch.no_grad():
            header = file.metadata()
            self.done, self.seconds = int(header["step"]), float(header["seconds"])
            self.loss = float(header["loss"])
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(f"live.{name}"))
                self.averaged[name].copy_(file.get_tensor(f"mean.{name}"))

    def save(self) -> None:
        """Writes live and averaged weights; the rename keeps a reader from seeing half a file."""
        tensors = {f"live.{n}": p.detach().contiguous() for n, p in self.parameters.items()}
        tensors |= {f"mean.{n}": p.contiguous() for n, p in self.averaged.items()}
        header = {"step": str(self.done), "seconds": f"{self.seconds:.1f}", "loss": str(self.loss)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        half = self.path.with_suffix(".half")
        save_file(tensors, half, header)
        half.replace(self.path)

    def use_averaged(self) -> None:
        """Puts the averaged weights into the model."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.averaged[name])

    def _rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.plan.warmup)
        return self.plan.rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.plan.steps))

    def _average(self, step: int) -> None:
        # A short memory at first, so that the random start is forgotten.
        decay = min(self.plan.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.averaged.values()), [p.detach() for p in self.parameters.values()], 1 - decay
        )

    def run(self, loss_of: Loss) -> Outcome:
        """Trains until the plan's last step, then leaves the averaged weights in the model."""
        live = list(self.parameters.values())
        optimizer = torch.optim.AdamW(live, lr=self.plan.rate, weight_decay=self.plan.weight_decay)
        losses: list[float] = []
        mark = time.monotonic()
        for step in range(self.done, self.plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = self._rate(step)
            loss = loss_of(step)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(live, 1.0)
            optimizer.step()
            with torch.no_grad():
                self._average(step)
            losses.append(float(loss.detach()))
            self.done = step + 1
            if self.done % REPORT_EVERY == 0 or self.done == self.plan.steps:
                now = time.monotonic()
                self.seconds, pace, mark = self.seconds + now - mark, (now - mark), now
                self.loss = sum(losses) / len(losses)
                self._report(pace / len(losses))
                losses.clear()
            if self.done % CHECKPOINT_EVERY == 0 or self.done == self.plan.steps:
                self.save()
        self.use_averaged()
        return Outcome(loss=self.loss, seconds=self.seconds, steps=self.done)

    def _report(self, pace: float) -> None:
        left = (self.plan.steps - self.done) * pace
        logger.info(
            "%s step %d/%d loss %.4f, %.3f s a step, %.0f s left",
            self.plan.name, self.done, self.plan.steps, self.loss, pace, left,
        )  # fmt: skip
