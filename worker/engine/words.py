"""Learned words that a weight file brings along: pivotal tuning, textual inversion in a bundle."""

import re
from collections.abc import Mapping

from torch import Tensor

from worker.engine.adapter import CLIP_G, CLIP_L, T5, Word
from worker.engine.contract import AdapterFault, quoted

MAX_VECTORS = 75
"""Of one word: as many tokens as a prompt has beside its start and end."""

MAX_TOKENS = 1000
"""Of one file."""

_ENCODERS = {
    "clip_l": CLIP_L,
    "clip_g": CLIP_G,
    "t5": T5,
    "text_encoders_0": CLIP_L,
    "text_encoders_1": CLIP_G,
    "string_to_param.*": CLIP_L,
    "emb_params": CLIP_L,
}
"""The encoders by the names that files give them: diffusers' training scripts, and bundles of words."""

_WORD = re.compile(r"[!-~]{1,64}")


def read_words(found: Mapping[str, Mapping[str, Tensor]]) -> tuple[Word, ...]:
    """Return the words of a file, by the name in it and the encoder's.

    Vectors without a name are pivotal tuning's: each is a word of its own, `<s0>`, `<s1>` and so on
    (`TokenEmbeddingsHandler` in diffusers' `train_dreambooth_lora_sdxl_advanced.py`, and those for SD 1.5
    and FLUX).

    Raises:
        AdapterFault: not the form of a word, or of its vectors.
    """
    words = []
    for token, parts in found.items():
        if token and not _WORD.fullmatch(token):
            raise AdapterFault(f"its learned word {quoted(token)} is not of 1 to 64 printable characters")
        vectors = {_ENCODERS[part]: _matrix(part, values) for part, values in parts.items()}
        if len(vectors) != len(parts) or len({each.shape[0] for each in vectors.values()}) != 1:
            raise AdapterFault(f"its learned word {quoted(token)} does not have the same vectors everywhere")
        if token:
            words.append(Word(token=token, vectors=vectors))
        else:
            count = next(iter(vectors.values())).shape[0]
            words += [
                Word(token=f"<s{n}>", vectors={name: rows[n : n + 1] for name, rows in vectors.items()})
                for n in range(count)
            ]
    tokens = [token for word in words for token in word.tokens]
    if len(tokens) != len(set(tokens)) or len(tokens) > MAX_TOKENS:
        raise AdapterFault(f"its {len(tokens)} learned tokens are too many, or two of them are the same")
    return tuple(words)


def _matrix(part: str, values: Tensor) -> Tensor:
    matrix = values[None] if values.ndim == 1 else values
    if matrix.ndim != 2 or not 1 <= matrix.shape[0] <= MAX_VECTORS or not matrix.shape[1]:
        raise AdapterFault(
            f"{part}: vectors of shape {(*values.shape,)}; up to {MAX_VECTORS} rows are served"
        )
    return matrix
