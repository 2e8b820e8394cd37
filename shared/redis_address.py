"""What the address of Redis says: one server, those that Sentinel watches, or a cluster.

The spelling is that of redis-py where it has one, else the one that redis-sentinel-url and docket share:

    redis://[user:password@]host[:port][/db]                             one server; rediss:// with TLS
    unix://[user:password@]/path/to/socket[?db=0]
    redis+sentinel://[user:password@]host[:port][,host...]/service[/db]  rediss+sentinel:// with TLS
    redis+cluster://[user:password@]host[:port][,host...]                rediss+cluster:// with TLS

Options follow a question mark, by their names in redis-py: those of `options_of`. Of the others some would
take back what the queue relies on, such as that no command is sent twice, and all would only fail once
something connects.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

SINGLE = ("redis://", "rediss://", "unix://")
SENTINEL_PORT = 26379
SERVER_PORT = 6379
OF_SENTINEL = "sentinel_"

_MANY = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>sentinel|cluster)://(?:(?P<user>[^/?@]*)@)?"
    r"(?P<hosts>[^/?@]+)(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?"
)
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>\d{1,5}))?")

Host = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an option's value may be, as a pattern and in words."""

    pattern: str
    words: str


_TEXT = _Kind(r"(?s:.*)", "text")
_YES_OR_NO = _Kind(r"(?i:true|false|yes|no|1|0)", "true or false")

_OF_ALL = {
    "username": _TEXT,
    "password": _TEXT,
    "client_name": _Kind(r"[!-~]+", "text without spaces"),
    "protocol": _Kind(r"[23]", "2 or 3"),
}
_OF_SOCKETS = {"socket_keepalive": _YES_OR_NO}
_OF_ONE_SERVER = {"db": _Kind(r"\d{1,9}", "a whole number")}
_OF_TLS = {
    "ssl_ca_certs": _TEXT,
    "ssl_ca_data": _TEXT,
    "ssl_certfile": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_ciphers": _TEXT,
    "ssl_cert_reqs": _Kind(r"none|optional|required", "none, optional or required"),
    "ssl_check_hostname": _YES_OR_NO,
    "ssl_min_version": _Kind(r"77[12]", "771, which is TLS 1.2, or 772"),
}
_OF_TLS_BUT_CLUSTERS = {"ssl_ca_path": _TEXT, "ssl_password": _TEXT}
_OF_SENTINELS = {f"{OF_SENTINEL}username": _TEXT, f"{OF_SENTINEL}password": _TEXT}


@dataclass(frozen=True, kw_only=True, slots=True)
class OneServer:
    """One server, by a URL that redis-py understands."""

    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """The primary of a service, as the Sentinels name it.

    Attributes:
        url: user, password, database and options of the servers, as a URL whose host means nothing.
        sentinel_options: the same for the Sentinels.
    """

    sentinels: tuple[Host, ...]
    service: str
    url: str
    sentinel_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyServers:
    """A cluster, by some of its nodes. `url` as in `Watched`."""

    nodes: tuple[Host, ...]
    url: str


Address = OneServer | Watched | ManyServers


def parse_address(text: str) -> Address:
    """Return what an address means.

    Raises:
        ValueError: it cannot be used. The message holds nothing of it, because it may hold a password.
    """
    if text.startswith(SINGLE):
        return _one_server(text)
    match = _MANY.fullmatch(text)
    if not match:
        raise ValueError(
            "has to begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// "
            "(these two also as rediss+), and name a host"
        )
    path = [unquote(part) for part in (match["path"] or "").split("/") if part]
    options = _options(f"{match['scheme']}+{match['kind']}", match["query"] or "")
    if match["kind"] == "cluster":
        if path not in ([], ["0"]):
            raise ValueError("a cluster has one database only, 0: leave out what follows the hosts")
        return ManyServers(nodes=_hosts(match["hosts"], SERVER_PORT), url=_servers(match, "0", options))
    if len(path) not in {1, 2} or not all(part.isdecimal() for part in path[1:]):
        raise ValueError("after the hosts comes /service-name, and perhaps /database-number")
    return Watched(
        sentinels=_hosts(match["hosts"], SENTINEL_PORT),
        service=path[0],
        url=_servers(match, path[1] if len(path) == 2 else "0", options),
        sentinel_options=tuple(
            (name.removeprefix(OF_SENTINEL), value) for name, value in options if name.startswith(OF_SENTINEL)
        ),
    )


def options_of(scheme: str) -> Mapping[str, _Kind]:
    """Return the options that an address of this scheme may have."""
    kind = scheme.partition("+")[2]
    options = dict(_OF_ALL)
    options |= {} if scheme == "unix" else _OF_SOCKETS
    options |= {} if kind else _OF_ONE_SERVER
    if scheme.startswith("rediss"):
        options |= _OF_TLS
        options |= {} if kind == "cluster" else _OF_TLS_BUT_CLUSTERS
    return options | (_OF_SENTINELS if kind == "sentinel" else {})


def _one_server(url: str) -> OneServer:
    try:
        parts = urlsplit(url)
        _ = parts.port  # read for its check
    except ValueError as error:
        raise ValueError(
            "the host or its port cannot be read; a password with / ? # [ ] @ : % in it is percent-encoded"
        ) from error
    _options(parts.scheme, parts.query)
    return OneServer(url=url)


def _options(scheme: str, query: str) -> list[tuple[str, str]]:
    known = options_of(scheme)
    with_tls = options_of(re.sub(r"^redis\b", "rediss", scheme))
    options = parse_qsl(query, keep_blank_values=True)
    for name, value in options:
        # A question mark in a password that is not encoded makes an option of the rest.
        may_be_said = re.fullmatch(r"[a-z_]{1,40}", name) and "@" not in query
        option = f"the option {name}" if may_be_said else "an option"
        if name in with_tls.keys() - known.keys():
            raise ValueError(f"{option} is for TLS: begin with rediss, or leave it out")
        if name not in known:
            raise ValueError(f"{option} is not known: leave it out; there are {', '.join(sorted(known))}")
        if not re.fullmatch(known[name].pattern, value):
            raise ValueError(f"{option} has to be {known[name].words}")
    return [(name, value) for name, value in options if value]


def _hosts(text: str, port: int) -> tuple[Host, ...]:
    found = [_HOST.fullmatch(host) for host in text.split(",")]
    hosts = tuple((host["ipv6"] or host["name"], int(host["port"] or port)) for host in found if host)
    if len(hosts) != len(found) or any(not 0 < number < 65536 for _, number in hosts):
        raise ValueError("the hosts have to be host or host:port, with commas between them")
    return hosts


def _servers(match: re.Match[str], database: str, options: list[tuple[str, str]]) -> str:
    user = f"{match['user']}@" if match["user"] else ""
    query = urlencode([option for option in options if not option[0].startswith(OF_SENTINEL)])
    return f"{match['scheme']}://{user}any/{database}" + (f"?{query}" if query else "")
