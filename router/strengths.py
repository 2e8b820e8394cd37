"""How strongly an adapter is wanted: a number, factors for parts of the base, a schedule over the steps.

Parts are spelled as diffusers spells them in `set_adapters`: by component, a UNet's by `down`, `mid`, `up`,
their `block_N`, and a list for the layers of a block.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from router.fields import Fields, reject
from shared.config import Limits

MAX_CHANGES = 32
"""Entries of a schedule."""

MAX_PARTS = 64
"""Entries for parts of the base, layers of a block each counted."""

_COMPONENTS = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_BLOCK = re.compile(r"block_([0-9]{1,2})")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+){0,8}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedStrength:
    """What a request says of an adapter's strength; see `shared.refs.AdapterRef`.

    Attributes:
        scale: None where the request leaves it open.
    """

    scale: float | None = None
    blocks: tuple[tuple[str, float], ...] = ()
    schedule: tuple[tuple[float, float], ...] = ()


AS_IT_IS = WantedStrength()
"""All left open."""


def read_strength(fields: Fields, scale: str, schedule: str, limits: Limits) -> WantedStrength:
    """Read the fields of these names.

    Raises:
        InvalidRequest: a number out of bounds, a part that no base has, an order that goes back.
    """
    changes = _schedule(fields, schedule, limits)
    if not fields.holds_object(scale):
        number = fields.number(scale, -limits.max_scale, limits.max_scale)
        return WantedStrength(scale=None if number is None else float(number), schedule=changes)
    parts = tuple(_components(fields.child(scale), limits))
    if len(parts) > MAX_PARTS:
        reject(fields.path(scale), f"has at most {MAX_PARTS} parts")
    return WantedStrength(scale=1.0, blocks=parts, schedule=changes)


def _schedule(fields: Fields, name: str, limits: Limits) -> tuple[tuple[float, float], ...]:
    changes: list[tuple[float, float]] = []
    for entry in fields.children(name, MAX_CHANGES):
        for each in ("from", "scale"):
            entry.require(each)
        begin, factor = entry.number("from", 0, 1), entry.number("scale", -limits.max_scale, limits.max_scale)
        entry.finish()
        if begin is None or factor is None:  # required above
            continue
        if changes and begin <= changes[-1][0]:
            reject(entry.path("from"), "has to be more than that of the entry before")
        changes.append((float(begin), float(factor)))
    return tuple(changes)


def _components(fields: Fields, limits: Limits) -> Iterator[tuple[str, float]]:
    if fields.holds_object("unet"):
        yield from _unet(fields.child("unet"), limits)
    else:
        yield from _part(fields, "unet", "unet", limits)
    for component in _COMPONENTS:
        if fields.holds_object(component):
            yield from _paths(fields.child(component), component, limits)
        else:
            yield from _part(fields, component, component, limits)
    fields.finish()


def _unet(fields: Fields, limits: Limits) -> Iterator[tuple[str, float]]:
    yield from _part(fields, "mid", "unet.mid_block", limits)
    for side in ("down", "up"):
        path = f"unet.{side}_blocks"
        if fields.holds_object(side):
            yield from _blocks(fields.child(side), path, limits)
        else:
            yield from _part(fields, side, path, limits)
    fields.finish()


def _blocks(fields: Fields, path: str, limits: Limits) -> Iterator[tuple[str, float]]:
    for name in fields.names():
        block = _BLOCK.fullmatch(name)
        if not block:
            reject(fields.path(name), "has to be block_0, block_1, …")
        if fields.holds_list(name):
            for place, factor in enumerate(
                fields.numbers(name, -limits.max_scale, limits.max_scale, MAX_PARTS)
            ):
                # attentions and resnets alike, as diffusers does
                yield f"{path}.{block[1]}.*.{place}", factor
        else:
            yield from _part(fields, name, f"{path}.{block[1]}", limits)
    fields.finish()


def _paths(fields: Fields, component: str, limits: Limits) -> Iterator[tuple[str, float]]:
    for name in fields.names():
        if not _PATH.fullmatch(name):
            reject(fields.path(name), "has to be the path of a module, such as transformer_blocks.0")
        yield from _part(fields, name, f"{component}.{name}", limits)
    fields.finish()


def _part(fields: Fields, name: str, path: str, limits: Limits) -> Iterator[tuple[str, float]]:
    factor = fields.number(name, -limits.max_scale, limits.max_scale)
    if factor is not None:
        yield path, float(factor)
