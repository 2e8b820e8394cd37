"""Words that the Hub gives a meaning when they stand among a card's tags."""

LIBRARIES = frozenset(
    {"adapter-transformers", "diffusers", "diffusion-single-file", "fastai", "flair", "keras", "nemo"}
    | {"open_clip", "peft", "sentence-transformers", "setfit", "spacy", "timm", "transformers"}
    | {"transformers.js"}
)
"""Libraries that a tag can name (`model-libraries.ts` in huggingface.js, those that this project meets)."""

TASKS = frozenset(
    {"audio-classification", "automatic-speech-recognition", "depth-estimation", "feature-extraction"}
    | {"fill-mask", "image-classification", "image-feature-extraction", "image-segmentation"}
    | {"image-text-to-text", "image-to-3d", "image-to-image", "image-to-text", "image-to-video"}
    | {"mask-generation", "object-detection", "question-answering", "sentence-similarity"}
    | {"summarization", "text-classification", "text-generation", "text-to-3d", "text-to-audio"}
    | {"text-to-image", "text-to-speech", "text-to-video", "token-classification", "translation"}
    | {"unconditional-image-generation", "zero-shot-classification", "zero-shot-image-classification"}
)
"""Tasks that a tag can name (`pipelines.ts` in huggingface.js)."""
