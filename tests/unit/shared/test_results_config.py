import pytest

from shared.config import ConfigError, router_config, worker_config


def test_images_are_kept_beside_the_queue_unless_said_otherwise():
    common = router_config({"REDIS_URL": "redis://queue"}).common
    assert common.results_url is None
    assert common.results_bytes == 2 << 30


@pytest.mark.parametrize("url", ["file:///var/lib/warmbase", "redis://images", "redis+cluster://a,b"])
def test_router_and_worker_are_told_the_same(url):
    environ = {"WARMBASE_BASE": "a/base", "WARMBASE_RESULTS_URL": url, "WARMBASE_RESULTS_BYTES": "1000"}
    for common in (router_config(environ).common, worker_config(environ).common):
        assert (common.results_url, common.results_bytes) == (url, 1000)


@pytest.mark.parametrize(
    "url", ["file:images", "file://host/images", "file:///", "file:///a?b", "http://:hunter2@images", "x"]
)
def test_a_bad_url_is_named_without_its_password(url):
    with pytest.raises(ConfigError, match="WARMBASE_RESULTS_URL: ") as caught:
        router_config({"WARMBASE_RESULTS_URL": url})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("count", ["0", "-1", "2GiB"])
def test_a_bad_number_of_bytes_is_named(count):
    with pytest.raises(ConfigError, match=f"WARMBASE_RESULTS_BYTES='{count}'"):
        router_config({"WARMBASE_RESULTS_BYTES": count})
