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
_EMBEDDINGS = ("embeddings.safetensors", "_emb.safetensors")


def telling_files(files: Iterable[str]) -> tuple[str, ...]:
    """Return the at most `MAX_FILES` paths that say what a repository is and what may be named in it.

    If there are more, those go first that say most: the names that tell the kind, then weights, then
    pickled weights.
    """
    telling = [file for file in files if file in _KIND_NAMES or file.lower().endswith(_WEIGHTS)]
    return tuple(sorted(telling, key=_rank)[:MAX_FILES])


def weight_files(files: Sequence[str]) -> tuple[str, ...]:
    """Return the safetensors files that a request may name, in the order of `files`."""
    return tuple(file for file in files if file.lower().endswith(SAFETENSORS))


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


def has_pickled(files: Sequence[str]) -> bool:
    """Whether there are weights in a format that is never opened."""
    return any(file.lower().endswith(PICKLED) for file in files)


def _rank(file: str) -> int:
    if file in _KIND_NAMES:
        return 0
    return 2 if file.lower().endswith(PICKLED) else 1


def _may_be_weights(file: str) -> bool:
    name = file.lower()
    return not any(word in name for word in _LEFT_BY_TRAINING) and not name.endswith(_EMBEDDINGS)
