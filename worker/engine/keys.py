"""What the keys of a weight file say by their form: plain factors, parts of other kinds, learned words.

Pure. Decided before any converter sees the keys: converters drop what they do not know.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.engine.contract import AdapterFault, quoted

V = TypeVar("V")
W = TypeVar("W")

KOHYA = "lora_"
"""How all of Kohya's keys begin; a layer's name has underscores for dots."""

LYCORIS = "lycoris_"
"""How LyCORIS' keys begin where it wraps a model by itself, as SimpleTuner has it do; underscores, too."""

UNET = "unet"

_PEFT_ROOT = "base_model.model."
_OTHER_ROOTS = ("unet.", "transformer.", "text_encoder", "diffusion_model.", "bundle_emb.", KOHYA)

_PLAIN = tuple(
    f"{end}.weight"
    for end in (
        *(".lora_A", ".lora_B", ".lora_down", ".lora_up"),
        *(
            f"{before}lora{kind}.{factor}"
            for before in "._"
            for kind in ("", "1", "2", "_linear_layer")
            for factor in ("down", "up")
        ),
    )
)
_KOHYAS = (".lora_down.weight", ".lora_up.weight")
_CONVERTED = (KOHYA, "diffusion_model.")

_PART = re.compile(
    r"(?P<layer>.+)\.(?P<part>lora_mid|dora_scale|lora_magnitude_vector|lora_B\.bias|hada_w[12]_[ab]"
    r"|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|diff|diff_b|w_norm|b_norm|alpha)(?:\.weight)?",
    re.DOTALL,
)
_WORD = re.compile(
    r"bundle_emb\.(?P<word>.+)\.(?P<encoder>clip_[lg]|t5|string_to_param\.\*|emb_params)", re.DOTALL
)
_OWN_WORDS = ("clip_l", "clip_g", "t5", "text_encoders_0", "text_encoders_1")

_REFUSED = {
    "OFT": r"\.(oft_|boft_)",
    "GLoRA": r"\.[ab][12]\.weight$",
    "Control LoRA": r"\.((query|key)_norm\.scale|norm_(added_)?[qk]\.weight)$",
    "IA3": r"\.(on_input|ia3_l(\.|$))",
    "weights that replace the base's at any strength": r"\.set_weight$",
    "weights of another shape": r"\.reshape_weight$",
    "textual-inversion embeddings without a name": r"(^|\.)(string_to_param\.|emb_params$)",
    "textual-inversion embeddings after the encoder": r"^bundle_emb\..*\.(clip_[lg]|t5)_out$",
}
"""The kinds that are not served, by what gives their keys away.

Keys come from strangers, and a search holds up all threads: none of these starts over at what it has read.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SortedKeys(Generic[V]):
    """A file's entries by what they are for.

    Attributes:
        plain: factors of LoRAs by key, for a converter.
        parts: of other kinds, by layer (named as in the file) and part.
        words: vectors of learned words, by word and by the encoder's name in the file.
        unknown: keys of no form that is known.
    """

    plain: Mapping[str, V]
    parts: Mapping[str, Mapping[str, V]]
    words: Mapping[str, Mapping[str, V]]
    unknown: Collection[str]

    def with_values(self, values: Mapping[V, W]) -> "SortedKeys[W]":
        """Return the same with what `values` has for each entry."""
        return SortedKeys(
            plain={key: values[each] for key, each in self.plain.items()},
            parts={
                name: {key: values[each] for key, each in found.items()} for name, found in self.parts.items()
            },
            words={
                name: {key: values[each] for key, each in found.items()} for name, found in self.words.items()
            },
            unknown=self.unknown,
        )


def sort_keys(entries: Mapping[str, V], components: tuple[str, ...]) -> SortedKeys[V]:
    """Sort `entries`. Keys that name no component at all are those of the first one alone.

    Raises:
        AdapterFault: a key belongs to a kind that is not served, or none belongs to an adapter.
    """
    if not entries:
        raise AdapterFault("the file holds no tensors")
    plain, unknown = dict[str, V](), list[str]()
    parts, words = defaultdict[str, dict[str, V]](dict), defaultdict[str, dict[str, V]](dict)
    for key, value in _rooted(entries, components).items():
        if key.endswith(_PLAIN):
            plain[key] = value
        elif match := _WORD.fullmatch(key):
            words[match["word"]][match["encoder"]] = value
        elif key in _OWN_WORDS:
            words[""][key] = value
        elif match := _PART.fullmatch(key):
            if match["part"] in parts[match["layer"]]:
                raise AdapterFault(f"{quoted(key)}: another key means the same")
            parts[match["layer"]][match["part"]] = value
        else:
            _refuse(key)
            unknown.append(key)
    if len(unknown) == len(entries):
        raise AdapterFault(f"not an adapter: no key names a part of one; one is {quoted(unknown[0])}")
    return SortedKeys(
        plain=plain | _alphas_of(plain, parts),
        parts={layer: found for layer, found in parts.items() if found},
        words=words,
        unknown=unknown,
    )


def _refuse(key: str) -> None:
    for kind, pattern in _REFUSED.items():
        if re.search(pattern, key):
            raise AdapterFault(f"kind not supported: {kind} (key {quoted(key)})")


def _rooted(entries: Mapping[str, V], components: tuple[str, ...]) -> dict[str, V]:
    """Return the entries without PEFT's own root, and all of them with a component's name."""
    own_roots = tuple(f"{component}." for component in components)
    dotted = {
        own_roots[0] + key.removeprefix(LYCORIS) if key.startswith(LYCORIS) else key: value
        for key, value in entries.items()
    }
    root = _PEFT_ROOT if components[0] == UNET else tuple(_PEFT_ROOT + own for own in own_roots)
    bare = {
        key.removeprefix(_PEFT_ROOT) if key.startswith(root) else key: value for key, value in dotted.items()
    }
    # transformers' own authors name modules without a root, which is for the converter to know
    if components[0] == UNET and not any(
        key.startswith((*_OTHER_ROOTS, *_OWN_WORDS, *own_roots)) for key in bare
    ):
        bare = {f"{components[0]}.{key}": value for key, value in bare.items()}
    rooted = {
        _in_pefts_words(key) if key.endswith(_KOHYAS) and key.startswith(own_roots) else key: value
        for key, value in bare.items()
    }
    if len(rooted) != len(entries):
        raise AdapterFault("several of its keys mean the same factor")
    return rooted


def _in_pefts_words(key: str) -> str:
    """Return a key of diffusers' module names with PEFT's word for a factor, where it has Kohya's."""
    return key.replace(".lora_down.weight", ".lora_A.weight").replace(".lora_up.weight", ".lora_B.weight")


def _alphas_of(plain: Mapping[str, V], parts: Mapping[str, dict[str, V]]) -> dict[str, V]:
    """Take the alphas of Kohya's LoRA layers out of `parts`: the converter wants them beside the factors."""
    taken = {}
    for layer, found in parts.items():
        if "alpha" in found and layer.startswith(_CONVERTED) and f"{layer}.lora_down.weight" in plain:
            taken[f"{layer}.alpha"] = found.pop("alpha")
    return taken
