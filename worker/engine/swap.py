"""The swap as a transaction: either all that is wanted is in the weights, or nothing is."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

from torch import Tensor

from shared.errors import InvalidRequest
from worker.engine.adapter import CanonicalAdapter, Word
from worker.engine.contract import Activation, AdapterFault, BaseDamaged, SwapReport
from worker.engine.plan import AdapterKey, Mix, mix, plan_swap
from worker.engine.readings import Reading
from worker.engine.strengths import Blocks, factors_of, parts_of, strength_at, unknown_path
from worker.engine.unmerged import AdaptableWeights
from worker.engine.weights import Change

FactorsOf = Callable[[Blocks], Mapping[str, float]]

MOST_BLOCKS = 64
"""Sets of blocks whose factors are kept; each takes a few hundred kB at most."""


class Swap:
    """What is active in a base's weights, and the way to something else.

    The mix is None from the first write of a swap to its last, and stays so when a failure could not be
    undone: then nothing but `BaseDamaged` comes from here.
    """

    def __init__(self, weights: AdaptableWeights) -> None:
        self._weights = weights
        self._parts = parts_of(weights.names)
        # a large base has thousands of names, and a schedule asks at each of its changes
        self._factors: FactorsOf = lru_cache(MOST_BLOCKS)(partial(factors_of, weights=self._parts))
        self._mix: Mix | None = ()
        # By adapter, the weights that what is active has changed: names alone, for an adapter that is in the
        # weights is needed no more, and its memory is whoever keeps it to give away.
        self._changed: Mapping[AdapterKey, frozenset[str]] = {}
        # What was activated, if a schedule gives it other strengths later on.
        self._wanted: tuple[Activation[CanonicalAdapter], ...] = ()
        self._words: tuple[Word, ...] = ()

    @property
    def active(self) -> Mix:
        """Adapters and strengths of what is in the weights.

        Raises:
            BaseDamaged: nobody knows.
        """
        if self._mix is None:
            raise BaseDamaged("an earlier failure left the base's weights in an unknown state")
        return self._mix

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of what is active at any step: prompts are read before the first one.

        Raises:
            BaseDamaged: nobody knows what is active.
        """
        _ = self.active
        return self._words

    @property
    def is_scheduled(self) -> bool:
        """Whether what is active has other strengths later on, for `follow` to give it."""
        return bool(self._wanted)

    def condemn(self) -> None:
        """Declare the weights untrustworthy, for good."""
        self._mix = None

    def activate(self, wanted: Sequence[Activation[CanonicalAdapter]]) -> SwapReport:
        """Make exactly `wanted` active, at the strengths with which its schedules begin.

        Raises:
            AdapterFault: an adapter is of another base, or too strong for the base's number format.
            InvalidRequest: a strength is of a part that the base does not have.
            BaseDamaged: a failed swap could not be undone, or what was copied back is not what it was.
        """
        self._validate(wanted)
        report = self._become(wanted, 0.0, waits=True)
        self._wanted = tuple(wanted) if any(each.ref.schedule for each in wanted) else ()
        self._words = _words_of(wanted)
        return report

    def follow(self, progress: float) -> SwapReport:
        """Give what was activated, with a schedule, its strengths at this fraction of the denoising steps.

        Raises:
            BaseDamaged: as `activate`.
        """
        return self._become(self._wanted, progress, waits=False)

    def _become(
        self, wanted: Sequence[Activation[CanonicalAdapter]], progress: float, *, waits: bool
    ) -> SwapReport:
        target = _mix_at(wanted, progress)
        if target == self.active:
            return SwapReport(written=0, restored=0)
        adapters = _by_key(wanted)
        changed = {key: frozenset(adapters[key].changes) for key, _ in target}
        plan = plan_swap(self.active, target, {**self._changed, **changed})
        self._weights.keep(plan.write)
        self._mix = None
        try:
            self._weights.write(_changes(plan.write, target, adapters, self._factors))
            self._weights.restore(plan.restore)
            if waits:  # then a GPU's failure is that of this swap, and so is its time
                self._weights.wait()
            is_sound = bool(target) or self._weights.are_pristine(plan.restore)
        except BaseException:
            self._undo()
            raise
        if not is_sound:
            self.condemn()
            raise BaseDamaged("weights that were copied back are not what they were at the start")
        self._mix, self._changed = target, changed
        return SwapReport(written=len(plan.write), restored=len(plan.restore))

    def _validate(self, wanted: Sequence[Activation[CanonicalAdapter]]) -> None:
        reach = 0.0
        for each in wanted:
            name = f"{each.ref.repo}/{each.ref.weight_name}"
            most = max(
                strength_at(each.ref, progress).most
                for progress in (0.0, *(at for at, _ in each.ref.schedule))
            )
            if not math.isfinite(most):
                raise AdapterFault(f"{name}: its strength is {most}, which is no number to use")
            if path := unknown_path(each.ref.blocks, self._parts):
                raise InvalidRequest(
                    "parameters",
                    f"the strength of {each.ref.repo} names {path}, which this base does not have",
                )
            if not each.adapter.changes.keys() <= self._weights.names:
                raise AdapterFault(f"{name}: was ingested for another base")
            reach += most * each.adapter.reach + each.adapter.fixed_reach
        if not reach <= self._weights.headroom:
            raise AdapterFault(
                f"changes of up to {reach:.3g} at the strengths asked for could exceed the base's number "
                "format; lower the strength"
            )
        _refuse_shared_words(wanted)

    def _undo(self) -> None:
        try:
            self._weights.restore()
        except Exception as error:
            raise BaseDamaged("a failed swap could not be undone") from error
        self._mix, self._changed, self._wanted, self._words = (), {}, (), ()


def _refuse_shared_words(wanted: Sequence[Activation[CanonicalAdapter]]) -> None:
    """Refuse words that several files bring: nobody can tell which of them a prompt means."""
    owners: dict[str, Activation[CanonicalAdapter]] = {}
    for each in wanted:
        for token in (token for word in each.adapter.words for token in word.tokens):
            owner = owners.setdefault(token, each)
            if not _are_the_same(owner.adapter.reading, each.adapter.reading):
                raise AdapterFault(
                    f"the learned word {token!r} is in {owner.ref.repo}/{owner.ref.weight_name} and in "
                    f"{each.ref.repo}/{each.ref.weight_name}; use one of them"
                )


def _are_the_same(one: Reading, other: Reading) -> bool:
    """Whether both are of the same file; where they are two, this waits until it is hashed."""
    return one.number == other.number or one.digest.result() == other.digest.result()


def _words_of(wanted: Sequence[Activation[CanonicalAdapter]]) -> tuple[Word, ...]:
    """Return the words of what has an effect at any step: copies, which keep nothing else in memory."""
    begins = {0.0, *(begin for each in wanted for begin, _ in each.ref.schedule)}
    keys = {key for begin in begins for key, _ in _mix_at(wanted, begin)}
    adapters = _by_key(wanted)
    words = {word.token: word for key in sorted(keys) for word in adapters[key].words}
    return tuple(word.exchanged(Tensor.clone) for word in words.values())


def _mix_at(wanted: Sequence[Activation[CanonicalAdapter]], progress: float) -> Mix:
    return mix((_key(each), strength_at(each.ref, progress)) for each in wanted)


def _by_key(wanted: Sequence[Activation[CanonicalAdapter]]) -> dict[AdapterKey, CanonicalAdapter]:
    return {_key(each): each.adapter for each in wanted}


def _key(wanted: Activation[CanonicalAdapter]) -> AdapterKey:
    """Return by what an adapter goes in plans.

    Not by its digest, which may come later than its turn. The number tells a file from what its name meant
    before: what a server gives out under a commit may change, even if it never should.
    """
    ref = wanted.ref
    return f"{ref.repo}@{ref.revision}/{ref.weight_name}", wanted.adapter.reading.number


def _changes(
    names: Sequence[str], target: Mix, adapters: Mapping[AdapterKey, CanonicalAdapter], factors_in: FactorsOf
) -> dict[str, list[Change]]:
    """Return what each weight gets. At 0 a part is left out: a DoRA would have an effect even there."""
    changes: dict[str, list[Change]] = {name: [] for name in names}
    for key, strength in target:
        factors = factors_in(strength.blocks)
        for name, parts in adapters[key].changes.items():
            if (here := strength.scale * factors.get(name, 1.0)) != 0.0:
                changes[name] += [(part, here) for part in parts]
    return changes
