"""The schedulers that a base may be run with. A scheduler has state, so every job gets a fresh one."""

from collections.abc import Iterator

from diffusers import LCMScheduler, SchedulerMixin, TCDScheduler

from shared.errors import InvalidRequest

TRIAL_STEPS = 20
"""Any usual number does; some schedulers refuse two or three."""


class Schedulers:
    """Makes schedulers by class name, each from the configuration that the base came with."""

    def __init__(self, original: SchedulerMixin) -> None:
        self._config = dict(original.config)
        self._classes = {kind.__name__: kind for kind in self._constructible(original)}

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

    def _constructible(self, original: SchedulerMixin) -> Iterator[type[SchedulerMixin]]:
        """Yield the compatible classes that work with the configuration and the libraries that are here."""
        for kind in (type(original), *original.compatibles, LCMScheduler, TCDScheduler):
            try:
                kind.from_config(self._config).set_timesteps(TRIAL_STEPS)
            except (ImportError, TypeError, ValueError, NotImplementedError):
                continue
            yield kind
