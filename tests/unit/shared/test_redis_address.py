import pytest

from shared.redis_address import ManyServers, OneServer, Watched, options_of, parse_address
from shared.redis_client import command_client


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


SCHEMES = [
    "redis",
    "rediss",
    "unix",
    *(f"{s}+{k}" for s in ("redis", "rediss") for k in ("sentinel", "cluster")),
]
VALUES = {
    "db": "1",
    "protocol": "3",
    "socket_keepalive": "True",
    "ssl_cert_reqs": "optional",
    "ssl_check_hostname": "no",
    "ssl_min_version": "772",
}


def an_address(scheme, query):
    return f"{scheme}://:hunter2@host/{'service' if 'sentinel' in scheme else ''}?{query}"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_option_that_is_taken_is_one_that_connections_know(scheme):
    query = "&".join(f"{name}={VALUES.get(name, 'x')}" for name in options_of(scheme))
    client = command_client(an_address(scheme, query))
    if "cluster" not in scheme:  # whose client has looked at them already
        client.connection_pool.make_connection()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "name", ["nonsense", "socket_timeout", "retry", "decode_responses", "max_connections"]
)
def test_another_option_is_named_with_what_to_do(scheme, name):
    with pytest.raises(ValueError, match=f"option {name} is not known: leave it out.* client_name") as caught:
        parse_address(an_address(scheme, f"{name}=hunter3"))
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster"])
def test_one_for_tls_is_told_from_it(scheme):
    with pytest.raises(ValueError, match="option ssl_ca_certs is for TLS: begin with rediss"):
        parse_address(an_address(scheme, "ssl_ca_certs=/ca.pem"))


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("db=many", "option db has to be a whole number"),
        ("db=", "option db has to be a whole number"),
        ("socket_keepalive=perhaps", "option socket_keepalive has to be true or false"),
        ("ssl_cert_reqs=no", "option ssl_cert_reqs has to be none, optional or required"),
        ("ssl_min_version=TLSv1", "option ssl_min_version has to be 771"),
        ("client_name=my%20name", "option client_name has to be text without spaces"),
        ("db=1&protocol=4", "option protocol has to be 2 or 3"),
    ],
)
def test_a_value_of_another_kind_is_told_what_it_has_to_be(query, told):
    with pytest.raises(ValueError, match=told) as caught:
        parse_address(an_address("rediss", query))
    assert "hunter" not in str(caught.value)


def test_a_cluster_has_no_database_and_only_sentinels_have_passwords_of_their_own():
    for scheme, name in (
        ("redis+cluster", "db"),
        ("redis+cluster", "sentinel_password"),
        ("redis", "sentinel_x"),
    ):
        with pytest.raises(ValueError, match="is not known"):
            parse_address(an_address(scheme, f"{name}=1"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://me@h?swordfish=1@h",
        "unix:///run/redis.sock?Swordfish2=1",
        "redis+cluster://h?swordfish=@h",
    ],
)
def test_what_may_be_a_piece_of_a_password_is_not_named(url):
    with pytest.raises(ValueError, match="an option is not known") as caught:
        parse_address(url)
    assert "wordfish" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://me:hunter2@h:port", "redis://me:hun?ter2@h", "redis://[::1"])
def test_a_host_that_cannot_be_read_is_said_without_its_words(url):
    with pytest.raises(ValueError, match="percent-encoded") as caught:
        parse_address(url)
    assert "hun" not in str(caught.value)


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
