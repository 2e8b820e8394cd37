"""The verdict on a history: pure, so that any history can be judged again, also one made up by a test.

A call is one thing that a client wanted, with a prompt and a seed that no other has. It is told by what
happened to the requests that it took, and by the jobs that the queue's own account has of it.

LOST      a call that waited within its deadline, or was accepted, and got neither its image nor an end that
          the contract knows; a job that the queue never ended.
DOUBLED   two images or two jobs for one key, two ends of one job, an end by a worker whose lease was over.
SWAPPED   an image or a job that says another adapter, strength, prompt or seed than was asked for.
UNTYPED   an error that does not say what it is, or says too much.
UNFOUNDED an honest refusal, or a long silence after the job's end, for which the history has no reason.
HUNG      a request that nobody answered.
DIED      a process that ended by itself, or badly when asked to; one that complained of an error; a worker
          that lives and claims nothing any more when all trouble is over.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from math import ceil, inf
from typing import Any

from tests.chaos.history import Event

ENDS = ("succeeded", "failed", "cancelled")
AFTERMATH = 6.0
"""Seconds that a trouble may be felt after it is over: a command waits for 3 s, and may do so twice."""
SLACK = 1.0
MOST_SILENCE = 5.0
"""Seconds. A router sweeps every second."""


class Wrong(StrEnum):
    """What can be wrong; the module says what each is."""

    LOST = "lost"
    DOUBLED = "doubled"
    SWAPPED = "swapped"
    UNTYPED = "untyped"
    UNFOUNDED = "unfounded"
    HUNG = "hung"
    DIED = "died"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong, in words."""

    kind: Wrong
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All that is wrong, and figures for people."""

    wrongs: Sequence[Violation]
    figures: dict[str, str]


@dataclass(slots=True)
class _Call:
    asked: Event
    sent: dict[int, Event] = field(default_factory=dict)
    answers: list[Event] = field(default_factory=list)
    broken: list[Event] = field(default_factory=list)
    outcome: str | None = None
    seconds: float = 0.0
    jobs: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"call {self.asked['call']} ({self.asked['kind']})"

    @property
    def images(self) -> list[Event]:
        return [answer for answer in self.answers if answer["image"] is not None]

    @property
    def was_owed_an_image(self) -> bool:
        """Whether nothing but the image is a legal end: it was promised, or the client never gave up."""
        insists = self.asked["keyed"] or bool(self.accepted) or self.outcome == "gave up"
        return insists and self.outcome != "left"

    @property
    def accepted(self) -> list[Event]:
        return [answer for answer in self.answers if answer["status"] == 202]


@dataclass(slots=True)
class _Trouble:
    target: str
    kind: str
    begin: float
    pid: int | None
    end: float = inf


class _Story:
    """The history, sorted by whom it is about."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.run: Event = {}
        self.calls: dict[int, _Call] = {}
        self.troubles: dict[int, _Trouble] = {}
        self.jobs: defaultdict[str, list[Event]] = defaultdict(list)
        self.draws: Counter[tuple[str, int]] = Counter()
        self.late: list[_Trouble] = []
        self.pids: dict[str, int] = {}
        self.calm_since = inf
        self.hung: list[Event] = []
        self.exits: list[Event] = []
        self.complaints: list[Event] = []
        self.begin, self.end = inf, 0.0
        for event in events:
            getattr(self, f"_{event['event']}")(event)
        self._match()

    def _run(self, event: Event) -> None:
        self.run = event

    def _asked(self, event: Event) -> None:
        self.calls[event["call"]] = _Call(event)
        self.begin = min(self.begin, event["t"])

    def _sent(self, event: Event) -> None:
        self.calls[event["call"]].sent[event["try"]] = event

    def _answer(self, event: Event) -> None:
        self.calls[event["call"]].answers.append(event)

    def _broken(self, event: Event) -> None:
        self.calls[event["call"]].broken.append(event)

    def _left(self, event: Event) -> None:
        """The end of the call says so, too."""

    def _ended(self, event: Event) -> None:
        call = self.calls[event["call"]]
        call.outcome, call.seconds = event["outcome"], event["t"] - call.asked["t"]
        self.end = max(self.end, event["t"])

    def _hung(self, event: Event) -> None:
        self.hung.append(event)

    def _fault(self, event: Event) -> None:
        trouble = _Trouble(event["target"], event["kind"], event["t"], event.get("pid"))
        self.troubles[event["number"]] = trouble

    def _over(self, event: Event) -> None:
        self.troubles[event["number"]].end = event["t"]

    def _late(self, event: Event) -> None:
        self.late.append(_Trouble(event["target"], "late", event["t"] - event["seconds"], None, event["t"]))

    def _calm(self, event: Event) -> None:
        self.pids, self.calm_since = event["pids"], event["t"]

    def _queue(self, event: Event) -> None:
        before = self.jobs[event["job"]]
        if before and before[-1].get("unwanted") and event["status"] in {"queued", "failed"}:
            before.pop()  # its router only stood still: it has no end, or another one
        before.append(event)

    def _drawn(self, event: Event) -> None:
        self.draws[event["prompt"], event["seed"]] += 1

    def _exited(self, event: Event) -> None:
        self.exits.append(event)

    def _complaint(self, event: Event) -> None:
        self.complaints.append(event)

    def _match(self) -> None:
        """Give each call its jobs."""
        self.strangers: list[str] = []
        asked = {(call.asked["prompt"], call.asked["seed"]): call for call in self.calls.values()}
        for job, events in self.jobs.items():
            for event in events:
                if event["status"] == "added":
                    call = asked.get((event["prompt"], event["seed"]))
                    (call.jobs if call else self.strangers).append(job)

    def in_trouble(self, targets: Sequence[str], begin: float, end: float) -> bool:
        """Whether one of these was in trouble between two moments."""
        return _any_of(self.troubles.values(), targets, begin, end)

    def was_late(self, targets: Sequence[str], begin: float, end: float) -> bool:
        """Whether one of these answered late between two moments, because the machine was overrun."""
        return _any_of(self.late, targets, begin, end)


def _any_of(troubles: Iterable[_Trouble], targets: Sequence[str], begin: float, end: float) -> bool:
    return any(
        trouble.target in targets and trouble.begin <= end and trouble.end >= begin for trouble in troubles
    )


def check(events: Iterable[Event]) -> Verdict:
    """Return the verdict on a history."""
    story = _Story(events)
    wrongs = [wrong for rule in (_lost, _doubled, _swapped, _answers, _processes) for wrong in rule(story)]
    return Verdict(wrongs, _figures(story))


def _lost(story: _Story) -> Iterator[Violation]:
    for call in story.calls.values():
        if call.outcome is None:
            yield Violation(Wrong.LOST, f"{call.name} never ended")
        elif call.was_owed_an_image and not call.images:
            yield Violation(Wrong.LOST, f"{call.name} never got its image: {call.outcome}")
        yield from _cut_off(story, call)
    for job, events in story.jobs.items():
        if not any(event["status"] in ENDS for event in events):
            yield Violation(Wrong.LOST, f"job {job} has no end, only {[e['status'] for e in events]}")
        for event in events:
            if event["status"] == "failed" and not _is_over_time(story, events[0], event):
                yield Violation(Wrong.LOST, f"job {job} failed: {event['error']}")


def _is_over_time(story: _Story, added: Event, failed: Event) -> bool:
    seconds = failed["t"] - added["t"]
    return failed["error"]["code"] == "job_expired" and bool(seconds >= story.run["timeout"] - SLACK)


def _cut_off(story: _Story, call: _Call) -> Iterator[Violation]:
    """A client loses its connection with its router, and for no other reason."""
    for broken in call.broken:
        sent = call.sent.get(broken["try"], broken)
        if not story.in_trouble([broken["router"]], sent["t"] - SLACK, broken["t"] + SLACK):
            yield Violation(Wrong.LOST, f"{call.name} was cut off by {broken['router']}: {broken['what']}")


def _doubled(story: _Story) -> Iterator[Violation]:
    for call in story.calls.values():
        if len({image["digest"] for image in call.images}) > 1:
            yield Violation(Wrong.DOUBLED, f"{call.name} got different images")
        most = 1 if call.asked["keyed"] else sum(sent["method"] == "POST" for sent in call.sent.values())
        if len(call.jobs) > most:
            yield Violation(Wrong.DOUBLED, f"{call.name} became jobs {call.jobs}")
        if call.asked["keyed"] and len({answer["job"] for answer in call.images + call.accepted}) > 1:
            yield Violation(Wrong.DOUBLED, f"{call.name} was answered with several jobs")
    for job, events in story.jobs.items():
        yield from _ended_twice(job, events)


def _ended_twice(job: str, events: Sequence[Event]) -> Iterator[Violation]:
    fence = None
    for number, event in enumerate(events):
        if any(before["status"] in ENDS for before in events[:number]):
            yield Violation(Wrong.DOUBLED, f"job {job} was {event['status']} after its end")
        if event["status"] == "running":
            fence = event["fence"]
        elif event["status"] == "queued":
            fence = None
        elif event["status"] == "succeeded" and event["blob"] != f"{job}-{fence}":
            yield Violation(Wrong.DOUBLED, f"job {job} ended with {event['blob']}, its lease was {fence}")


def _swapped(story: _Story) -> Iterator[Violation]:
    for call in story.calls.values():
        wanted = {name: call.asked[name] for name in ("adapters", "prompt", "seed")}
        for answer in call.images:
            if answer["image"] != wanted:
                yield Violation(Wrong.SWAPPED, f"{call.name} asked for {wanted}, got {answer['image']}")
            elif answer["job"] not in call.jobs:
                yield Violation(Wrong.SWAPPED, f"{call.name} got the image of job {answer['job']}")
    for job in story.strangers:
        yield Violation(Wrong.SWAPPED, f"job {job} is what nobody asked for")


def _answers(story: _Story) -> Iterator[Violation]:
    for hung in story.hung:
        yield Violation(Wrong.HUNG, f"call {hung['call']} at {hung['router']} ({hung['method']})")
    for call in story.calls.values():
        for answer in call.answers:
            told = f"{call.name} at {answer['router']}: {answer['status']} {answer['error_type']}"
            if answer["trace"] or (answer["status"] >= 400 and not answer["error_type"]):
                yield Violation(Wrong.UNTYPED, told)
            elif answer["status"] >= 400 and not _is_founded(story, call, answer):
                yield Violation(Wrong.UNFOUNDED, f"{told}: {answer['error']}")
            elif answer["job_status"] in {"failed", "cancelled"}:
                yield Violation(Wrong.UNFOUNDED, f"{told}, {answer['job_status']}: {answer['error']}")
        for answer, silence in _silences(story, call):
            at = answer["t"]
            if silence > MOST_SILENCE and not _is_explained(story, answer["router"], at, at):
                told = f"{call.name} at {answer['router']}: told {silence:.1f} s after its job's end"
                yield Violation(Wrong.UNFOUNDED, told)


def _silences(story: _Story, call: _Call) -> Iterator[tuple[Event, float]]:
    """Yield the answers to those who waited with the seconds between the job's end and the answer."""
    for answer in call.images:
        if answer["method"] == "POST":
            for event in story.jobs[answer["job"]]:
                if event["status"] == "succeeded":
                    yield answer, answer["t"] - max(event["t"], call.sent[answer["try"]]["t"])


def _is_founded(story: _Story, call: _Call, answer: Event) -> bool:
    """Whether the history has a reason for an error: a server out of reach, a deadline that passed."""
    begin, end = call.sent.get(answer["try"], answer)["t"], answer["t"]
    match answer["status"], answer["error_type"]:
        case 503, "queue_unavailable" if answer["retry_after"]:
            return _is_explained(story, answer["router"], begin, end)
        case 503, "no_pool_for_base" if answer["retry_after"]:
            # the router cannot hear of a worker, or none is there to be heard of
            none_there = not _one_was_well(story, begin - AFTERMATH, end)
            return none_there or _is_explained(story, answer["router"], begin, end)
        case 504, "job_expired":
            return bool(end - begin >= story.run["timeout"] - SLACK) and not _had_ended(story, call, end)
        case _:
            return False


def _is_explained(story: _Story, router: str, begin: float, end: float) -> bool:
    """Whether something kept a router from the server between two moments, or shortly before."""
    targets = ["server", router, f"link of {router}"]
    begin -= AFTERMATH
    return story.in_trouble(targets, begin, end) or story.was_late(["server", router], begin, end)


def _had_ended(story: _Story, call: _Call, end: float) -> bool:
    """Whether a job of the call had its image long before."""
    events = [event for job in call.jobs for event in story.jobs[job]]
    return any(event["status"] == "succeeded" and event["t"] < end - AFTERMATH for event in events)


def _processes(story: _Story) -> Iterator[Violation]:
    for event in story.exits:
        if not event["asked"]:
            yield Violation(Wrong.DIED, f"{event['process']} ended by itself with {event['code']}")
        elif event["code"] != 0:
            yield Violation(Wrong.DIED, f"{event['process']} was told to end and did with {event['code']}")
    claims = [event for events in story.jobs.values() for event in events if event["status"] == "running"]
    at_work = {event["worker"].split("-")[-2] for event in claims if event["t"] >= story.calm_since}
    for worker, pid in story.pids.items():
        if str(pid) not in at_work:
            yield Violation(Wrong.DIED, f"{worker} lives, but works no more")
    for event in story.complaints:
        yield Violation(Wrong.DIED, f"{event['process']} complained: {event['what'][:2000]}")


def _figures(story: _Story) -> dict[str, str]:
    outcomes = Counter(call.outcome for call in story.calls.values())
    statuses = Counter(str(answer["status"]) for call in story.calls.values() for answer in call.answers)
    ends = Counter(event["status"] for events in story.jobs.values() for event in events)
    kinds = Counter(trouble.kind for trouble in story.troubles.values())
    draws = sum(story.draws.values())
    seconds = max(0.0, story.end - story.begin)
    silences = [silence for call in story.calls.values() for _, silence in _silences(story, call)]
    waits = [call.seconds for call in story.calls.values() if call.images]
    return {
        "calls": f"{len(story.calls)} in {seconds:.0f} s: {_counted(outcomes)}",
        "requests": f"{sum(len(call.sent) for call in story.calls.values())}: {_counted(statuses)}",
        "connections broken": str(sum(len(call.broken) for call in story.calls.values())),
        "jobs": f"{len(story.jobs)}: {_counted({end: ends[end] for end in ENDS})}",
        "claims": f"{ends['running']}, {ends['queued']} of them given or taken back",
        "draws begun": f"{draws}, {draws - len(story.draws)} of them repeated",
        "faults": f"{sum(kinds.values())}: {_counted(kinds)}",
        "a dead or frozen worker's job runs again": _spread(_recoveries(story, others_well=True)),
        "the same, when server or all were in trouble": _spread(_recoveries(story, others_well=False)),
        "from a job's end to its waiting client": _spread(sorted(silences)),
        "late answers to a look, the machine overrun": str(len(story.late)),
        "longest wait for an image": f"{max(waits, default=0.0):.1f} s",
    }


def _recoveries(story: _Story, *, others_well: bool) -> list[float]:
    """Return the seconds from the end of a worker until its job runs elsewhere, by the server's account.

    Either those where the server and one other worker were well all the time, or the rest.
    """
    killed: dict[str, list[float]] = defaultdict(list)
    for trouble in story.troubles.values():
        if trouble.pid is not None and trouble.target.startswith("worker") and "drain" not in trouble.kind:
            killed[str(trouble.pid)].append(trouble.begin)
    seconds = []
    for events in story.jobs.values():
        claims = [event for event in events if event["status"] == "running"]
        for before, after in pairwise(claims):
            pid = before["worker"].split("-")[-2]
            ends = [end for end in killed[pid] if before["t"] <= end <= after["t"]]
            if ends and _one_was_well(story, ends[0] - story.run["lease"], after["t"]) == others_well:
                seconds.append(after["t"] - ends[0])
    return sorted(seconds)


def _one_was_well(story: _Story, begin: float, end: float) -> bool:
    workers = [f"worker {number}" for number in range(story.run["workers"])]
    return not story.in_trouble(["server"], begin, end) and not all(
        story.in_trouble([worker, f"link of {worker}"], begin, end) for worker in workers
    )


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none"
    middle, late = seconds[len(seconds) // 2], seconds[ceil(0.99 * len(seconds)) - 1]
    return f"{len(seconds)}: p50 {middle:.3g} s, p99 {late:.3g} s, longest {seconds[-1]:.3g} s"


def _counted(counts: dict[Any, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda kv: -kv[1]))
