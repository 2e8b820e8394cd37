"""What a seed stands for: the requests, and the faults. Pure, so that a run can be had again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

NEVER = 1_000_000
"""A limit that no run reaches. Faults hit jobs at random: with the usual limits they would bury innocent
jobs and put innocent adapters in quarantine, and an honest failure could not be told from a wrong one."""

REPOSITORIES = 36
TENANTS = 5
SCALES = (0.25, 0.5, 0.75, 1.0)
STEPS = {2: 30, 4: 40, 8: 20, 60: 10}
"""Denoising steps and how common they are: a few images take long enough to lose their worker half-way."""
LAST_STEPS = 10


class Kind(StrEnum):
    """How a client behaves."""

    WAITS = "waits"
    KEYED = "keyed"
    """Waits with an idempotency key, and asks the other router after any failure."""
    REPEATS = "repeats"
    """As `KEYED`, but asks both routers at once from the start."""
    POLLS = "polls"
    POLLS_KEYED = "polls, keyed"
    LEAVES = "leaves"


SHARES = {
    Kind.WAITS: 35,
    Kind.KEYED: 25,
    Kind.REPEATS: 5,
    Kind.POLLS: 20,
    Kind.POLLS_KEYED: 5,
    Kind.LEAVES: 10,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One thing that a client wants. No two have the same prompt or seed.

    Attributes:
        adapters: number of the repository and strength; none for the bare base.
        tenant: whose token it brings; None for none.
        router: which it asks first.
        patience: seconds after which a client leaves, if it is one that does.
    """

    number: int
    kind: Kind
    adapters: tuple[tuple[int, float], ...]
    prompt: str
    seed: int
    steps: int
    tenant: int | None
    router: int
    patience: float

    @property
    def is_keyed(self) -> bool:
        return self.kind in {Kind.KEYED, Kind.REPEATS, Kind.POLLS_KEYED}

    @property
    def polls(self) -> bool:
        return self.kind in {Kind.POLLS, Kind.POLLS_KEYED}


def calls(seed: int | str, count: int, routers: int) -> Iterator[Call]:
    """Return the requests of a run. Some adapters are wanted far more often than others."""
    chance = Random(f"calls {seed}")  # noqa: S311 - the same in every run
    for number in range(count):
        repositories = _sample(chance, chance.choices((0, 1, 2), (5, 75, 20))[0])
        yield Call(
            number=number,
            kind=chance.choices(list(SHARES), list(SHARES.values()))[0],
            adapters=tuple((repository, chance.choice(SCALES)) for repository in repositories),
            prompt=f"picture {number} of {seed}",
            seed=chance.randrange(2**32) * NEVER + number,
            steps=chance.choices(list(STEPS), list(STEPS.values()))[0],
            tenant=chance.choice((None, *range(TENANTS))),
            router=chance.randrange(routers),
            patience=chance.uniform(0.0, 0.6),
        )


def last_calls(seed: int, begin: int, count: int) -> Iterator[Call]:
    """Return what is asked for when all trouble is over, to see that everybody works again."""
    for call in calls(f"{seed}, the last", count, 2):
        yield replace(call, number=begin + call.number, kind=Kind.KEYED, steps=LAST_STEPS)


def _sample(chance: Random, count: int) -> Sequence[int]:
    found: dict[int, None] = {}
    while len(found) < count:
        found[int(REPOSITORIES * chance.random() ** 2)] = None
    return tuple(found)


class Mischief(StrEnum):
    """What is done to the system."""

    KILL_WORKER = "kill a worker"
    FREEZE_WORKER = "freeze a worker past its lease"
    DRAIN_WORKER = "drain a worker"
    KILL_ROUTER = "kill a router"
    KILL_SERVER = "kill the server"
    FREEZE_SERVER = "freeze the server"
    LOSE_REPLIES = "lose replies"
    RESET = "reset a link"
    BLACK_HOLE = "black hole"
    HOLD_REPLIES = "hold replies"
    SLOW = "slow and lossy link"


WEIGHTS = {
    Mischief.KILL_WORKER: 22,
    Mischief.FREEZE_WORKER: 9,
    Mischief.DRAIN_WORKER: 9,
    Mischief.KILL_ROUTER: 4,
    Mischief.KILL_SERVER: 5,
    Mischief.FREEZE_SERVER: 3,
    Mischief.LOSE_REPLIES: 24,
    Mischief.RESET: 10,
    Mischief.BLACK_HOLE: 5,
    Mischief.HOLD_REPLIES: 5,
    Mischief.SLOW: 4,
}

SECONDS = {
    Mischief.KILL_WORKER: (0.0, 1.0),
    Mischief.FREEZE_WORKER: (2.5, 5.0),
    Mischief.DRAIN_WORKER: (0.0, 0.5),
    Mischief.KILL_ROUTER: (0.0, 1.0),
    Mischief.KILL_SERVER: (0.1, 2.0),
    Mischief.FREEZE_SERVER: (0.5, 4.0),
    Mischief.LOSE_REPLIES: (0.0, 0.0),
    Mischief.RESET: (0.0, 0.0),
    Mischief.BLACK_HOLE: (1.0, 6.0),
    Mischief.HOLD_REPLIES: (1.0, 6.0),
    Mischief.SLOW: (1.0, 4.0),
}
"""How long each may last; a process that was killed stays away so long."""

LOSABLE = ("", "claim", "complete", "enqueue", "heartbeat", "release", "reap", "cancel")
"""The atomic step whose reply is lost; without a name, that of whatever command comes next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One piece of mischief.

    Attributes:
        after: how many more answers come first, or about as many tenths of a second.
        target: which of the processes or links that it may hit, modulo their number.
        seconds: how long it lasts.
        step: the atomic step whose replies are lost.
        count: how many of them.
    """

    kind: Mischief
    after: int
    target: int
    seconds: float
    step: str
    count: int


def faults(seed: int, calm: int = 1) -> Iterator[Fault]:
    """Return the mischief of a run, without end; first one of each kind, so that also short runs see all.

    `calm` is how many times as far apart they are.
    """
    chance = Random(f"faults {seed}")  # noqa: S311 - the same in every run
    first = chance.sample(list(Mischief), len(Mischief))
    while True:
        kind = first.pop() if first else chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        yield Fault(
            kind=kind,
            after=calm * chance.randint(4, 24),
            target=chance.randrange(NEVER),
            seconds=round(chance.uniform(*SECONDS[kind]), 3),
            step=chance.choice(LOSABLE),
            count=chance.randint(1, 3),
        )
