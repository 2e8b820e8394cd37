"""Which file of an adapter's repository holds the weights."""

from collections.abc import Sequence

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
"""Formats that unpickle, and so may run code."""

STANDARD_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and PEFT call the file, in the order of their claim."""

_LEFT_BY_TRAINING = ("scheduler", "optimizer", "checkpoint")
_EMBEDDINGS = ("embeddings.safetensors", "_emb.safetensors")


def weight_files(files: Sequence[str]) -> tuple[str, ...]:
    """Return the safetensors files that a request may name, in the repository's order."""
    return tuple(file for file in files if file.lower().endswith(".safetensors"))


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


def _may_be_weights(file: str) -> bool:
    name = file.lower()
    return not any(word in name for word in _LEFT_BY_TRAINING) and not name.endswith(_EMBEDDINGS)
