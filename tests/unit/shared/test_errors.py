import pytest

from shared import errors
from shared.errors import AmbiguousWeights, ErrorCode, InvalidRequest, QueueFull, WarmbaseError

CLASSES = WarmbaseError.__subclasses__()


def test_every_code_has_its_class_and_every_class_its_code():
    assert sorted(kind.code for kind in CLASSES) == sorted(ErrorCode)


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = [line.split()[1] for line in (errors.__doc__ or "").splitlines() if line.startswith(("├", "└"))]
    assert drawn == [kind.__name__ for kind in CLASSES]


def test_what_is_not_the_requests_fault_may_be_tried_again():
    assert {kind.code for kind in CLASSES if kind.retryable} == {
        ErrorCode.NO_POOL_FOR_BASE,
        ErrorCode.QUEUE_FULL,
        ErrorCode.HUB_UNAVAILABLE,
        ErrorCode.QUEUE_UNAVAILABLE,
        ErrorCode.JOB_EXPIRED,
        ErrorCode.RESULT_GONE,
        ErrorCode.NO_ROOM,
        ErrorCode.WORKER_FAULT,
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidRequest("parameters.width", "has to be a multiple of 8"), "parameters.width: has to be a"),
        (InvalidRequest("", "the body is no JSON"), "the body is no JSON"),
        (
            AmbiguousWeights("a/b", ("checkpoint-10.safetensors",), "f"),
            "a/b: it is not clear .*; name one in f: checkpoint-10",
        ),
        (
            AmbiguousWeights("a/b", ("x", "y"), "loras[0].weight_name"),
            r"a/b: .* loras\[0\].weight_name: x, y",
        ),
        (QueueFull("1000 jobs wait", retry_after=12.0), "1000 jobs wait"),
    ],
)
def test_a_message_says_what_was_wrong(error, message):
    with pytest.raises(type(error), match=f"^{message}"):
        raise error
    assert error.message == str(error)


def test_a_full_queue_says_when_to_come_back():
    assert QueueFull("full", retry_after=12.0).retry_after == 12.0
