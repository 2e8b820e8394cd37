"""Pivotal tuning in two files: a LoRA, and beside it the words that it was trained with and that prompts say.

The words here are the base's own vectors for a LoRA's trigger words under other names, so that a prompt with
them has to give the very picture that a prompt with the trigger words gives.
"""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from deploy import plan
from deploy.embedded_valkey import EmbeddedValkey
from deploy.ports import free_ports
from tests.e2e.client import Client
from tests.e2e.processes import clean_environ, started_specs

BASE = "warmbase/shapes-xl"
OUTLINE = "warmbase/outline"
FILE, KOHYA, WORDS = "pytorch_lora_weights.safetensors", "outline.safetensors", "outline_emb.safetensors"
TRIGGER = "outline style"
SUBJECT = ", a red circle on a white background"
CARD = f"---\nbase_model: {BASE}\ntags: [lora, diffusers]\n---\n"
ALICE = "hf_alice"


def tokens(encoder: str) -> list[int]:
    tokenizer = CLIPTokenizer.from_pretrained(plan.DEMO_REPOSITORIES / BASE / f"tokenizer{encoder}")
    return tokenizer(TRIGGER, add_special_tokens=False).input_ids


LEARNED = "".join(f"<s{number}>" for number, _ in enumerate(tokens("")))
"""The trigger words as the words file calls them."""


def write_words(path: Path, *encoders: str) -> None:
    """Write the base's vectors for the trigger words, as diffusers' training scripts write learned ones."""
    rows = {}
    for name, encoder in zip(("clip_l", "clip_g"), encoders, strict=False):
        weights = load_file(plan.DEMO_REPOSITORIES / BASE / f"text_encoder{encoder}" / "model.safetensors")
        (key,) = (key for key in weights if key.endswith("token_embedding.weight"))
        rows[name] = weights[key][tokens(encoder)].clone()
    save_file(rows, path)


def write_adapter(folder: Path, *names: str, settings: str = "") -> None:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / ".hub.yaml").write_text(settings)
    for name in names:
        if name.endswith(("_emb.safetensors", ".pti")):
            write_words(folder / name, "", "_2")
        else:
            shutil.copy(plan.DEMO_REPOSITORIES / OUTLINE / FILE, folder / name)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedValkey) -> Iterator[Client]:
    """A client of a router and a worker, and a Hub with repositories that bring words of their own."""
    root, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("home")
    for repo in (BASE, OUTLINE):
        shutil.copytree(plan.DEMO_REPOSITORIES / repo, root / repo)
    write_adapter(root / "house" / "outline", FILE, KOHYA, WORDS)
    write_adapter(root / "house" / "replicate", "lora.safetensors", "embeddings.pti")
    write_adapter(root / "alice" / "outline", FILE, WORDS, settings="private: true\nallowed_users: [alice]\n")
    write_adapter(root / "house" / "two", FILE, "a_emb.safetensors", "b_emb.safetensors")
    write_adapter(root / "house" / "words", WORDS)
    write_adapter(root / "house" / "of-sd", FILE)
    write_words(root / "house" / "of-sd" / WORDS, "")
    (root / ".hub-tokens.yaml").write_text(f"{ALICE}: alice\n")

    hub_port, router_port, worker_port = free_ports(3)
    machine = plan.Machine(environ=clean_environ(), cores=2, demo_home=home, secret="secret")
    options = plan.UpOptions(
        demo=True,
        bases=(BASE,),
        redis_url=redis_server.url,
        host=plan.LOOPBACK,
        port=router_port,
        device=None,
        dtype=None,
        verbose=False,
    )
    common = plan.common_environ(machine, redis_server.url, plan.local_url(plan.LOOPBACK, hub_port))
    hub = plan.hub_child(machine, hub_port)
    argv = [str(root) if part == str(plan.DEMO_REPOSITORIES) else part for part in hub.argv]
    with started_specs() as start:
        start(replace(hub, argv=tuple(argv)))
        start(
            plan.router_child(options, common, router_port),
            *plan.worker_children(options, common, (worker_port,), cores=2),
        )
        yield Client(plan.local_url(plan.LOOPBACK, router_port))


@pytest.fixture(scope="module")
def wanted(client: Client) -> bytes:
    """The picture of the trigger words."""
    return pixels(client.draw(OUTLINE, TRIGGER + SUBJECT).picture)


def pixels(picture: bytes) -> bytes:
    """Return what is to be seen: the file also says what it was drawn with."""
    return Image.open(io.BytesIO(picture)).tobytes()


def ran(answer):
    return [
        (each["weight_name"], each["scale"]) for each in json.loads(answer.headers["x-warmbase-adapters"])
    ]


@pytest.mark.parametrize("repo", ["house/outline", "house/replicate"])
def test_learned_words_mean_what_they_were_learned_for(client, wanted, repo):
    answer = client.draw(repo, LEARNED + SUBJECT)

    assert pixels(answer.picture) == wanted
    assert "x-warmbase-warning" not in answer.headers
    assert pixels(client.draw(OUTLINE, LEARNED + SUBJECT).picture) != wanted, (
        "without their file they mean nothing"
    )


def test_the_answer_names_both_files_and_their_digests(client, wanted):
    first, again = (client.draw("house/outline", LEARNED + SUBJECT, lora_scale=0.9) for _ in range(2))

    assert ran(first) == [(FILE, 0.9), (WORDS, 0.9)]
    digests = {each["sha256"] for each in json.loads(first.headers["x-warmbase-adapters"])}
    assert len(digests) == 2
    assert first.headers["x-warmbase-digest"] == again.headers["x-warmbase-digest"]
    assert first.headers["x-warmbase-adapters"] == again.headers["x-warmbase-adapters"]


def test_a_prompt_without_them_needs_the_weights_alone(client, wanted):
    answer = client.draw("house/outline", TRIGGER + SUBJECT)

    assert pixels(answer.picture) == wanted
    assert ran(answer) == [(FILE, 1.0)]


def test_at_strength_zero_the_words_mean_nothing(client):
    answer = client.draw("house/outline", LEARNED + SUBJECT, lora_scale=0)

    assert pixels(answer.picture) == pixels(client.draw(BASE, LEARNED + SUBJECT).picture)


def test_what_the_repository_is_says_so(client):
    view = json.loads(client.get("/models/house/outline").body)

    assert f"learned words: {WORDS}, for prompts that say <s0>, <s1> and so on" in view["evidence"]
    assert view["weight_name"] == FILE


def test_a_private_adapters_words_are_opened_by_its_callers_token(client, wanted):
    assert pixels(client.draw("alice/outline", LEARNED + SUBJECT, token=ALICE).picture) == wanted
    assert client.draw("alice/outline", LEARNED + SUBJECT).status == 404


def test_words_that_several_files_may_hold_have_to_be_named(client, wanted):
    refused = client.draw("house/two", LEARNED + SUBJECT)
    assert refused.status == 422
    assert "house/two/a_emb.safetensors, house/two/b_emb.safetensors" in refused.error

    named = [{"model": "house/two", "weight_name": "b_emb.safetensors"}]
    assert pixels(client.draw("house/two", LEARNED + SUBJECT, loras=named).picture) == wanted


def test_words_of_another_base_are_refused_by_name(client):
    refused = client.draw("house/of-sd", LEARNED + SUBJECT)

    assert refused.status == 422
    assert WORDS in refused.error
    assert "text encoders are clip_l, clip_g" in refused.error
    assert client.draw("house/of-sd", TRIGGER + SUBJECT).status == 200


def test_words_alone_have_to_be_named(client):
    refused = client.draw("house/words", LEARNED + SUBJECT)
    assert refused.status == 422
    assert WORDS in refused.error

    assert client.draw("house/words", LEARNED + SUBJECT, weight_name=WORDS).status == 200
