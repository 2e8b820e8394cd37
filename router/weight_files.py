"""Which files of a repository tell what it is, and which of an adapter's holds the weights."""

from collections.abc import Iterable, Sequence

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
"""Formats that unpickle, and so may run code."""

SAFETENSORS = ".safetensors"
_WEIGHTS = (SAFETENSORS, *PICKLED)

STANDARD_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and PEFT call the file, in the order of their claim."""

MODEL_INDEX = "model_index.json"
PICKLED_LORA = "pytorch_lora_weights.bin"

MAX_FILES = 256
"""So many paths of a repository are kept; more weight files than that cannot be named."""

_KIND_NAMES = (MODEL_INDEX, PICKLED_LORA, *STANDARD_NAMES)
_LEFT_BY_TRAINING = ("scheduler", "optimizer", "checkpoint")
_WORDS = ("embeddings.safetensors", "_emb.safetensors")
_COGS_WORDS = "embeddings.pti"
"""What Replicate's trainer calls them; it is a safetensors file all the same."""


def telling_files(files: Iterable[str]) -> tuple[str, ...]:
    """Return the at most `MAX_FILES` paths that say what a repository is and what may be named in it.

    If there are more, those go first that say most: the names that tell the kind, and learned words at the
    top, which weights of a standard name go with; then weights, then pickled weights.
    """
    telling = [
        file for file in files if file in _KIND_NAMES or file.lower().endswith(_WEIGHTS) or _holds_words(file)
    ]
    return tuple(sorted(telling, key=_rank)[:MAX_FILES])


def weight_files(files: Sequence[str]) -> tuple[str, ...]:
    """Return the safetensors files that a request may name, in the order of `files`."""
    return tuple(file for file in files if file.lower().endswith(SAFETENSORS) or _holds_words(file))


def default_weight_file(files: Sequence[str]) -> str | None:
    """Return the file that is meant when none is named; None when several may be.

    The order is diffusers' own (`_best_guess_weight_name`), without its taking the first of several: a
    single file at the top, then the standard names, then a single file anywhere. What training leaves
    beside the weights does not count, nor do the learned embeddings of pivotal tuning.
    """
    plausible = [file for file in weight_files(files) if _may_be_weights(file)]
    top = [file for file in plausible if "/" not in file]
    if len(top) == 1:
        return top[0]
    for name in STANDARD_NAMES:
        if name in top:
            return name
    return plausible[0] if len(plausible) == 1 else None


def words_files(files: Sequence[str]) -> tuple[str, ...]:
    """Return the files of learned words alone, which pivotal tuning leaves beside the weights."""
    return tuple(file for file in files if _holds_words(file))


def words_file_of(weight_name: str, files: Sequence[str]) -> str | None:
    """Return the file of words that the weights were trained with; None if none, or if names do not tell.

    It lies in the same folder: `style_emb.safetensors` is that of `style.safetensors`. One that no weights
    there have by name is everybody's, such as `embeddings.safetensors`. Weights of a standard name go with
    whichever there is: diffusers' scripts leave `pytorch_lora_weights.safetensors`, the same for other
    programs as `style.safetensors`, and `style_emb.safetensors`.
    """
    folder, _, name = weight_name.rpartition("/")
    beside = [file for file in weight_files(files) if file.rpartition("/")[0] == folder]
    words = words_files(beside)
    own = [file for file in words if _named_after(file) == _stem(weight_name)]
    if not own:
        names = {_stem(file) for file in beside}
        own = [file for file in words if name in STANDARD_NAMES or _named_after(file) not in names]
    return own[0] if len(own) == 1 and weight_name not in words else None


def has_pickled(files: Sequence[str]) -> bool:
    """Whether there are weights in a format that is never opened."""
    return any(file.lower().endswith(PICKLED) for file in files)


def _rank(file: str) -> int:
    if file in _KIND_NAMES or (_holds_words(file) and "/" not in file):
        return 0
    return 2 if file.lower().endswith(PICKLED) else 1


def _may_be_weights(file: str) -> bool:
    name = file.lower()
    return not any(word in name for word in _LEFT_BY_TRAINING) and not _holds_words(file)


def _holds_words(file: str) -> bool:
    name = file.lower()
    return name.endswith(_WORDS) or name.rpartition("/")[2] == _COGS_WORDS


def _stem(file: str) -> str:
    return file.lower().rpartition("/")[2].rpartition(".")[0]


def _named_after(words: str) -> str:
    """Return the name of the weights that a file of words is named after; empty if after none."""
    return _stem(words).removesuffix("embeddings").removesuffix("_emb").rstrip("_-")
