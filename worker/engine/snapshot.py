"""A base's files on this machine: which commit, which files of it, and their download."""

import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from shared.errors import HubUnavailable, InvalidRequest, RepoForbidden, RepoNotFound, UnsupportedModel
from shared.refs import FileRef, RepoId, parse_repo_id
from worker.engine.families import Family, find_family
from worker.engine.gguf_file import replaced_part

OnStage = Callable[[str], None]
"""Called with a few words on what the loading is at."""

INDEX = "model_index.json"
CARD = "README.md"

SKIPPED_PARTS = frozenset(
    {
        "safety_checker",
        "feature_extractor",
        "image_encoder",
        # language models that rewrite prompts
        "pe",
        "pe_tokenizer",
        "prompt_enhancer_head",
    }
)
"""Parts of a text-to-image pipeline that are not used here."""

_QUANTISED = "base_model:quantized:"
"""How the Hub's tag begins that names what a repository was quantised from."""
_WEIGHTS = ("diffusion_pytorch_model", "model")
_HALF = "fp16"
_MODELS = ("Model", "Autoencoder", "ForCausalLM", "ForConditionalGeneration")
"""What the class of a part with weights has in its name."""
_SETTINGS = (".json", ".txt", ".jinja", ".model")
"""How the files end that are no weights; jinja: a tokenizer's chat template, which runs in a sandbox; model:
sentencepiece's pieces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserFile:
    """A GGUF file of a denoiser's weights on this machine, of one commit of a repository."""

    path: Path
    repo: RepoId
    name: str
    revision: str
    copy_of: RepoId | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One commit of a base in a local folder.

    Attributes:
        variant: the name of the weights that were chosen, if they have one.
        copy_of: the base that this one was quantised from.
        denoiser: what takes the place of the denoiser's weights, which are not in `folder` then.
    """

    folder: Path
    revision: str
    variant: str | None
    copy_of: RepoId | None = None
    denoiser: DenoiserFile | None = None


def fetch_base(
    repo: RepoId,
    revision: str | None,
    *,
    hub: str,
    token: str | None,
    half: bool,
    cache_dir: Path | None,
    on_stage: OnStage,
    denoiser: FileRef | None = None,
) -> Snapshot:
    """Resolve the commit, and download what the pipeline needs and this machine does not have.

    `hub` is its address, and `half` takes the half-precision weights where the repository has both. With
    `denoiser`, a GGUF file, the denoiser's own weights are left out.

    Raises:
        RepoNotFound: the Hub knows no such repository or revision, or hides it from this token.
        RepoForbidden: it is gated.
        HubUnavailable: the Hub does not answer.
        UnsupportedModel: no pipeline that is served, or one without safetensors, or one that takes no file.
    """
    with _typed_errors(repo):
        info = HfApi(endpoint=hub, token=token).model_info(repo, revision=revision)
        files = [each.rfilename for each in info.siblings or ()]
        if INDEX not in files:
            is_gguf = any(file.endswith(".gguf") for file in files)
            alone = (
                "; WARMBASE_DENOISER_FILE takes a GGUF file, beside the base that it is of" if is_gguf else ""
            )
            raise UnsupportedModel(f"{repo} is no diffusers pipeline: it has no {INDEX}{alone}")
        index = hf_hub_download(
            repo, INDEX, revision=info.sha, endpoint=hub, token=token, cache_dir=cache_dir
        )
        parts = json.loads(Path(index).read_bytes())
        family_of(repo, parts)
        replaced = replaced_part(repo, parts) if denoiser else None
        needed, variant = choose_files(parts, files, half=half, replaced=replaced)
        folder = snapshot_download(
            repo,
            revision=info.sha,
            endpoint=hub,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=list(needed),
            tqdm_class=_bar_to(on_stage),
        )
    return Snapshot(
        folder=Path(folder),
        revision=str(info.sha),
        variant=variant,
        copy_of=quantised_from(info.tags or ()),
        denoiser=_fetch_file(denoiser, hub, token, cache_dir, on_stage) if denoiser else None,
    )


def _fetch_file(
    ref: FileRef, hub: str, token: str | None, cache_dir: Path | None, on_stage: OnStage
) -> DenoiserFile:
    with _typed_errors(ref.repo):
        info = HfApi(endpoint=hub, token=token).model_info(ref.repo, revision=ref.revision)
        if ref.name not in [each.rfilename for each in info.siblings or ()]:
            raise RepoNotFound(f"{ref.repo} has no file {ref.name}")
        path = hf_hub_download(
            ref.repo,
            ref.name,
            revision=info.sha,
            endpoint=hub,
            token=token,
            cache_dir=cache_dir,
            tqdm_class=_bar_to(on_stage),
        )
    return DenoiserFile(
        path=Path(path),
        repo=ref.repo,
        name=ref.name,
        revision=str(info.sha),
        copy_of=quantised_from(info.tags or ()),
    )


@contextmanager
def _typed_errors(repo: RepoId) -> Iterator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except GatedRepoError as error:
        raise RepoForbidden(f"{repo} is gated: accept its terms on the Hub and set HF_TOKEN") from error
    except LocalEntryNotFoundError as error:
        raise HubUnavailable(f"{repo} could not be downloaded: the Hub does not answer") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise RepoNotFound(f"the Hub has no {repo}, or not for this token") from error
    except (httpx2.HTTPError, OSError) as error:
        raise HubUnavailable(f"{repo} could not be downloaded: {error}") from error


def quantised_from(tags: Iterable[str]) -> RepoId | None:
    """Return the one model that a repository is a quantised copy of; None where there is none, or several.

    The tags are the Hub's: it makes them of the card's `base_model` and `base_model_relation`, and of files
    where the card leaves the relation open.
    """
    named = {tag.removeprefix(_QUANTISED) for tag in tags if tag.startswith(_QUANTISED)}
    try:
        return parse_repo_id(named.pop()) if len(named) == 1 else None
    except InvalidRequest:
        return None


def family_of(repo: RepoId, index: Mapping[str, Any]) -> Family:
    """Return the family of the pipeline that `index` (model_index.json) asks for.

    Raises:
        UnsupportedModel: it is not served.
    """
    try:
        return find_family(index.get("_class_name"))
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{repo} is a {error}") from error


def choose_files(
    index: Mapping[str, Any], files: Iterable[str], *, half: bool, replaced: str | None = None
) -> tuple[tuple[str, ...], str | None]:
    """Return the files that the pipeline of `index` (model_index.json) is loaded from, and their variant.

    They are no code and no pickles. The variant is half precision, if wanted or if a part has no other; of a
    part without it the plain weights are taken, as diffusers does: quantised ones have none. Of the part that
    is `replaced`, none are taken.

    Raises:
        UnsupportedModel: a part has weights, but none in safetensors.
    """
    needed = []
    # of each part by variant, of which None is the plain ones
    weights: dict[str, dict[str | None, list[str]]] = {part: {} for part in _parts(index)}
    for text in files:
        file = PurePosixPath(text)
        part = file.parent.as_posix()
        if text in (INDEX, CARD) or (part in weights and file.suffix in _SETTINGS):
            needed.append(text)
        elif part in weights and part != replaced and _is_weight(file):
            weights[part].setdefault(_variant_of(file), []).append(text)
    variant = _choose_variant(weights.values(), half=half)
    chosen = {part: found.get(variant, found.get(None, ())) for part, found in weights.items()}
    empty = {part for part, names in chosen.items() if not names} - {replaced}
    weightless = [part for part in empty if any(word in index[part][1] for word in _MODELS)]
    if weightless:
        raise UnsupportedModel(
            f"its {', '.join(sorted(weightless))} has no safetensors weights; neither pickled ones nor GGUF "
            "files are read"
        )
    return (*needed, *chain.from_iterable(chosen.values())), variant


def _choose_variant(weights: Iterable[Collection[str | None]], *, half: bool) -> str | None:
    halves = [variants for variants in weights if _HALF in variants]
    alone = any(None not in variants for variants in halves)
    return _HALF if alone or (half and halves) else None


def _parts(index: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name, kind in index.items() if _is_part(kind)) - SKIPPED_PARTS


def _is_part(kind: object) -> bool:
    return isinstance(kind, list) and len(kind) == 2 and all(isinstance(each, str) for each in kind)


def _is_weight(file: PurePosixPath) -> bool:
    return file.suffix == ".safetensors" and file.name.split(".")[0].split("-")[0] in _WEIGHTS


def _variant_of(file: PurePosixPath) -> str | None:
    """Return `fp16` of `model.fp16.safetensors` and of `model.fp16-00001-of-00002.safetensors`."""
    middle = file.name.split(".")[1:-1]
    return middle[0].split("-")[0] if middle else None


def _bar_to(on_stage: OnStage) -> type[Any]:
    """Return a progress bar for huggingface_hub that speaks to `on_stage` instead of a terminal."""

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - tqdm's own signature
            super().__init__(*args, **{**options, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            moved: bool | None = super().update(n)
            if self.unit == "B" and self.total:
                on_stage(f"downloading {self.n / 1e6:.1f} of {self.total / 1e6:.1f} MB")
            return moved

    return Bar
