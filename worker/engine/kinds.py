"""Which kind of adapter a file's keys spell. Decided first: converters drop keys that they do not know."""

import re
from collections.abc import Collection

from worker.engine.contract import AdapterFault

_EMBEDDINGS = r"bundle_emb\..*|clip_[lg]|text_encoders_[01]|string_to_param.*|emb_params"

_KINDS = {
    "textual-inversion embeddings": rf"^({_EMBEDDINGS})$",
    "DoRA": r"\.(dora_scale|lora_magnitude_vector)(\.|$)",
    "LoHa": r"\.hada_",
    "LoKr": r"\.lokr_",
    "OFT": r"\.(oft_|boft_)",
    "GLoRA": r"\.[ab][12]\.weight$",
    "IA3": r"\.(on_input|ia3_l(\.|$))",
    "LoCon with a middle factor (Tucker)": r"\.lora_mid\.",
    "full differences": r"\.(diff|diff_b|set_weight|w_norm|b_norm)$",
    "Control LoRA": r"\.((query|key)_norm\.scale|norm_(added_)?[qk]\.weight)$",
    "LoRA with a bias": r"\.lora_[AB]\.bias$",
}
"""The kinds that are not served yet, by what gives their keys away."""

_ANY = re.compile("|".join(_KINDS.values()))


def refuse_unsupported(keys: Collection[str]) -> None:
    """Let the keys of a plain LoRA or LoCon pass.

    Raises:
        AdapterFault: a key belongs to another kind of adapter, or none belongs to an adapter.
    """
    if not keys:
        raise AdapterFault("the file holds no tensors")
    for key in keys:
        if _ANY.search(key):
            kind = next(kind for kind, pattern in _KINDS.items() if re.search(pattern, key))
            raise AdapterFault(f"kind not supported yet: {kind} (key {key!r})")
    if not any("lora" in key for key in keys):
        raise AdapterFault(f"not a LoRA: no key names a LoRA factor; one is {next(iter(keys))!r}")
