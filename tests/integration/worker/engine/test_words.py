"""Learned words: known to prompts while their adapter is active, as diffusers' textual inversion does it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline, StableDiffusionXLPipeline
from torch import Tensor

from tests import adapter_files as files
from tests.integration.worker.engine.conftest import activation, open_engine, params, picture
from tests.integration.worker.engine.test_equals_diffusers import (
    TOLERANCE,
    attention_only,
    pixels,
    reference_pixels,
)
from tests.tiny_families import build
from worker.engine.contract import AdapterFault, Interrupted
from worker.engine.diffusers_engine import DiffusersEngine

WIDTH = 32


def vectors(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def lora(engine: DiffusersEngine) -> dict[str, Tensor]:
    return files.peft(files.random_layers(engine._pipeline, attention_only(engine._pipeline)))


PIVOTAL = {"clip_l": vectors(2), "clip_g": vectors(2, 1)}

FORMS: dict[str, tuple[Mapping[str, Tensor], str, list[str]]] = {
    "pivotal": (PIVOTAL, "a drawing in the style of <s0><s1>", ["<s0>", "<s1>"]),
    "pivotal, by position": (
        {"text_encoders_0": vectors(2), "text_encoders_1": vectors(2, 1)},
        "a <s1> and <s0> circle",
        ["<s0>", "<s1>"],
    ),
    "a bundle of one vector": (
        {"bundle_emb.my-style.clip_l": vectors(1)[0], "bundle_emb.my-style.clip_g": vectors(1, 1)},
        "a circle, my-style",
        ["my-style"],
    ),
    "a bundle of several vectors": (
        {"bundle_emb.mine.clip_l": vectors(3), "bundle_emb.mine.clip_g": vectors(3, 1)},
        "a mine circle",
        ["mine"],
    ),
}


def learn(reference: DiffusionPipeline, rows: Mapping[str, Tensor], tokens: list[str]) -> None:
    """Load the words as the cards of such adapters say, for each encoder in its turn."""
    for number, values in zip(("", "_2"), rows.values(), strict=False):
        embeddings = [each[None] for each in values] if len(tokens) > 1 else [values]
        for token, embedding in zip(tokens, embeddings, strict=True):
            reference.load_textual_inversion(
                embedding,
                token,
                tokenizer=getattr(reference, f"tokenizer{number}"),
                text_encoder=getattr(reference, f"text_encoder{number}"),
            )


@pytest.mark.parametrize("form", FORMS)
def test_the_picture_of_diffusers_textual_inversion(
    xl: DiffusersEngine, reference: StableDiffusionXLPipeline, tmp_path: Path, form: str
) -> None:
    rows, prompt, tokens = FORMS[form]
    path = files.write(tmp_path / "a.safetensors", {**lora(xl), **rows})
    xl.activate([activation(xl.ingest(path))])
    ours = pixels(xl, params(prompt=prompt))

    reference.load_lora_weights(files.write(tmp_path / "lora.safetensors", lora(xl)))
    reference.fuse_lora(components=["unet"])
    learn(reference, rows, tokens)
    theirs = reference_pixels(reference, params(prompt=prompt))
    assert np.abs(ours - theirs).max() <= TOLERANCE

    xl.activate([])
    assert np.abs(pixels(xl, params(prompt=prompt)) - theirs).max() > 10 * TOLERANCE, "the words did nothing"


def test_words_in_a_file_of_their_own_beside_their_adapters(
    xl: DiffusersEngine, reference: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    request = params(prompt="a drawing in the style of <s0><s1>")
    weights = xl.ingest(files.write(tmp_path / "pytorch_lora_weights.safetensors", lora(xl)))
    words = xl.ingest(files.write(tmp_path / "style_emb.safetensors", PIVOTAL))
    alone = xl.activate([activation(weights)])
    without = pixels(xl, request)
    together = xl.activate([activation(weights, 0.8), activation(words, 0.8)])
    assert (together.written, together.restored) == (alone.written, 0), "words write no weight"
    ours = pixels(xl, request)

    reference.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    reference.fuse_lora(components=["unet"], lora_scale=0.8)
    learn(reference, PIVOTAL, ["<s0>", "<s1>"])
    assert np.abs(ours - reference_pixels(reference, request)).max() <= TOLERANCE
    assert np.abs(ours - without).max() > 10 * TOLERANCE, "the words did nothing"

    xl.activate([activation(weights)])
    assert (pixels(xl, request) == without).all()
    xl.activate([activation(weights, 0.0), activation(words, 0.0)])
    off = pixels(xl, request)
    xl.activate([])
    assert (pixels(xl, request) == off).all()


def test_words_alone_are_an_adapter_too(xl: DiffusersEngine, tmp_path: Path) -> None:
    adapter = xl.ingest(files.write(tmp_path / "embeddings.safetensors", PIVOTAL))
    before = picture(xl, prompt="<s0>")
    xl.activate([activation(adapter)])
    assert picture(xl, prompt="<s0>") != before
    xl.activate([])
    assert picture(xl, prompt="<s0>") == before


def test_words_are_gone_after_their_job_however_it_ends(xl: DiffusersEngine, tmp_path: Path) -> None:
    pipeline = xl._pipeline
    own = [pipeline.tokenizer, pipeline.tokenizer_2, pipeline.text_encoder.get_input_embeddings()]
    sizes = [len(pipeline.tokenizer), len(pipeline.tokenizer_2)]
    before = picture(xl, prompt="<s0>")

    def stop(done: int, total: int) -> None:
        raise Interrupted

    xl.activate([activation(xl.ingest(files.write(tmp_path / "a.safetensors", PIVOTAL)))])
    with pytest.raises(Interrupted):
        xl.generate(params(prompt="<s0>"), stop)
    assert all(
        ours is own_one
        for ours, own_one in zip(
            [pipeline.tokenizer, pipeline.tokenizer_2, pipeline.text_encoder.get_input_embeddings()],
            own,
            strict=True,
        )
    )
    assert [len(pipeline.tokenizer), len(pipeline.tokenizer_2)] == sizes
    xl.activate([])
    assert picture(xl, prompt="<s0>") == before


def test_two_adapters_with_one_word_are_refused(xl: DiffusersEngine, tmp_path: Path) -> None:
    first = xl.ingest(files.write(tmp_path / "1.safetensors", PIVOTAL))
    second = xl.ingest(files.write(tmp_path / "2.safetensors", {**lora(xl), **PIVOTAL}))
    with pytest.raises(AdapterFault, match=r"'<s0>' is in tests/adapter/adapter\.safetensors and in"):
        xl.activate([activation(first), activation(second)])
    xl.activate([activation(first), activation(first)])
    xl.activate([])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"clip_l": vectors(2)}, "text encoders are"),
        ({"clip_l": vectors(2), "clip_g": vectors(3)}, "same vectors everywhere"),
        ({"clip_l": torch.ones(2, 7), "clip_g": torch.ones(2, 7)}, "7 numbers"),
        ({"clip_l": torch.ones(2, 2, 2), "clip_g": vectors(2)}, "vectors of shape"),
        ({"clip_l": torch.ones(0, WIDTH), "clip_g": torch.ones(0, WIDTH)}, "vectors of shape"),
        ({"clip_l": torch.ones(1, 0), "clip_g": torch.ones(1, 0)}, "vectors of shape"),
        ({"clip_l": torch.ones(0), "clip_g": torch.ones(0)}, "vectors of shape"),
        ({"clip_l": torch.ones(99, WIDTH), "clip_g": torch.ones(99, WIDTH)}, "vectors of shape"),
        ({"clip_l": vectors(1) * torch.nan, "clip_g": vectors(1)}, "NaN"),
        ({"bundle_emb.a.clip_l": vectors(1), "bundle_emb.a.clip_g": vectors(1)}, "base's own"),
        (
            {"bundle_emb.<|endoftext|>.clip_l": vectors(1), "bundle_emb.<|endoftext|>.clip_g": vectors(1)},
            "own",
        ),
        ({"bundle_emb.two words.clip_l": vectors(1)}, "printable"),
        ({"bundle_emb.w\n.clip_l": vectors(1)}, "printable"),
        ({f"bundle_emb.{'w' * 65}.clip_l": vectors(1)}, "printable"),
        ({"bundle_emb.w.clip_l": vectors(2), "bundle_emb.w_1.clip_l": vectors(1)}, "two of them"),
        ({f"bundle_emb.w{n}.clip_l": vectors(75) for n in range(14)}, "1050 learned tokens are too many"),
    ],
)
def test_words_that_cannot_be_learned_are_refused(
    xl: DiffusersEngine, tmp_path: Path, rows: Mapping[str, Tensor], message: str
) -> None:
    with pytest.raises(AdapterFault, match=message):
        xl.ingest(files.write(tmp_path / "a.safetensors", {**lora(xl), **rows}))


@pytest.mark.parametrize(
    ("rows", "prompt"),
    [
        ({"bundle_emb.mine.string_to_param.*": vectors(2)}, "a mine circle"),
        ({"clip_l": vectors(2)}, "a <s0><s1> circle"),
        ({"text_encoders_0": vectors(2)}, "a <s0><s1> circle"),
    ],
)
def test_sd_learns_words_too(
    sd: DiffusersEngine, tmp_path: Path, rows: Mapping[str, Tensor], prompt: str
) -> None:
    before = picture(sd, prompt=prompt)
    sd.activate([activation(sd.ingest(files.write(tmp_path / "a.safetensors", rows)))])
    assert picture(sd, prompt=prompt) != before
    sd.activate([])
    assert picture(sd, prompt=prompt) == before


def test_words_of_another_base_are_refused_by_name(sd: DiffusersEngine, tmp_path: Path) -> None:
    with pytest.raises(AdapterFault, match=r"'<s0>' has vectors for clip_g, clip_l, this .* are clip_l"):
        sd.ingest(files.write(tmp_path / "style_emb.safetensors", PIVOTAL))


FLUX_WORDS: dict[str, tuple[Mapping[str, Tensor], str, list[str]]] = {
    "CLIP alone": ({"clip_l": vectors(2)}, "a <s0><s1> circle", ["<s0>", "<s1>"]),
    "CLIP and T5": ({"clip_l": vectors(2), "t5": vectors(2, 1)}, "a <s0><s1> circle", ["<s0>", "<s1>"]),
    "a bundle": (
        {"bundle_emb.mine.clip_l": vectors(3), "bundle_emb.mine.t5": vectors(3, 1)},
        "a mine circle",
        ["mine"],
    ),
}


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
@pytest.mark.parametrize("form", FLUX_WORDS)
def test_the_picture_of_diffusers_textual_inversion_on_flux(
    flux: DiffusersEngine, flux_folder: Path, tmp_path: Path, form: str
) -> None:
    rows, prompt, tokens = FLUX_WORDS[form]
    request = params(prompt=prompt, width=64, height=64)
    flux.activate([activation(flux.ingest(files.write(tmp_path / "a_emb.safetensors", rows)))])
    ours = pixels(flux, request)

    reference = FluxPipeline.from_pretrained(flux_folder)
    reference.set_progress_bar_config(disable=True)
    learn(reference, rows, tokens)
    theirs = reference(
        prompt,
        num_inference_steps=request.steps,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= TOLERANCE

    encoder = flux._pipeline.text_encoder_2
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight, "T5 has not got its own back"
    flux.activate([])
    assert np.abs(pixels(flux, request) - ours).max() > TOLERANCE, "the words did nothing"


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
def test_a_base_with_t5_alone_learns_words_for_it_alone(tmp_path: Path) -> None:
    build("ChromaPipeline").save_pretrained(tmp_path / "base")
    chroma = open_engine(tmp_path / "base")
    request = params(prompt="a <s0><s1> circle", width=64, height=64)
    before = pixels(chroma, request)
    chroma.activate([activation(chroma.ingest(files.write(tmp_path / "a.safetensors", {"t5": vectors(2)})))])
    assert np.abs(pixels(chroma, request) - before).max() > TOLERANCE, "the words did nothing"
    with pytest.raises(AdapterFault, match="text encoders are t5"):
        chroma.ingest(files.write(tmp_path / "b.safetensors", {"clip_l": vectors(2), "t5": vectors(2)}))
    chroma.activate([])
    assert (pixels(chroma, request) == before).all()
    chroma.verify()


@pytest.mark.parametrize(
    "rows",
    [PIVOTAL, {"t5": vectors(2)}, {"clip_l": vectors(2), "clip_g": vectors(2), "t5": vectors(2)}],
    ids=["SDXL's", "T5 alone", "of three encoders"],
)
def test_words_for_other_encoders_than_fluxs_are_refused(
    flux: DiffusersEngine, tmp_path: Path, rows: Mapping[str, Tensor]
) -> None:
    with pytest.raises(AdapterFault, match="text encoders are clip_l, t5"):
        flux.ingest(files.write(tmp_path / "a_emb.safetensors", rows))


def test_an_adapter_with_words_is_read_while_one_with_others_is_drawn(
    xl: DiffusersEngine, tmp_path: Path
) -> None:
    here = xl.ingest(files.write(tmp_path / "a.safetensors", {**lora(xl), **PIVOTAL}))
    path = files.write(tmp_path / "b.safetensors", {**lora(xl), "clip_l": vectors(1), "clip_g": vectors(1)})
    wrong = files.write(tmp_path / "c.safetensors", {**lora(xl), "clip_l": torch.ones(1, WIDTH + 1)})
    read: list[object] = []

    def at_step(done: int, _total: int) -> None:
        if done == 1:
            read.append(xl.ingest(path))
            with pytest.raises(AdapterFault):
                xl.ingest(wrong)

    xl.activate([activation(here)])
    # while prompts are encoded, the embedding is another one: then, too, others are read
    with xl._vocabulary.extended(here.words):
        at_step(1, 2)
    xl.generate(params(prompt="a <s0> circle"), at_step)
    assert len(read) == 2
