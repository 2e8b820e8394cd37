import pytest

from deploy.local_hub.faults import FaultRule, FaultRuleError, Faults, parse_rules


def test_the_first_matching_rule_applies():
    slow, broken = FaultRule(path="/api/*", latency_s=1), FaultRule(status=500)
    faults = Faults([slow, broken])

    assert faults.take("GET", "/api/models/a/b") is slow
    assert faults.take("GET", "/a/b/resolve/main/c/d.txt") is broken


def test_a_rule_may_be_for_one_method():
    faults = Faults([FaultRule(method="GET", status=500)])

    assert faults.take("HEAD", "/a") is None
    assert faults.take("GET", "/a") is not None


def test_a_rule_ends_after_its_number_of_requests():
    faults = Faults()
    faults.add(FaultRule(status=500, times=2))

    assert [faults.take("GET", "/a") is not None for _ in range(3)] == [True, True, False]


def test_new_rules_take_the_place_of_the_old():
    faults = Faults([FaultRule(status=500)])
    faults.replace([])

    assert faults.take("GET", "/a") is None


def test_rules_are_read_from_json():
    rule = {
        "path": "/api/*",
        "method": "get",
        "times": 3,
        "latency_s": 1,
        "status": 503,
        "cut_after_bytes": 0,
        "bytes_per_second": 1000,
    }

    assert parse_rules({"rules": [rule, {}]}) == [
        FaultRule(
            path="/api/*",
            method="GET",
            times=3,
            latency_s=1.0,
            status=503,
            cut_after_bytes=0,
            bytes_per_second=1000,
        ),
        FaultRule(),
    ]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "expected"),
        ({"rules": {}}, "expected"),
        ({"rules": ["slow"]}, "a rule is an object"),
        ({"rules": [{"delay": 1}]}, "unknown field: delay"),
        ({"rules": [{"path": 1}]}, "path: expected a text"),
        ({"rules": [{"times": 0}]}, "times: expected a number of at least 1"),
        ({"rules": [{"times": True}]}, "times: expected a number of at least 1"),
        ({"rules": [{"status": 200}]}, "status: expected a number of at least 400"),
        ({"rules": [{"status": 600}]}, "status: expected a number of at most 599"),
        ({"rules": [{"latency_s": -1}]}, "latency_s: expected a number between 0 and"),
        ({"rules": [{"latency_s": float("nan")}]}, "latency_s: expected a number between 0 and"),
        ({"rules": [{"bytes_per_second": 0}]}, "bytes_per_second: expected a number of at least 1"),
    ],
)
def test_a_rule_that_makes_no_sense_is_named(given, complaint):
    with pytest.raises(FaultRuleError, match=complaint):
        parse_rules(given)
