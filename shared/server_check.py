"""Whether the Redis at the configured address can hold the queue: asked at the start, and now and then.

A wrong server loses jobs without a word, or refuses them one by one. What cannot be found out, as on a
managed server that refuses INFO, does not count against it: it is logged.
"""

import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from redis import exceptions
from redis.asyncio import Redis, RedisCluster

from shared.errors import QueueUnavailable
from shared.queue.keys import ALL_BASES, BASES, DONE_PATTERN, POOLS, BaseKeys
from shared.queue.scripts import LUA
from shared.redis_client import translate_errors

OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
"""The first that know scripts with flags."""

FULL = 0.9
"""The part of its memory above which a server gets no new jobs."""

_KEYS = BaseKeys("check")
"""No base has this tag, which is no digest."""

_COMMAND = re.compile(r"redis\.p?call\('(\w+)'")
_IN_SCRIPTS = tuple(
    sorted({name for file in LUA.glob("*.lua") for name in _COMMAND.findall(file.read_text())})
)
_FOR_BOTH = (
    "PING",
    "TIME",
    f"EVALSHA {'0' * 40} 1 {_KEYS.ready}",
    f"PUBLISH {_KEYS.done} job",
    f"PUBLISH {_KEYS.control} job",
    f"ZRANGE {POOLS} 0 -1",
    f"HMGET {_KEYS.job('')} status",
    *(f"{name} {_KEYS.ready}" for name in _IN_SCRIPTS if name not in {"PUBLISH", "TIME"}),
)

ROUTER_COMMANDS = (
    *_FOR_BOTH,
    f"GET {_KEYS.blob('')}",
    f"SET {_KEYS.blob('')} 0",
    f"PSUBSCRIBE {DONE_PATTERN}",
    f"ZRANGE {BASES} 0 0",
)
WORKER_COMMANDS = (
    *_FOR_BOTH,
    f"SET {_KEYS.blob('')} 0",
    f"SUBSCRIBE {_KEYS.control}",
    f"BZPOPMIN {_KEYS.wake} 0",
    f"ZADD {POOLS} 0 0",
    f"ZREM {POOLS} 0",
    f"ZREMRANGEBYSCORE {POOLS} 0 0",
    f"ZADD {BASES} 0 0",
    f"ZREMRANGEBYSCORE {BASES} 0 0",
)
"""What a process sends, each with a key or channel of the kind that it is sent for."""

_WHAT_IS_DENIED = """#!lua flags=no-writes
local denied = {}
for _, command in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(command, '%S+') do
    words[#words + 1] = word
  end
  if not redis.acl_check_cmd(unpack(words)) then
    denied[#denied + 1] = command
  end
end
return denied
"""

_UNTRUSTED = re.compile(r"certificate verify failed: (?P<why>[\w' .,-]*[\w'])")
_CERTIFICATE_WANTED = "alert certificate required"
"""OpenSSL's words."""

logger = logging.getLogger(__name__)


class WrongServer(QueueUnavailable):
    """The server cannot hold the queue as it is set up; the message says what was found and what to change.

    It never holds the address, because that may hold a password.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFacts:
    """What a server says of itself; None for what it does not say.

    Attributes:
        product: `redis` or `valkey`; others say which of these they are like.
        primary: False for a replica.
        maxmemory: bytes; 0 for no limit.
    """

    product: str
    version: str
    primary: bool | None = None
    maxmemory: int | None = None
    policy: str | None = None


async def check_server(redis: Redis, commands: Iterable[str]) -> tuple[str, ...]:
    """Return if the server can hold the queue; with it, what could not be found out.

    Args:
        redis: a client for commands.
        commands: what its user has to be allowed: `ROUTER_COMMANDS` or `WORKER_COMMANDS`.

    Raises:
        WrongServer: it cannot.
        QueueUnavailable: it does not answer.
    """
    with translate_errors():
        try:
            servers = await _facts(redis)
            problems = [problem for facts in servers for problem in problems_of(facts)]
            if not problems:  # an older server does not know the script
                problems = await _denied(redis, commands)
        except exceptions.AuthenticationError as error:
            raise WrongServer(
                "Redis refuses the user or the password: correct them in REDIS_URL, or the user on the server"
            ) from error
        except (exceptions.ConnectionError, exceptions.RedisClusterException) as error:
            if problem := certificate_problem(error):
                raise WrongServer(problem) from error
            raise
    if problems:
        raise WrongServer("; ".join(dict.fromkeys(problems)))
    return tuple(dict.fromkeys(unknown for facts in servers for unknown in unknowns_of(facts)))


async def has_room(redis: Redis, trim_images: Callable[[int], Awaitable[None]]) -> bool:
    """Whether a single server has memory for more jobs: those that run need what is left of it to end.

    Images that it keeps do not count, because they make room: those that are in the way do so now. True where
    the server does not say.

    Args:
        redis: a client for commands.
        trim_images: has the server keep no more than so many bytes of images.

    Raises:
        QueueUnavailable: it does not answer.
    """
    with translate_errors():
        # in this order: who sees less memory because another router trimmed meanwhile, trims less
        images = int(await redis.get(BaseKeys(ALL_BASES).blob_bytes) or 0)
        try:
            memory = await redis.info("memory")
        except (exceptions.NoPermissionError, exceptions.ResponseError):
            return True
        allowed, used = FULL * memory.get("maxmemory", 0), memory["used_memory"]
        is_enough = not allowed or used - images < allowed
        if is_enough and used > allowed > 0:
            await trim_images(images - math.ceil(used - allowed))
    return is_enough


def log_unchecked(unchecked: Iterable[str]) -> None:
    """Say what could not be found out, for the operator to look at; nothing if there is nothing."""
    for what in unchecked:
        logger.warning("not checked: %s", what, extra={"action": "server_unchecked"})


def problems_of(facts: ServerFacts) -> list[str]:
    """Return why a server cannot hold the queue, each with what to change."""
    problems = []
    oldest = OLDEST.get(facts.product)
    if oldest and _numbers(facts.version) < oldest:
        problems.append(
            f"the server is {facts.product.title()} {facts.version}: "
            "update it to Redis 7.0, Valkey 7.2 or later, which know scripts with flags"
        )
    if facts.primary is False:
        problems.append(
            "the server is a replica: let REDIS_URL name the primary, or the Sentinels that know it"
        )
    # Without a limit nothing is evicted, whatever the policy.
    if facts.maxmemory and facts.policy not in {None, "noeviction"}:
        problems.append(
            f"maxmemory-policy is {facts.policy}, with which a full server deletes jobs: set it to noeviction"
        )
    return problems


def unknowns_of(facts: ServerFacts) -> list[str]:
    """Return what a server did not say."""
    unknowns = []
    if facts.product not in OLDEST:
        unknowns.append(
            f"whether {facts.product} {facts.version} does as Redis 7.0 or Valkey 7.2 do: it is neither"
        )
    if facts.primary is None:
        unknowns.append("whether the server is a primary: it does not say")
    if facts.maxmemory is None or (facts.maxmemory and facts.policy is None):
        unknowns.append("maxmemory-policy: the server does not say; it has to be noeviction")
    return unknowns


def _untrusted(why: str) -> str:
    """Say what to change. OpenSSL's words go in only where they name no host."""
    if "mismatch" in why:
        return (
            "the server's certificate is for another host name than that in REDIS_URL: use the name that it "
            "is for, or give the server a certificate for this one"
        )
    if "expired" in why or "not yet valid" in why:
        return f"the server's {why}: give the server a valid one"
    return (
        f"the server's certificate is not trusted ({why}): "
        "let ssl_ca_certs in REDIS_URL name the authority that signed it"
    )


def certificate_problem(error: BaseException | None) -> str | None:
    """Return what is wrong with a certificate, the server's or ours, if it was that which failed."""
    while error:
        if found := _UNTRUSTED.search(str(error)):
            return _untrusted(found["why"])
        if _CERTIFICATE_WANTED in str(error):
            return (
                "the server asks for a certificate of its clients: name one in REDIS_URL with ssl_certfile "
                "and ssl_keyfile, or set tls-auth-clients to no on the server"
            )
        error = error.__cause__ or error.__context__
    return None


def facts_of_info(info: Mapping[str, Any]) -> ServerFacts:
    """Read what INFO says."""
    valkey = info.get("valkey_version")
    return ServerFacts(
        product="valkey" if valkey else "redis",
        version=str(valkey or info.get("redis_version", "")),
        primary={"master": True, "slave": False, "replica": False}.get(info.get("role", "")),
        maxmemory=cast("int | None", info.get("maxmemory")),
        policy=info.get("maxmemory_policy"),
    )


def facts_of_hello(hello: Mapping[bytes, Any]) -> ServerFacts:
    """Read what HELLO says, which every user may send."""
    return ServerFacts(
        product=hello[b"server"].decode(),
        version=hello[b"version"].decode(),
        primary={b"master": True, b"replica": False}.get(hello.get(b"role", b"")),
    )


async def _facts(redis: Redis) -> list[ServerFacts]:
    """Return the facts of the server, or of each primary of a cluster."""
    try:
        return [facts_of_info(info) for info in await _ask(redis, "INFO")]
    except (exceptions.NoPermissionError, exceptions.ResponseError):
        return [facts_of_hello(hello) for hello in await _ask(redis, "HELLO")]


async def _ask(redis: Redis, command: str) -> list[Any]:
    client: Any = redis
    if isinstance(client, RedisCluster):
        answers = await client.execute_command(command, target_nodes=RedisCluster.PRIMARIES)
        # redis-py gives a single node's answer as it is, several by the nodes' names
        names = {node.name for node in client.get_primaries()}
        return list(answers.values()) if names >= set(answers) else [answers]
    return [await redis.execute_command(command)]  # type: ignore[no-untyped-call]


async def _denied(redis: Redis, commands: Iterable[str]) -> list[str]:
    try:
        denied = await redis.eval(_WHAT_IS_DENIED, 1, _KEYS.ready, *commands)
    except exceptions.NoPermissionError:
        denied = [f"EVAL {_KEYS.ready}".encode()]
    if not denied:
        return []
    names = ", ".join(dict.fromkeys(command.decode() for command in denied))
    return [f"the user may not send: {names}; let it (deploy/redis.md says how)"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
