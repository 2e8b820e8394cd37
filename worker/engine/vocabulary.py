"""The base's vocabulary, and words that adapters add to it for one image.

Tokenizer and embedding are replaced by extended copies while the image is drawn, and put back as they
were: the base's own embedding weights are read, never written or resized.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from worker.engine.adapter import CLIP_G, CLIP_L, T5, Word
from worker.engine.contract import AdapterFault, quoted

MOST_TAUGHT = 8
"""Extended tokenizers that are kept; each takes about 20 MB."""

_ENCODERS = {"text_encoder": (CLIP_L, "tokenizer"), "text_encoder_2": (CLIP_G, "tokenizer_2")}
"""By component: what words call it where it is a CLIP, and its tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Speaker:
    """A text encoder, and what words have to fit: asked once, as its embedding is another one at times.

    Attributes:
        tokenizer: the attribute of its pipeline that is its tokenizer.
        known: the base's own words.
        width: numbers of a word's vector.
    """

    encoder: Any
    tokenizer: str
    known: frozenset[str]
    width: int


class Vocabulary:
    """The words of a pipeline's text encoders: CLIPs, and a T5."""

    def __init__(self, pipeline: Any) -> None:  # noqa: ANN401 - diffusers is untyped
        self._pipeline = pipeline
        self._speakers = _speakers(pipeline) if isinstance(pipeline, TextualInversionLoaderMixin) else {}
        # FLUX's words are often learned for CLIP alone: T5 then reads them as plain text, as in training
        self._needed = {name for name in self._speakers if name != T5} or self._speakers.keys()

        # a copy of a real tokenizer takes half a second, and most pivotal adapters have the same words
        self._taught = lru_cache(MOST_TAUGHT)(self._teach)

    def _teach(self, tokenizer: str, tokens: tuple[str, ...]) -> Any:  # noqa: ANN401
        taught = copy.deepcopy(getattr(self._pipeline, tokenizer))
        # one by one and as plain text, as `load_textual_inversion` of diffusers does
        for token in tokens:
            taught.add_tokens(token)
        return taught

    def check(self, words: Sequence[Word]) -> None:
        """Check that words fit this base. May run while others are known.

        Raises:
            AdapterFault: one does not.
        """
        for word in words:
            if not self._needed <= word.vectors.keys() <= self._speakers.keys():
                encoders = ", ".join(sorted(word.vectors))
                raise AdapterFault(
                    f"its learned word {quoted(word.token)} has vectors for {encoders}, this "
                    f"base's text encoders are {', '.join(self._speakers) or 'of another kind'}"
                )
            for name, rows in word.vectors.items():
                speaker = self._speakers[name]
                if rows.shape[1] != speaker.width:
                    raise AdapterFault(
                        f"its learned word {quoted(word.token)} has vectors of {rows.shape[1]} numbers, this "
                        f"base's {name} takes {speaker.width}; the adapter was made for another base"
                    )
                if known := speaker.known.intersection(word.tokens):
                    raise AdapterFault(f"its learned word {quoted(min(known))} is one of the base's own")

    @contextmanager
    def extended(self, words: Sequence[Word]) -> Iterator[None]:
        """Know `words` in prompts, until the end of the context."""
        with ExitStack() as undo:
            for name, speaker in self._speakers.items():
                if not (own := [word for word in words if name in word.vectors]):
                    continue
                original = getattr(self._pipeline, speaker.tokenizer)
                tokens = tuple(token for word in own for token in word.tokens)
                tokenizer = self._taught(speaker.tokenizer, tokens)
                first = tokenizer.convert_tokens_to_ids(own[0].token)
                embedding = speaker.encoder.get_input_embeddings()
                # of several adapters, some are there already, others in the host's memory
                device = embedding.weight.device
                rows = torch.cat([word.vectors[name].to(device).float() for word in own])
                undo.callback(setattr, self._pipeline, speaker.tokenizer, original)
                undo.callback(speaker.encoder.set_input_embeddings, embedding)
                setattr(self._pipeline, speaker.tokenizer, tokenizer)
                speaker.encoder.set_input_embeddings(_Extended(embedding, first, rows))
            yield


def _speakers(pipeline: Any) -> dict[str, _Speaker]:  # noqa: ANN401
    """Return the encoders that learn words, by the names that words have for them."""
    found = {}
    for component, (clip, tokenizer) in _ENCODERS.items():
        encoder = getattr(pipeline, component, None)
        if isinstance(encoder, CLIPTextModel | CLIPTextModelWithProjection | T5EncoderModel):
            known = frozenset(getattr(pipeline, tokenizer).get_vocab())
            name = T5 if isinstance(encoder, T5EncoderModel) else clip
            width = encoder.get_input_embeddings().embedding_dim
            found[name] = _Speaker(encoder=encoder, tokenizer=tokenizer, known=known, width=width)
    return found


class _Extended(nn.Module):
    """An embedding, and after its tokens those of `rows`, from the id `first` on."""

    def __init__(self, embedding: nn.Embedding, first: int, rows: Tensor) -> None:
        super().__init__()
        self._embedding = embedding
        self._first = first
        self._rows = rows.to(embedding.weight.device, embedding.weight.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors `[..., width]` of `ids`."""
        added = ids >= self._first
        own = self._embedding(ids.masked_fill(added, 0))
        others = self._rows[(ids - self._first).clamp_min(0)]
        return torch.where(added[..., None], others, own)
