from deploy.local_hub.request_log import MAX_ENTRIES, LoggedRequest, RequestLog


def a_request(path="/api/models/a/b", method="GET"):
    return LoggedRequest(method=method, path=path, query="")


def test_requests_are_counted_by_path_and_method():
    log = RequestLog()
    for path, method in (("/api/models/a/b", "GET"), ("/a/b/resolve/main/c", "GET"), ("/a/b", "HEAD")):
        log.arrived(a_request(path, method))

    assert log.count() == 3
    assert log.count("/api/*") == 1
    assert log.count("/a/*", "HEAD") == 1
    assert log.count(method="POST") == 0


def test_an_answer_is_noted_with_its_request():
    log = RequestLog()
    first, second = log.arrived(a_request()), log.arrived(a_request())
    log.answered(second, status=404, user="alice")

    assert [(entry.status, entry.user) for entry in log.matching()] == [(None, None), (404, "alice")]
    log.forget()
    log.answered(first, status=200, user=None)
    assert log.count() == 0


def test_only_the_newest_are_kept():
    log = RequestLog()
    for number in range(MAX_ENTRIES + 1):
        log.arrived(a_request(f"/{number}"))

    assert log.count() == MAX_ENTRIES
    assert log.count("/0") == 0


def test_the_log_can_be_shown():
    log = RequestLog()
    log.arrived(a_request())

    shown = log.as_json("*", None)

    assert shown == {
        "count": 1,
        "requests": [
            {
                "method": "GET",
                "path": "/api/models/a/b",
                "query": "",
                "range": None,
                "user": None,
                "status": None,
            }
        ],
    }
