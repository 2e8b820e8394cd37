"""Where a request runs: classifications and live pools in, a base and pinned adapters out. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import assert_never

from router.base_aliases import same_base
from router.classify import Classification, FullModel, LoraAdapter, Unsupported
from router.few_step import few_step_defaults
from router.hub_metadata import CardDefaults, completed
from router.schemas import GenerationRequest, WantedAdapter
from router.weight_files import words_file_of, words_files
from shared.config import Limits
from shared.errors import AmbiguousWeights, InvalidRequest, NoPoolForBase, UnsupportedModel
from shared.jobs import GenerationParams
from shared.pools import BasePool, WorkerInfo
from shared.refs import AdapterRef, RepoId

MODEL_FIELD = "model"

_LEARNED_WORD = re.compile(r"<s\d+>")
"""As pivotal tuning names the words it learns: `<s0>`, `<s1>` and so on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What to enqueue.

    Attributes:
        adapters: the path's own first; last the file of their learned words, if a prompt says one.
        restricted: those that only a caller's own token opens.
    """

    base: RepoId
    adapters: tuple[AdapterRef, ...]
    restricted: tuple[AdapterRef, ...]
    params: GenerationParams


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chosen:
    """An adapter of the request with all that is known of it.

    Attributes:
        defaults: the card's, and what a few-step adapter needs where the card leaves it open.
        is_few_step: whether other adapters' cards have to stand back.
    """

    wanted: WantedAdapter
    adapter: LoraAdapter
    weight_name: str
    defaults: CardDefaults
    is_few_step: bool


def place(
    request: GenerationRequest,
    model: Classification,
    others: Sequence[Classification],
    pools: Sequence[BasePool],
    *,
    limits: Limits,
    seed: int,
) -> Placement:
    """Return what to enqueue for `request`.

    Args:
        request: what is asked for.
        model: what the id of the path is.
        others: what the request's further adapters are, in their order.
        pools: the pools that are live now.
        limits: what a card's recommendation may not exceed.
        seed: taken if the request leaves the seed open.

    Raises:
        UnsupportedModel: one of the ids cannot be served.
        AmbiguousWeights: a weight file has to be chosen.
        InvalidRequest: the adapters do not go together, or a parameter has no meaning for this model.
        NoPoolForBase: no live worker has the base.
    """
    chosen = [_as_adapter(wanted, other) for wanted, other in zip(request.adapters, others, strict=True)]
    if isinstance(model, LoraAdapter):
        chosen.insert(0, _as_adapter(_path_adapter(request), model))
        bases = _with_copies(model.bases, pools)
    else:
        bases = (_as_base(request, model),)
        _serving_pool(bases, pools)  # of what a copy takes, only its pool knows
    if len(chosen) > limits.max_adapters:
        raise InvalidRequest("parameters.loras", f"at most {limits.max_adapters} adapters at once")
    pool = _serving_pool(_common_bases(request.model, bases, chosen, pools), pools)
    if request.source is not None and not pool.workers[0].image_to_image:
        raise InvalidRequest("inputs", f"the base {pool.base} does not start from a picture: send a prompt")
    _refuse_twins(chosen)
    refs = [(_pinned(item), item) for item in chosen]
    refs += _words_file(refs, request)
    return Placement(
        base=pool.base,
        adapters=tuple(ref for ref, _ in refs),
        restricted=tuple(ref for ref, item in refs if item.adapter.restricted),
        params=_params(request, _recommended(chosen), pool, limits, seed),
    )


def find_pool(base: RepoId, pools: Sequence[BasePool]) -> BasePool | None:
    """Return the pool that serves `base` under whatever name, None if none does."""
    return next((pool for pool in pools if same_base(pool.base, base)), None)


def serving_pools(found: Classification, pools: Sequence[BasePool]) -> tuple[BasePool, ...]:
    """Return the pools that serve what an id is, the one that is taken first.

    An adapter is at home on its bases, and else on quantised copies of them. A full model is served under its
    own name only: a copy of it draws other pictures, and is another model.
    """
    match found:
        case LoraAdapter():
            bases = _with_copies(found.bases, pools)
        case FullModel():
            bases = (found.repo,)
        case Unsupported():
            bases = ()
        case _:
            assert_never(found)
    return tuple(pool for base in bases if (pool := find_pool(base, pools)))


def _with_copies(bases: Sequence[RepoId], pools: Sequence[BasePool]) -> tuple[RepoId, ...]:
    """Return the bases, and after them the copies of them that run.

    Of several copies the first by id: the same as long as it runs, however many workers the others have, so
    that a seed goes on giving one picture. Who wants another one asks for it, with the adapter in `loras`.
    """
    copies = [pool.base for base in bases for pool in _copies(base, pools)]
    return tuple(dict.fromkeys((*bases, *copies)))


def _copies(base: RepoId, pools: Sequence[BasePool]) -> list[BasePool]:
    copies = [pool for pool in pools if pool.copy_of and same_base(pool.copy_of, base)]
    return sorted(copies, key=lambda pool: pool.base)


def _path_adapter(request: GenerationRequest) -> WantedAdapter:
    return WantedAdapter(
        field=MODEL_FIELD,
        repo=request.model,
        strength=request.strength,
        weight_name=request.weight_name,
    )


def _as_base(request: GenerationRequest, model: FullModel | Unsupported) -> RepoId:
    if isinstance(model, Unsupported):
        raise UnsupportedModel(f"{model.repo} cannot be served: {model.reason}")
    wanted = request.strength
    for is_said, name in (
        (wanted.scale is not None, "lora_scale"),
        (bool(wanted.schedule), "lora_schedule"),
        (request.weight_name is not None, "weight_name"),
    ):
        if is_said:
            raise InvalidRequest(f"parameters.{name}", f"{request.model} is a base and has no adapter")
    return model.repo


def _as_adapter(wanted: WantedAdapter, found: Classification) -> _Chosen:
    if isinstance(found, Unsupported):
        raise UnsupportedModel(f"{wanted.field}: {found.repo} cannot be served: {found.reason}")
    if isinstance(found, FullModel):
        raise InvalidRequest(wanted.field, f"{found.repo} is a full model, not an adapter")
    weight_name = _weight_name(wanted, found)
    few_step = few_step_defaults(found.repo, weight_name)
    return _Chosen(
        wanted=wanted,
        adapter=found,
        weight_name=weight_name,
        defaults=completed(found.defaults, few_step),
        is_few_step=few_step is not None,
    )


def _common_bases(
    model: RepoId, bases: tuple[RepoId, ...], chosen: Sequence[_Chosen], pools: Sequence[BasePool]
) -> tuple[RepoId, ...]:
    """Return the bases that the model and all adapters stand on; refuse the first that has none of them."""
    for item in chosen:
        own_bases = _with_copies(item.adapter.bases, pools)
        shared = tuple(base for base in bases if any(same_base(base, own) for own in own_bases))
        if not shared:
            raise InvalidRequest(
                item.wanted.field,
                f"{item.adapter.repo} stands on {_names(item.adapter.bases)}, {model} on {_names(bases)}:"
                " adapters go together only on one base",
            )
        bases = shared
    return bases


def _serving_pool(bases: Sequence[RepoId], pools: Sequence[BasePool]) -> BasePool:
    for base in bases:
        if pool := find_pool(base, pools):
            return pool
    running = f"these bases run now: {_names([pool.base for pool in pools])}" if pools else "no base runs now"
    copies = [pool.base for base in bases for pool in _copies(base, pools)]
    other = f"; a quantised copy of it draws other pictures, ask for it by its name: {_names(copies)}"
    raise NoPoolForBase(f"no worker serves the base {_names(bases)}; {running}{other if copies else ''}")


def _pinned(item: _Chosen) -> AdapterRef:
    wanted = item.wanted.strength
    scale = item.defaults.scale if wanted.scale is None else wanted.scale
    return AdapterRef(
        repo=item.adapter.repo,
        revision=item.adapter.revision,
        weight_name=item.weight_name,
        scale=1.0 if scale is None else scale,
        blocks=wanted.blocks,
        schedule=wanted.schedule,
    )


def _words_file(
    refs: Sequence[tuple[AdapterRef, _Chosen]], request: GenerationRequest
) -> list[tuple[AdapterRef, _Chosen]]:
    """Return the file of the learned words that a prompt says, if it says one and the request names no file.

    Only then: a prompt without them draws the same either way, and adapters whose words are the same go
    together. A request that names a file of words itself says where its words come from. It comes once for
    all adapters that share it, and is active while any of them is: words have no strength.

    Raises:
        InvalidRequest: several files have the word, or none is an adapter's own by its name.
    """
    said = _LEARNED_WORD.search(f"{request.prompt} {request.negative_prompt}")
    if said is None or any(words_files([ref.weight_name]) for ref, _ in refs):
        return []
    found = [words_file_of(ref.weight_name, item.adapter.weight_files) for ref, item in refs]
    possible = {
        f"{ref.repo}/{name}": None
        for (ref, item), own in zip(refs, found, strict=True)
        for name in ((own,) if own else words_files(item.adapter.weight_files))
    }
    if len(possible) > 1 or (possible and not any(found)):
        raise InvalidRequest(
            "parameters.loras",
            f"the prompt says {said[0]}, a learned word of {_names([*possible])}: name the file that is meant"
            " as the weight_name of one more adapter",
        )
    owned = [
        (replace(ref, weight_name=own, blocks=()), item)
        for (ref, item), own in zip(refs, found, strict=True)
        if own
    ]
    return sorted(owned, key=lambda pair: pair[0].scale == 0.0)[:1]


def _weight_name(wanted: WantedAdapter, adapter: LoraAdapter) -> str:
    field = f"{wanted.parent}.weight_name"
    if wanted.weight_name is None:
        if adapter.weight_name is None:
            raise AmbiguousWeights(adapter.repo, adapter.weight_files, field)
        return adapter.weight_name
    if wanted.weight_name not in adapter.weight_files:
        raise InvalidRequest(
            field,
            f"{adapter.repo} has no such .safetensors file; it has {_names(adapter.weight_files)}",
        )
    return wanted.weight_name


def _refuse_twins(chosen: Sequence[_Chosen]) -> None:
    seen: set[tuple[RepoId, str]] = set()
    for item in chosen:
        repo, weight_name = item.adapter.repo, item.weight_name
        if (repo, weight_name) in seen:
            raise InvalidRequest(item.wanted.field, f"{repo}/{weight_name} is named twice")
        seen.add((repo, weight_name))


def _recommended(chosen: Sequence[_Chosen]) -> list[CardDefaults]:
    """Return what the adapters recommend: those that draw in a few steps first, which others can follow."""
    return [item.defaults for item in sorted(chosen, key=lambda item: not item.is_few_step)]


def _fitting(card: CardDefaults, base: WorkerInfo) -> CardDefaults:
    """Return a recommendation without a scheduler that the base does not take, or does not know."""
    if not base.schedulers or card.scheduler in base.schedulers:
        return card
    return replace(card, scheduler=None, timestep_spacing=None)


def _params(
    request: GenerationRequest, cards: Sequence[CardDefaults], pool: BasePool, limits: Limits, seed: int
) -> GenerationParams:
    """What the request leaves open is taken from the first card that says something about it.

    Size and steps, if need be, from the base: the queue shares it fairly by the work that it knows of. With a
    picture the size is that one's, which only the worker sees.
    """
    base, source = pool.workers[0], request.source
    cards = [_fitting(card, base) for card in cards]
    asked = CardDefaults(
        steps=request.steps, guidance_scale=request.guidance_scale, scheduler=request.scheduler
    )
    chosen = reduce(completed, cards, asked)
    return GenerationParams(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width or (None if source else base.default_width),
        height=request.height or (None if source else base.default_height),
        steps=min(chosen.steps or base.default_steps, limits.max_steps),
        guidance_scale=(
            None if chosen.guidance_scale is None else min(chosen.guidance_scale, limits.max_guidance)
        ),
        seed=seed if request.seed is None else request.seed,
        scheduler=chosen.scheduler,
        timestep_spacing=chosen.timestep_spacing,
        image_format=request.form.image_format,
        source=source.digest if source else None,
        strength=request.source_strength,
    )


def _names(texts: Sequence[str]) -> str:
    return ", ".join(texts)
