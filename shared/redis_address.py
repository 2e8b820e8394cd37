"""What the address of Redis says: one server, those that Sentinel watches, or a cluster.

The spelling is that of redis-py where it has one, else the one that redis-sentinel-url and docket share:

    redis://[user:password@]host[:port][/db]                             one server; rediss:// with TLS
    unix://[user:password@]/path/to/socket[?db=0]
    redis+sentinel://[user:password@]host[:port][,host...]/service[/db]  rediss+sentinel:// with TLS
    redis+cluster://[user:password@]host[:port][,host...]                rediss+cluster:// with TLS

Options of redis-py follow a question mark; `sentinel_username` and `sentinel_password` are for Sentinels.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode

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
        return OneServer(url=text)
    match = _MANY.fullmatch(text)
    if not match:
        raise ValueError(
            "has to begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// "
            "(these two also as rediss+), and name a host"
        )
    path = [unquote(part) for part in (match["path"] or "").split("/") if part]
    options = parse_qsl(match["query"] or "")
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
