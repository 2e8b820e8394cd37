"""The schedulers that a base may be run with. A scheduler has state, so every job gets a fresh one."""

from collections.abc import Iterator

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
    SchedulerMixin,
    TCDScheduler,
)

from shared.errors import InvalidRequest

TRIAL_STEPS = 20
"""Any usual number does; some schedulers refuse two or three."""


class Schedulers:
    """Makes schedulers by class name, each from the configuration that the base came with.

    A base that learned to predict a flow is offered schedulers of flows only: the others take its
    configuration without complaint, and draw noise.
    """

    def __init__(self, original: SchedulerMixin, *, any_compatible: bool) -> None:
        self._config = dict(original.config)
        self._classes = {kind.__name__: kind for kind in self._constructible(original, any_compatible)}

    @property
    def names(self) -> tuple[str, ...]:
        """The class names that a request may ask for."""
        return tuple(sorted(self._classes))

    def fresh(self, name: str, timestep_spacing: str | None = None) -> SchedulerMixin:
        """Return a new scheduler, with the base's spacing of timesteps unless another one is asked for.

        Raises:
            InvalidRequest: no such scheduler fits the base.
        """
        if name not in self._classes:
            raise InvalidRequest(
                "parameters.scheduler", f"{name!r} does not fit this base; it takes {', '.join(self.names)}"
            )
        spacing = {} if timestep_spacing is None else {"timestep_spacing": timestep_spacing}
        return self._classes[name].from_config(self._config | spacing)

    def _constructible(
        self, original: SchedulerMixin, any_compatible: bool
    ) -> Iterator[type[SchedulerMixin]]:
        """Yield the base's own class, and those that work with its configuration and what is installed."""
        yield type(original)
        others: tuple[type[SchedulerMixin], ...] = ()
        if isinstance(original, FlowMatchEulerDiscreteScheduler):
            others = (FlowMatchLCMScheduler,)
        elif any_compatible:
            others = (*original.compatibles, LCMScheduler, TCDScheduler)
        for kind in others:
            try:
                set_steps(kind.from_config(self._config), TRIAL_STEPS)
            except (ImportError, TypeError, ValueError, NotImplementedError):
                continue
            yield kind


def set_steps(scheduler: SchedulerMixin, steps: int, **options: float) -> None:
    """Let a scheduler divide its time, as a pipeline will; where that depends on the size, for any size."""
    shifted = scheduler.config.get("use_dynamic_shifting")
    scheduler.set_timesteps(steps, **({"mu": 1.0} if shifted else {}), **options)
