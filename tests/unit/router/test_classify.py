import pytest

from router.classify import FullModel, LoraAdapter, Unsupported, classify
from router.hub_metadata import parse_metadata
from tests.unit.router.hub_documents import BASE, LCM, PIXEL_ART, SDXL, SHA, document

WEIGHTS = "pytorch_lora_weights.safetensors"
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def verdict(found):
    return classify(parse_metadata(found))


ADAPTERS = {
    "as the Hub describes it today": (PIXEL_ART, SDXL),
    "few-step": (LCM, SDXL),
    "tag lora, base on the card": (
        document("a/b", (WEIGHTS,), tags=["lora"], cardData={"base_model": SDXL}),
        SDXL,
    ),
    "upper-case tag": (document("a/b", (WEIGHTS,), tags=["LoRA"], cardData={"base_model": SDXL}), SDXL),
    "tag on the card only": (
        document("a/b", ("x.safetensors",), cardData={"tags": ["lora"], "base_model": SDXL}),
        SDXL,
    ),
    "relation tag without lora": (
        document("a/b", ("x.safetensors",), tags=[f"base_model:adapter:{SDXL}"]),
        SDXL,
    ),
    "relation that the Hub resolved, without a tag": (
        document("a/b", ("x.safetensors",), baseModels={"relation": "adapter", "models": [{"id": SDXL}]}),
        SDXL,
    ),
    "standard file name only": (document("a/b", (WEIGHTS,), cardData={"base_model": SDXL}), SDXL),
    "base as a list": (document("a/b", (WEIGHTS,), cardData={"base_model": [SDXL]}), SDXL),
    "base with spaces around": (document("a/b", (WEIGHTS,), cardData={"base_model": f" {SDXL} "}), SDXL),
    "base as an address": (
        document("a/b", (WEIGHTS,), cardData={"base_model": f"https://huggingface.co/{SDXL}"}),
        SDXL,
    ),
    "local path on the card, base in a tag": (
        document(
            "a/b", (WEIGHTS,), tags=[f"base_model:{SDXL}"], cardData={"base_model": "./output/run/merged"}
        ),
        SDXL,
    ),
    "base of the PEFT configuration": (
        document(
            "a/b",
            ("adapter_model.safetensors", "adapter_config.json"),
            tags=["diffusers"],
            config={"peft": {"base_model_name_or_path": SDXL, "task_type": None}},
        ),
        SDXL,
    ),
    "adapter of another family": (
        document(
            "a/b",
            ("lora.safetensors",),
            pipeline_tag="text-to-image",
            library_name="peft",
            tags=["lora", "base_model:adapter:Qwen/Qwen-Image"],
        ),
        "Qwen/Qwen-Image",
    ),
    "adapter of FLUX, in XLabs' form": (
        document(
            "XLabs-AI/flux-RealismLora",
            ("lora.safetensors",),
            pipeline_tag="text-to-image",
            tags=["lora", "Flux", "diffusers"],
            cardData={"base_model": "black-forest-labs/FLUX.1-dev"},
        ),
        "black-forest-labs/FLUX.1-dev",
    ),
    "base that moved": (
        document("a/b", (WEIGHTS,), tags=["lora"], cardData={"base_model": "runwayml/stable-diffusion-v1-5"}),
        SD15,
    ),
    "base that moved, other case": (
        document("a/b", (WEIGHTS,), tags=["lora"], cardData={"base_model": "RunwayML/Stable-Diffusion-v1-5"}),
        SD15,
    ),
    "resolved base before the card's old name": (
        document(
            "a/b",
            (WEIGHTS,),
            tags=["lora"],
            cardData={"base_model": "old/name"},
            baseModels={"relation": "adapter", "models": [{"id": SDXL}]},
        ),
        SDXL,
    ),
    "base of the adapter tag before the card's old name": (
        document("a/b", (WEIGHTS,), tags=[f"base_model:adapter:{SDXL}"], cardData={"base_model": "old/name"}),
        SDXL,
    ),
    "tagged controlnet only, but with LoRA weights": (
        document("a/b", (WEIGHTS,), tags=["controlnet"], cardData={"base_model": SDXL}),
        SDXL,
    ),
    "tagged controlnet as well, but with LoRA weights": (
        document("a/b", (WEIGHTS,), tags=["controlnet", "lora"], cardData={"base_model": SDXL}),
        SDXL,
    ),
}


@pytest.mark.parametrize(("found", "base"), ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_and_its_base(found, base):
    adapter = verdict(found)

    assert isinstance(adapter, LoraAdapter)
    assert adapter.bases[0] == base
    assert adapter.revision == SHA
    assert adapter.weight_name is not None
    assert len(adapter.evidence) >= 3


UNSUPPORTED = {
    "no base": (document("a/b", (WEIGHTS,), tags=["lora"]), "which base it stands on"),
    "base is a local path": (
        document("a/b", (WEIGHTS,), tags=["lora"], cardData={"base_model": "/home/me/sdxl"}),
        "which base it stands on",
    ),
    "pickled only": (
        document("a/b", ("pytorch_lora_weights.bin",), tags=["lora"], cardData={"base_model": SDXL}),
        "only .safetensors",
    ),
    "pickled only, known by the file's name alone": (
        document("a/b", ("pytorch_lora_weights.bin",), cardData={"base_model": SDXL}),
        "only .safetensors",
    ),
    "no weights": (document("a/b", (), tags=["lora"], cardData={"base_model": SDXL}), "no .safetensors"),
    "language adapter": (
        document(
            "a/b",
            ("adapter_model.safetensors", "adapter_config.json"),
            library_name="peft",
            tags=["lora", "base_model:adapter:meta-llama/Llama-3.1-8B"],
            config={"peft": {"base_model_name_or_path": "meta-llama/Llama-3.1-8B", "task_type": "CAUSAL_LM"}},
        ),
        "language model",
    ),
    "language adapter by library": (
        document(
            "a/b",
            ("adapter_model.safetensors",),
            library_name="transformers",
            tags=["lora"],
            cardData={"base_model": "openai/whisper-small"},
        ),
        "language model",
    ),
    "language adapter by pipeline": (
        document(
            "a/b",
            ("adapter_model.safetensors",),
            library_name="peft",
            pipeline_tag="text-generation",
            tags=["lora"],
            cardData={"base_model": "mistralai/Mistral-7B-v0.1"},
        ),
        "language model",
    ),
    "ControlNet that the Hub relates as an adapter": (
        document(
            "xinsir/controlnet-openpose",
            ("diffusion_pytorch_model.safetensors", "config.json"),
            tags=["diffusers", "controlnet", f"base_model:adapter:{SDXL}"],
        ),
        "ControlNet",
    ),
    "ControlNet by class": (
        document(
            "a/b",
            ("diffusion_pytorch_model.safetensors",),
            config={"diffusers": {"_class_name": "ControlNetModel"}},
        ),
        "ControlNet",
    ),
    "textual inversion": (
        document("sd-concepts-library/cat", ("learned_embeds.safetensors",), tags=["textual_inversion"]),
        "textual inversion",
    ),
    "IP-Adapter": (document("h94/IP-Adapter", ("models/x.safetensors",), tags=["ip-adapter"]), "IP-Adapter"),
    "GGUF files of a base": (
        document(
            "city96/FLUX.1-dev-gguf",
            ("flux1-dev-Q4_K_S.gguf", "README.md"),
            library_name="gguf",
            pipeline_tag="text-to-image",
            tags=["gguf", "text-to-image", "base_model:quantized:black-forest-labs/FLUX.1-dev"],
        ),
        "a model in GGUF files",
    ),
    "a VAE": (
        document(
            "stabilityai/sd-vae-ft-mse",
            ("diffusion_pytorch_model.safetensors",),
            library_name="diffusers",
            config={"diffusers": {"_class_name": "AutoencoderKL"}},
        ),
        "neither an adapter",
    ),
    "an empty repository": (document("a/b"), "neither an adapter"),
}


@pytest.mark.parametrize(("found", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_cannot_be_served_is_told_why(found, reason):
    refused = verdict(found)

    assert isinstance(refused, Unsupported)
    assert reason in refused.reason


IMAGE_SIGNS = {
    "library": {"library_name": "diffusers"},
    "tag": {"tags": ["lora", "stable-diffusion"]},
    "pipeline to images": {"pipeline_tag": "image-to-image"},
    "pipeline to videos": {"pipeline_tag": "text-to-video"},
}


@pytest.mark.parametrize("sign", IMAGE_SIGNS.values(), ids=IMAGE_SIGNS)
def test_one_sign_of_images_outweighs_those_of_a_language_adapter(sign):
    language = document(
        "a/b",
        (WEIGHTS,),
        tags=["lora"],
        config={"peft": {"base_model_name_or_path": SDXL, "task_type": "FEATURE_EXTRACTION"}},
    )

    assert isinstance(verdict(language), Unsupported)
    assert isinstance(verdict({**language, **sign}), LoraAdapter)


FULL = {
    "a base": BASE,
    "by file": document("a/b", ("model_index.json",)),
    "by class": document("a/b", config={"diffusers": {"_class_name": "FluxPipeline"}}),
    "by computed tag": document("a/b", tags=["diffusers:StableDiffusionPipeline"]),
    "a merged checkpoint tagged lora": document(
        "a/b", ("model_index.json", WEIGHTS), tags=["lora"], cardData={"base_model": SDXL}
    ),
}


@pytest.mark.parametrize("found", FULL.values(), ids=FULL)
def test_a_pipeline_is_a_full_model(found):
    assert isinstance(verdict(found), FullModel)


def test_several_bases_are_kept_in_their_order():
    adapter = verdict(
        document("a/b", (WEIGHTS,), tags=["lora"], cardData={"base_model": ["x/one", "x/two", "x/one"]})
    )

    assert isinstance(adapter, LoraAdapter)
    assert adapter.bases == ("x/one", "x/two")


def test_several_weight_files_leave_the_choice_open():
    adapter = verdict(
        document(
            "a/b", ("2step.safetensors", "4step.safetensors"), tags=["lora"], cardData={"base_model": SDXL}
        )
    )

    assert isinstance(adapter, LoraAdapter)
    assert adapter.weight_name is None
    assert adapter.weight_files == ("2step.safetensors", "4step.safetensors")


@pytest.mark.parametrize("restriction", [{"gated": "auto"}, {"gated": "manual"}, {"private": True}])
def test_gated_and_private_adapters_are_restricted(restriction):
    adapter = verdict({**PIXEL_ART, **restriction})

    assert isinstance(adapter, LoraAdapter)
    assert adapter.restricted


def test_a_public_adapter_is_not_restricted():
    adapter = verdict(PIXEL_ART)

    assert isinstance(adapter, LoraAdapter)
    assert not adapter.restricted


EMB = "style_emb.safetensors"
EVIDENCE = {
    "its words": ((WEIGHTS, "style.safetensors", EMB), f"learned words: {EMB}, for prompts that say <s0>"),
    "words of other weights": (
        ("a.safetensors", "b.safetensors", "a_emb.safetensors", WEIGHTS, EMB),
        f"learned words: a_emb.safetensors, {EMB}; names do not tell",
    ),
    "words of weights that have to be chosen": (
        ("a.safetensors", "a_emb.safetensors", "b.safetensors"),
        "learned words: a_emb.safetensors, by the weights that a request names",
    ),
    "words alone": ((EMB,), "weights: none but learned words"),
    "several files": (("a.safetensors", "b.safetensors"), "weights: several files, none of a standard name"),
    "one that training left": (("checkpoint-10.safetensors",), "weights: perhaps checkpoint-10.safetensors"),
}


@pytest.mark.parametrize(("files", "evidence"), EVIDENCE.values(), ids=EVIDENCE)
def test_weights_and_the_learned_words_beside_them_are_part_of_the_evidence(files, evidence):
    adapter = verdict(document("a/b", files, tags=["lora"], cardData={"base_model": SDXL}))

    assert isinstance(adapter, LoraAdapter)
    assert any(each.startswith(evidence) for each in adapter.evidence), adapter.evidence


def test_without_learned_words_the_evidence_says_nothing_of_them():
    adapter = verdict(PIXEL_ART)

    assert isinstance(adapter, LoraAdapter)
    assert not any("words" in each for each in adapter.evidence)
