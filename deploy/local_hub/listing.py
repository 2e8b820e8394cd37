"""The list of models: which match a query, in which order, on which page. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.local_hub.metadata import EXPANDABLE, LISTED, selected
from deploy.local_hub.refusals import RefusedError, bad_request

MAX_PAGE = 1000
SORT_KEYS = frozenset({"createdAt", "downloads", "lastModified", "likes", "trendingScore"})
_FULL = ("author", "gated", "lastModified", "sha", "siblings")

Query = Mapping[str, Sequence[str]]
"""The values of each query parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page of a list, and where the next one begins."""

    items: list[dict[str, object]]
    next_cursor: int | None


def list_models(descriptions: Sequence[Mapping[str, object]], query: Query) -> Page:
    """Return the page of models that `GET /api/models` answers to `query`.

    Raises:
        RefusedError: a parameter has no meaning.
    """
    matching = [model for model in descriptions if _matches(model, query)]
    sort = _one(query, "sort")
    if sort is not None:
        if sort not in SORT_KEYS:
            raise RefusedError(bad_request(f"Invalid sort parameter: {sort}"))
        matching.sort(key=lambda model: _sort_value(model, sort), reverse=True)
    page = paginate([dict(model) for model in matching], query, MAX_PAGE)
    keys = _keys(query)
    return Page(items=[selected(model, keys) for model in page.items], next_cursor=page.next_cursor)


def paginate(items: Sequence[dict[str, object]], query: Query, page_size: int) -> Page:
    """Return the page of `items` that the query's `limit` and `cursor` name.

    Raises:
        RefusedError: one of them is no number that makes sense.
    """
    limit = min(_number(query, "limit", page_size), page_size)
    if limit == 0:
        raise RefusedError(bad_request("Invalid limit parameter"))
    start = _number(query, "cursor", 0)
    end = start + limit
    return Page(items=list(items[start:end]), next_cursor=end if end < len(items) else None)


def expand_keys(query: Query) -> frozenset[str]:
    """Return the names that `expand` asks for, in either spelling.

    Raises:
        RefusedError: one of them is unknown.
    """
    keys = frozenset((*query.get("expand", ()), *query.get("expand[]", ())))
    if unknown := sorted(keys - EXPANDABLE):
        known = ", ".join(sorted(EXPANDABLE))
        raise RefusedError(bad_request(f"Invalid expand parameter {unknown[0]!r}: use one of {known}"))
    return keys


def flag(query: Query, name: str) -> bool:
    """Return a yes-or-no parameter, as any of the clients writes it."""
    return (_one(query, name) or "").lower() in {"true", "1"}


def _keys(query: Query) -> frozenset[str]:
    if expand := expand_keys(query):
        return expand
    keys = set(LISTED)
    if flag(query, "full"):
        keys.update(_FULL)
    if flag(query, "config"):
        keys.add("config")
    if flag(query, "cardData"):
        keys.add("cardData")
    return frozenset(keys)


def _matches(model: Mapping[str, object], query: Query) -> bool:
    tags = model.get("tags")
    wanted = [tag for value in query.get("filter", ()) for tag in value.split(",")]
    author, search = _one(query, "author"), _one(query, "search")
    task, gated = _one(query, "pipeline_tag"), _one(query, "gated")
    return (
        isinstance(tags, list)
        and all(tag in tags for tag in wanted)
        and author in {None, model["author"]}
        and (search or "").lower() in str(model["id"]).lower()
        and task in {None, model.get("pipeline_tag")}
        and (gated is None or flag(query, "gated") == bool(model["gated"]))
    )


def _sort_value(model: Mapping[str, object], key: str) -> tuple[int, str]:
    value = model[key]
    return (value, "") if isinstance(value, int) else (0, str(value))


def _one(query: Query, name: str) -> str | None:
    values = query.get(name)
    return values[0] if values else None


def _number(query: Query, name: str, default: int) -> int:
    value = _one(query, name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit()):
        raise RefusedError(bad_request(f"Invalid {name} parameter"))
    return int(value)
