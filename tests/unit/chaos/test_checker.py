"""A history that is as it should be passes; each kind of wrong is found in one that is not."""

from copy import deepcopy

import pytest

from tests.chaos.checker import Wrong, check

ADAPTERS = [["a" * 64, 0.5]]
IMAGE = {"adapters": ADAPTERS, "prompt": "a red circle", "seed": 7}
POSTED = {"call": 0, "try": 0, "router": "router 0", "method": "POST"}


def asked(**changes):
    what = {"kind": "waits", "keyed": False, **IMAGE}
    return {"t": 10.0, "event": "asked", "call": 0, **what, **changes}


def sent(**changes):
    return {"t": 10.1, "event": "sent", **POSTED, **changes}


def answer(**changes):
    told = {
        "status": 200,
        "job": "j",
        "image": IMAGE,
        "digest": "d",
        "error_type": None,
        "job_status": None,
        "error": None,
        "retry_after": None,
        "trace": False,
    }
    return {"t": 11.0, "event": "answer", **POSTED, **told, **changes}


def refusal(status, error_type, **changes):
    told = {"status": status, "error_type": error_type, "error": "no", "image": None, "digest": None}
    return answer(**told, **{"job": None, "retry_after": "2", **changes})


def ended(outcome="image", call=0):
    return {"t": 11.1, "event": "ended", "call": call, "outcome": outcome}


def queue(status, job="j", **changes):
    return {"t": 10.5, "event": "queue", "job": job, "status": status, **changes}


def added(job="j", **changes):
    return queue("added", job, prompt=IMAGE["prompt"], seed=IMAGE["seed"], **changes)


def running(fence=1, job="j", **changes):
    return queue("running", job, fence=fence, worker="host-1-ab", **changes)


def succeeded(fence=1, job="j"):
    return queue("succeeded", job, blob=f"{job}-{fence}", error=None)


def fault(target, number=0, **changes):
    return {"t": 10.3, "event": "fault", "number": number, "kind": "kill", "target": target, **changes}


def over(number=0, t=10.4):
    return {"t": t, "event": "over", "number": number}


RUN = {"t": 0.0, "event": "run", "timeout": 60.0, "lease": 2.0, "workers": 2}
JOB = (added(), running(), succeeded())
GOOD = (RUN, asked(), sent(), answer(), ended(), *JOB)


def wrongs(*events):
    return [wrong.kind for wrong in check(deepcopy(events)).wrongs]


def without(event):
    return [each for each in GOOD if each["event"] != event]


def with_end(*events, outcome="refused"):
    """The call's answer replaced."""
    return [RUN, asked(), sent(), *events, ended(outcome), *JOB]


def test_a_call_that_gets_its_image_is_right():
    assert wrongs(*GOOD) == []


def test_a_job_that_runs_again_and_ends_once_is_right():
    assert wrongs(*without("queue"), added(), running(1), queue("queued"), running(2), succeeded(2)) == []


def test_a_call_that_never_ends_is_lost():
    assert wrongs(RUN, asked(), sent(), *JOB) == [Wrong.LOST]


def test_a_job_without_an_end_is_lost():
    assert wrongs(RUN, asked(), sent(), ended("left"), added(), running()) == [Wrong.LOST]


def test_a_job_that_fails_is_lost_unless_its_time_is_over():
    fault_of_worker = queue("failed", blob=None, error={"code": "worker_fault"})
    expired = queue("failed", blob=None, error={"code": "job_expired"})
    left = RUN, asked(), sent(), ended("left"), added()
    assert wrongs(*left, fault_of_worker) == wrongs(*left, expired) == [Wrong.LOST]
    assert wrongs(*left, {**expired, "t": 70.6}) == []


def test_a_client_that_leaves_has_lost_nothing():
    assert wrongs(RUN, asked(), sent(), ended("left"), added(), queue("cancelled", blob=None)) == []


@pytest.mark.parametrize("outcome", ["refused", "broken", "gave up", "cancelled"])
def test_an_accepted_job_without_its_image_is_lost(outcome):
    accepted = answer(status=202, image=None, digest=None)
    assert wrongs(*with_end(accepted, outcome=outcome)) == [Wrong.LOST]


def test_a_keyed_call_without_its_image_is_lost():
    events = [RUN, asked(keyed=True), sent(), ended("refused"), *JOB]
    assert wrongs(*events) == [Wrong.LOST]


def broken(**changes):
    return {"t": 10.4, "event": "broken", **POSTED, "what": "reset", **changes}


def test_a_connection_that_breaks_for_no_reason_is_a_lost_answer():
    assert wrongs(*with_end(broken(), outcome="broken")) == [Wrong.LOST]
    assert wrongs(*with_end(fault("router 1"), over(), broken(), outcome="broken")) == [Wrong.LOST]


def test_also_a_client_that_insists_is_cut_off_for_a_reason_only():
    keyed = [asked(keyed=True) if event["event"] == "asked" else event for event in GOOD]
    assert wrongs(*keyed, broken()) == [Wrong.LOST]
    assert wrongs(*keyed, fault("router 0"), over(), broken()) == []


def test_a_client_that_waits_may_lose_its_connection_with_its_router():
    assert wrongs(*with_end(fault("router 0"), broken(), outcome="broken")) == []


def test_two_different_images_for_one_call_are_doubled():
    second = answer(digest="e", **{"try": 1})
    assert wrongs(*GOOD, sent(**{"try": 1}), second) == [Wrong.DOUBLED]


def test_two_jobs_for_one_key_are_doubled():
    keyed = [asked(keyed=True) if event["event"] == "asked" else event for event in GOOD]
    assert wrongs(*keyed) == []
    assert wrongs(*keyed, added("k"), running(2, "k"), succeeded(2, "k")) == [Wrong.DOUBLED]


def test_more_jobs_than_requests_are_doubled():
    second = added("k"), running(2, "k"), succeeded(2, "k")
    assert wrongs(*GOOD, *second) == [Wrong.DOUBLED]
    assert wrongs(*GOOD, sent(**{"try": 1}), *second) == []


def test_one_key_answered_with_two_jobs_is_doubled():
    keyed = [asked(keyed=True) if event["event"] == "asked" else event for event in GOOD]
    assert Wrong.DOUBLED in wrongs(*keyed, answer(job="k"))


@pytest.mark.parametrize("after", [succeeded(), running(2), queue("cancelled", blob=None), added()])
def test_a_job_that_changes_after_its_end_is_doubled(after):
    assert Wrong.DOUBLED in wrongs(*GOOD, after)


def test_an_unwanted_job_that_is_wanted_after_all_has_one_end():
    unwanted = queue("cancelled", blob=None, unwanted=True)
    back = added(), unwanted, queue("queued"), unwanted, queue("queued"), running(), succeeded()
    assert wrongs(*without("queue"), *back) == []
    assert Wrong.DOUBLED in wrongs(*without("queue"), added(), unwanted, running(), succeeded())


def test_an_end_by_a_worker_whose_lease_was_over_is_doubled():
    stale = added(), running(1), queue("queued"), running(2), succeeded(1)
    assert wrongs(*without("queue"), *stale) == [Wrong.DOUBLED]
    returned = added(), running(1), queue("queued"), succeeded(1)
    assert wrongs(*without("queue"), *returned) == [Wrong.DOUBLED]


@pytest.mark.parametrize(
    "change",
    [{"adapters": [["b" * 64, 0.5]]}, {"adapters": [["a" * 64, 1.0]]}, {"prompt": "a blue one"}, {"seed": 8}],
)
def test_an_image_of_something_else_is_swapped(change):
    assert wrongs(*with_end(answer(image={**IMAGE, **change}), outcome="image")) == [Wrong.SWAPPED]


def test_the_image_of_another_call_s_job_is_swapped():
    assert wrongs(*with_end(answer(job="k"), outcome="image")) == [Wrong.SWAPPED]


def test_a_job_that_nobody_asked_for_is_swapped():
    stranger = {**added("k"), "prompt": "who is this"}
    assert wrongs(*GOOD, stranger, running(2, "k"), succeeded(2, "k")) == [Wrong.SWAPPED]


def test_an_error_without_a_type_is_untyped():
    assert wrongs(*with_end(refusal(500, None))) == [Wrong.UNTYPED]


def test_a_stack_trace_is_untyped():
    assert wrongs(*with_end(refusal(500, "worker_fault", trace=True))) == [Wrong.UNTYPED]


def test_a_refusal_is_founded_when_the_router_cannot_reach_the_server():
    said = refusal(503, "queue_unavailable")
    for target in ("server", "router 0", "link of router 0"):
        assert wrongs(*with_end(fault(target), over(), said)) == []


def test_that_no_worker_is_there_is_founded_when_all_are_in_trouble():
    said = refusal(503, "no_pool_for_base")
    one, other = (fault("worker 0"), over()), (fault("link of worker 1", 1), over(1))
    assert wrongs(*with_end(*one, *other, said)) == []
    assert wrongs(*with_end(*one, said)) == [Wrong.UNFOUNDED]


def test_a_refusal_for_no_reason_is_unfounded():
    said = refusal(503, "queue_unavailable")
    assert wrongs(*with_end(said)) == [Wrong.UNFOUNDED]
    assert wrongs(*with_end(fault("link of router 1"), over(), said)) == [Wrong.UNFOUNDED]
    assert wrongs(*with_end(fault("server", t=1.0), over(t=2.0), said)) == [Wrong.UNFOUNDED]


def test_a_refusal_is_founded_when_the_machine_is_overrun():
    late = {"t": 10.6, "event": "late", "target": "server", "seconds": 1.2}
    assert wrongs(*with_end(late, refusal(503, "queue_unavailable"))) == []


def test_a_refusal_that_does_not_say_when_to_come_again_is_unfounded():
    said = refusal(503, "queue_unavailable", retry_after=None)
    assert wrongs(*with_end(fault("server"), over(), said)) == [Wrong.UNFOUNDED]


def test_an_expiry_before_the_deadline_is_unfounded():
    assert wrongs(*with_end(refusal(504, "job_expired"))) == [Wrong.UNFOUNDED]
    assert wrongs(RUN, asked(), sent(), refusal(504, "job_expired", t=70.1), ended("refused")) == []


def test_an_expiry_of_what_had_its_image_long_before_is_unfounded():
    late = refusal(504, "job_expired", t=70.1)
    drawn = RUN, asked(), sent(), late, ended("refused")
    assert wrongs(*drawn, added(), running(), succeeded()) == [Wrong.UNFOUNDED]
    assert wrongs(*drawn, added(), running(), {**succeeded(), "t": 69.0}) == []


def test_a_long_silence_after_the_job_s_end_is_unfounded_if_nothing_explains_it():
    assert wrongs(*with_end(answer(t=20.0), outcome="image")) == [Wrong.UNFOUNDED]
    trouble = fault("link of router 0")
    assert wrongs(*with_end(trouble, over(t=17.0), answer(t=20.0), outcome="image")) == []
    assert wrongs(*with_end(trouble, over(), answer(t=20.0), outcome="image")) == [Wrong.UNFOUNDED]


@pytest.mark.parametrize(
    ("status", "code"), [(500, "worker_fault"), (409, "job_cancelled"), (410, "result_gone"), (404, "x")]
)
def test_an_end_that_no_fault_excuses_is_unfounded(status, code):
    assert wrongs(*with_end(fault("server"), over(), refusal(status, code))) == [Wrong.UNFOUNDED]


def test_a_request_that_nobody_answers_hangs():
    hung = {"t": 100.0, "event": "hung", **POSTED}
    assert Wrong.HUNG in wrongs(*with_end(hung, outcome="broken"))


@pytest.mark.parametrize(("code", "asked"), [(0, False), (6, False), (1, True), (-9, True)])
def test_a_process_that_ends_by_itself_or_badly_has_died(code, asked):
    assert wrongs(*GOOD, {"event": "exited", "process": "worker 1", "code": code, "asked": asked}) == [
        Wrong.DIED
    ]


def test_a_process_that_ends_well_when_asked_is_right():
    assert wrongs(*GOOD, {"event": "exited", "process": "worker 1", "code": 0, "asked": True}) == []


def test_a_worker_that_claims_nothing_when_all_is_calm_has_died():
    calm = {"t": 10.0, "event": "calm", "pids": {"worker 0": 1}}
    assert wrongs(*GOOD, calm) == []
    assert (
        wrongs(*GOOD, {**calm, "t": 12.0}) == wrongs(*GOOD, {**calm, "pids": {"worker 1": 2}}) == [Wrong.DIED]
    )


def test_an_error_in_a_log_is_found():
    assert wrongs(*GOOD, {"event": "complaint", "process": "router 0", "what": "a trace"}) == [Wrong.DIED]


def test_what_a_killed_worker_held_counts_as_recovered_when_it_runs_elsewhere():
    killed = fault("worker 1", t=10.0, pid=1, kind="kill a worker")
    job = added(), running(1, t=9.0), queue("queued"), running(2, t=12.5), succeeded(2)
    events = [*without("queue"), killed, over(), *job]
    assert check(events).figures["a dead or frozen worker's job runs again"].startswith("1: p50 2.5 s")

    all_in_trouble = check([*events, fault("link of worker 0", 1), over(1)]).figures
    assert all_in_trouble["a dead or frozen worker's job runs again"] == "none"


def test_draws_of_one_picture_after_the_first_are_counted_as_repeated():
    drawn = {"t": 10.6, "event": "drawn", "pid": 1, "prompt": IMAGE["prompt"], "seed": 7}
    assert check([*GOOD, drawn, drawn]).figures["draws begun"] == "2, 1 of them repeated"
