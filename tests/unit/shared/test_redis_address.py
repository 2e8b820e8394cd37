import pytest

from shared.redis_address import ManyServers, OneServer, Watched, parse_address


@pytest.mark.parametrize("url", ["redis://a:1/2", "rediss://u:p@a", "unix:///run/redis.sock?db=1"])
def test_what_redis_py_understands_is_left_to_it(url):
    assert parse_address(url) == OneServer(url=url)


def test_sentinels_have_a_service_and_a_database():
    assert parse_address("redis+sentinel://u:p%40@a:1,b,[::1]:3/queue/2?socket_keepalive=1") == Watched(
        sentinels=(("a", 1), ("b", 26379), ("::1", 3)),
        service="queue",
        url="redis://u:p%40@any/2?socket_keepalive=1",
    )


def test_options_for_the_sentinels_are_theirs():
    address = parse_address("rediss+sentinel://a/queue?sentinel_password=x&ssl_ca_certs=/ca.pem")
    assert address.url == "rediss://any/0?ssl_ca_certs=%2Fca.pem"
    assert address.sentinel_options == (("password", "x"),)


@pytest.mark.parametrize("end", ["", "/", "/0"])
def test_a_cluster_is_some_of_its_nodes(end):
    assert parse_address(f"redis+cluster://:p@a:1,b{end}") == ManyServers(
        nodes=(("a", 1), ("b", 6379)), url="redis://:p@any/0"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://:hunter2@a",
        "redis+sentinel://:hunter2@a",
        "redis+sentinel://:hunter2@a/queue/x",
        "redis+sentinel://:hunter2@a/queue/0/1",
        "redis+sentinel://:hunter2@/queue",
        "redis+sentinel://:hunter2@a:0/queue",
        "redis+sentinel://:hunter2@a,,b/queue",
        "redis+sentinel://:hunter2@a:port/queue",
        "redis+cluster://:hunter2@a/1",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter/2@a",
    ],
)
def test_a_bad_address_is_refused_without_its_words(url):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_address(url)
    assert "hunter" not in str(caught.value)
