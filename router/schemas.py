"""A request of the Hugging Face inference wire, checked field by field.

One canonical `GenerationRequest` inside, the spellings of several clients outside. A field that is null
counts as absent; a field that nobody knows is refused, so that a slip of the pen is never drawn as if it
were not there.
"""

import re
from dataclasses import dataclass

from multidict import MultiMapping

from router.body import SourcePicture, read_body
from router.fields import Fields, reject
from router.negotiation import AnswerForm, choose_answer_form
from router.strengths import AS_IT_IS, WantedStrength, read_strength
from shared.config import Limits
from shared.jobs import MAX_SEED, Priority
from shared.refs import RepoId, parse_repo_id

ADAPTER_HEADER = "lora"
LEGACY_OPTIONS = ("wait_for_model", "use_cache", "use_gpu", "dont_load_model", "retry_on_error")
"""Options of the old hosted service; they mean nothing here and are let pass."""

MIN_SIDE = 8
MAX_NAME = 255
_SCHEDULER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_URGENCY = re.compile(r"(?:^|[ ,])u=([0-7])(?=$|[ ,;])")
_DEFAULT_URGENCY = 3
_REPO_SPELLINGS = ("model", "path", "id", "name")
_SCALE_SPELLINGS = ("scale", "weight", "strength")


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedAdapter:
    """An adapter that the request adds to the model of its path. `field` is where it was named."""

    field: str
    repo: RepoId
    strength: WantedStrength = AS_IT_IS
    weight_name: str | None = None
    revision: str | None = None

    @property
    def parent(self) -> str:
        """The object that it stands in: `parameters` for the path's and the header's adapter."""
        return self.field.rpartition(".")[0] or "parameters"


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """What is asked for. `None` is a choice that the request leaves open.

    Attributes:
        model: the id of the path: an adapter or a base.
        strength: that of the path's adapter.
        source: the picture that the drawing starts from.
        source_strength: how much of it is drawn anew.
        weight_name: weight file of the path's adapter.
        adapters: further adapters on the same base.
        respond_async: answer with the job instead of the image.
        idempotency_key: the client's name for this request, to repeat it without a second image.
    """

    model: RepoId
    revision: str | None = None
    strength: WantedStrength = AS_IT_IS
    weight_name: str | None = None
    adapters: tuple[WantedAdapter, ...] = ()
    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    source: SourcePicture | None = None
    source_strength: float | None = None
    scheduler: str | None = None
    form: AnswerForm
    respond_async: bool = False
    priority: Priority = Priority.NORMAL
    idempotency_key: str | None = None


def parse_request(model: str, body: bytes, headers: MultiMapping[str], limits: Limits) -> GenerationRequest:
    """Read a request. `headers` has to find names whatever their case.

    Raises:
        InvalidRequest: something is wrong; its `field` is the path to it, such as `parameters.width`.
    """
    repo = parse_repo_id(model)
    content = read_body(body, headers.get("Content-Type", ""), limits)
    parameters = content.fields.child("parameters")
    _pass_legacy_options(content.fields.child("options"))
    content.fields.finish()
    width, height = _size(parameters, limits)
    strength = read_strength(parameters, "lora_scale", "lora_schedule", limits)
    weight_name = parameters.text("weight_name", MAX_NAME)
    adapters = _adapters(parameters, limits)
    if alias := _alias(parameters, headers, strength, weight_name):
        adapters, strength, weight_name = (alias, *adapters), AS_IT_IS, None
    parameters.integer("num_images", 1, 1)
    request = GenerationRequest(
        model=repo,
        revision=parameters.text("revision", MAX_NAME),
        strength=strength,
        weight_name=weight_name,
        adapters=adapters,
        # a picture may do without: the adapter then says all
        prompt=content.prompt or parameters.text("prompt", limits.max_prompt, empty=True) or "",
        negative_prompt=parameters.text("negative_prompt", limits.max_prompt, empty=True) or "",
        width=width,
        height=height,
        steps=parameters.integer("num_inference_steps", 1, limits.max_steps),
        guidance_scale=parameters.number("guidance_scale", 0, limits.max_guidance),
        seed=_seed(parameters),
        source=content.source,
        source_strength=_source_strength(parameters, content.source),
        scheduler=_scheduler(parameters),
        form=choose_answer_form(_list(headers, "Accept")),
        respond_async=_prefers(headers, "respond-async"),
        priority=_priority(_list(headers, "Priority")),
        idempotency_key=_idempotency_key(headers),
    )
    parameters.finish()
    return request


def _list(headers: MultiMapping[str], name: str) -> str:
    """Return a header that is a list, and may stand in several lines (RFC 9110, section 5.3)."""
    return ",".join(headers.getall(name, ()))


def _prefers(headers: MultiMapping[str], preference: str) -> bool:
    """Whether a `Prefer` header (RFC 7240) says so, with or without parameters."""
    stated = (part.partition(";")[0].strip().lower() for part in _list(headers, "Prefer").split(","))
    return preference in stated


def _priority(header: str) -> Priority:
    """Return the priority for a `Priority` header (RFC 9218): who says it can wait, waits. No more."""
    urgency = _URGENCY.search(header)
    return Priority.LOW if urgency and int(urgency[1]) > _DEFAULT_URGENCY else Priority.NORMAL


def _idempotency_key(headers: MultiMapping[str]) -> str | None:
    """Return the `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header)."""
    key = headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        reject("Idempotency-Key", "has 1 to 255 visible ASCII characters")
    return key


def _pass_legacy_options(options: Fields) -> None:
    for name in LEGACY_OPTIONS:
        options.skip(name)
    options.finish()


def _size(parameters: Fields, limits: Limits) -> tuple[int | None, int | None]:
    fields = parameters
    if parameters.has("target_size"):
        if name := next((name for name in ("width", "height") if parameters.has(name)), None):
            reject(parameters.path(name), "says the same as target_size: give one of them")
        fields = parameters.child("target_size")
        fields.require("width")
        fields.require("height")
    width, height = (fields.integer(side, MIN_SIDE, limits.max_side) for side in ("width", "height"))
    if fields is not parameters:
        fields.finish()
    return width, height


def _adapters(parameters: Fields, limits: Limits) -> tuple[WantedAdapter, ...]:
    return tuple(_adapter(entry, limits) for entry in parameters.children("loras", limits.max_adapters))


def _adapter(entry: Fields, limits: Limits) -> WantedAdapter:
    named = entry.spelling(_REPO_SPELLINGS) or "model"
    scaled = entry.spelling(_SCALE_SPELLINGS) or "scale"
    entry.require(named)
    wanted = WantedAdapter(
        field=entry.path(named),
        repo=parse_repo_id(entry.text(named, MAX_NAME) or "", entry.path(named)),
        strength=read_strength(entry, scaled, "schedule", limits),
        weight_name=entry.text("weight_name", MAX_NAME),
        revision=entry.text("revision", MAX_NAME),
    )
    entry.finish()
    return wanted


def _alias(
    parameters: Fields, headers: MultiMapping[str], strength: WantedStrength, weight_name: str | None
) -> WantedAdapter | None:
    """Return the adapter of `adapter_id` or of the header, which older clients name beside a base.

    The request's one strength and `weight_name` are then about it.
    """
    field, text = parameters.path("adapter_id"), parameters.text("adapter_id", MAX_NAME)
    if header := headers.get(ADAPTER_HEADER):
        if text is not None:
            reject(field, f"says the same as the header '{ADAPTER_HEADER}': give one of them")
        field, text = ADAPTER_HEADER, header.strip()
    if text is None:
        return None
    repo = parse_repo_id(text, field)
    return WantedAdapter(field=field, repo=repo, strength=strength, weight_name=weight_name)


def _seed(parameters: Fields) -> int | None:
    seed = parameters.integer("seed", -1, MAX_SEED)
    return None if seed == -1 else seed


def _source_strength(parameters: Fields, source: SourcePicture | None) -> float | None:
    if source is None and parameters.has("strength"):
        reject(
            parameters.path("strength"),
            "is of a request with an image; an adapter's strength is lora_scale",
        )
    return parameters.number("strength", 0, 1)


def _scheduler(parameters: Fields) -> str | None:
    name = parameters.text("scheduler", MAX_NAME)
    if name is not None and not _SCHEDULER.fullmatch(name):
        reject(parameters.path("scheduler"), "has to be the class name of a diffusers scheduler")
    return name
