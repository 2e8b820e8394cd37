import pytest

from deploy.readiness import Readiness, judge


@pytest.mark.parametrize(
    ("status", "body", "readiness"),
    [
        (200, {"ready": True, "stage": "serving"}, Readiness(ready=True, stage="ready")),
        (200, None, Readiness(ready=True, stage="ready")),
        (503, {"ready": False, "stage": "loading"}, Readiness(ready=False, stage="loading")),
        (503, {"error": "no queue"}, Readiness(ready=False, stage="starting")),
        (503, ["?"], Readiness(ready=False, stage="starting")),
        (404, None, Readiness(ready=False, stage="starting")),
    ],
)
def test_only_a_200_is_ready_and_the_stage_is_what_the_part_says(status, body, readiness):
    assert judge(status, body) == readiness
