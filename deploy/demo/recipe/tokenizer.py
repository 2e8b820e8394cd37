"""A CLIP tokenizer of our own: whole words for the captions' words, bytes for everything else."""

import itertools
from collections import Counter
from typing import Final

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from deploy.demo.recipe.scenes import BACKGROUNDS, COLOURS, FILLERS, SHAPES

MAX_LENGTH: Final = 32
START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
WORDS: Final = (
    "a", "an", "the", "on", "in", "of", "and", "with", "background", "drawing", "small", "large",
    "star", "style", "picture", "outline", "stripes", "striped", "pixel", "art", "night",
    "pastel", "dots", "dotted", "checker", "gradient", "neon", "glow", "texture", "sticker",
)  # fmt: skip
"""Words beyond shapes and colours; triggers are among them, so that each is one token."""


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al., 2016) that turn each word into one token."""
    parts = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for split in parts.values() for pair in itertools.pairwise(split))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, split in parts.items():
            parts[word] = _join(split, best)


def _join(split: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for part in split:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def new_tokenizer() -> CLIPTokenizer:
    """Builds the tokenizer; any Unicode text has tokens, since every byte is one."""
    fillers = [word for filler in FILLERS for word in filler.split()]
    words = sorted({*SHAPES, *COLOURS, *BACKGROUNDS, *fillers, *WORDS})
    merges = _merges(words)
    alphabet = sorted(ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    pieces += [f"{left}{right}" for left, right in merges]
    # Two merges can spell the same piece; it needs one number only.
    pieces = [*dict.fromkeys(pieces), START, END]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=MAX_LENGTH,
    )
