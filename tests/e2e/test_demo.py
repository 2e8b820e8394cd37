"""The demo as a person meets it: what it prints works, and adapters of two bases draw what they are for."""

import base64
import io
import json
import shlex
import subprocess

import pytest
from huggingface_hub import InferenceClient
from PIL import Image, ImageChops, ImageDraw, ImageStat

from tests.e2e.client import Client
from tests.e2e.processes import busy_workers, until

PAIRS = [("warmbase/shapes-xl", "warmbase/outline"), ("warmbase/shapes-sd", "warmbase/neon-sd")]


def difference(first, second):
    """The mean difference of two PNGs' pixels, 0 to 255."""
    images = (Image.open(io.BytesIO(data)).convert("RGB") for data in (first, second))
    return sum(ImageStat.Stat(ImageChops.difference(*images)).mean) / 3


def test_the_printed_command_lines_draw_pictures(demo, curl, tmp_path):
    lines = [line.strip() for line in demo.lines if line.startswith("  curl ")]
    assert len(lines) == 2
    for line in lines:
        subprocess.run([curl, "-sS", "--fail", *shlex.split(line)[1:]], cwd=tmp_path, check=True, timeout=240)
        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.format == "PNG"
        (tmp_path / "picture.png").unlink()


@pytest.mark.parametrize(("base", "adapter"), PAIRS)
def test_an_adapter_changes_the_picture_and_the_base_comes_back(client, base, adapter):
    bare = client.draw(base).picture
    styled = client.draw(adapter).picture
    assert difference(bare, styled) > 4
    assert client.draw(base).picture == bare
    assert client.draw(adapter).picture == styled


@pytest.mark.parametrize(("base", "adapter"), PAIRS)
def test_the_answer_says_what_ran(client, base, adapter):
    answer = client.draw(adapter, seed=5)
    assert answer.headers["x-warmbase-base"] == base
    assert answer.headers["x-warmbase-seed"] == "5"
    (ran,) = json.loads(answer.headers["x-warmbase-adapters"])
    assert ran["repo"] == adapter
    assert answer.headers["x-warmbase-commit"] == ran["revision"]
    assert answer.headers["x-request-id"]


def test_seeds_and_strengths_matter(client):
    pictures = [
        client.draw("warmbase/outline", **parameters).picture
        for parameters in ({}, {"seed": 2}, {"lora_scale": 0.5})
    ]
    assert len(set(pictures)) == 3


def test_an_adapter_at_strength_zero_draws_what_the_base_draws(client):
    bare = client.draw("warmbase/shapes-xl").picture
    assert difference(client.draw("warmbase/outline", lora_scale=0).picture, bare) == 0


def test_several_adapters_are_drawn_together(client):
    both = [{"model": "warmbase/stripes", "scale": 0.8}]
    picture = client.draw("warmbase/outline", loras=both).picture
    assert picture != client.draw("warmbase/outline").picture
    assert picture != client.draw("warmbase/stripes").picture


@pytest.mark.parametrize(("base", "adapter"), PAIRS)
def test_the_hubs_own_client_needs_only_another_address(demo, client, base, adapter, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    official = InferenceClient(model=f"{demo.url}/models/{adapter}")
    image = official.text_to_image("a red circle on a white background", seed=1, num_inference_steps=4)
    assert image.size == (64, 64)
    ours = Image.open(io.BytesIO(client.draw(adapter).picture))
    assert ImageChops.difference(image.convert("RGB"), ours.convert("RGB")).getbbox() is None


def a_drawn_circle():
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((14, 14, 50, 50), fill="red")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("base", "adapter", "style"), [(*PAIRS[0], "outline style"), (*PAIRS[1], "neon")], ids=["xl", "sd"]
)
def test_a_drawn_circle_is_turned_into_the_adapters_style(client, base, adapter, style):
    circle = a_drawn_circle()

    def draw(model, strength=0.6):
        parameters = {"prompt": f"{style}, a red circle", "strength": strength, "seed": 1}
        body = {"inputs": base64.b64encode(circle).decode(), "parameters": parameters}
        answer = client.post(f"/models/{model}", json.dumps(body).encode())
        assert answer.headers["x-warmbase-strength"] == f"{strength:g}"
        return answer.picture

    before = client.draw(base).picture
    plain, styled = draw(base), draw(adapter)
    assert difference(plain, styled) > 4
    assert difference(draw(adapter, 0.2), circle) < difference(draw(adapter, 0.9), circle)
    assert draw(adapter) == styled
    assert client.draw(base).picture == before


def test_the_hubs_own_client_sends_a_picture_and_gets_one_of_its_size(demo, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    official = InferenceClient(model=f"{demo.url}/models/warmbase/outline")
    prompt = "outline style, a red circle on a white background"
    image = official.image_to_image(a_drawn_circle(), prompt=prompt, strength=0.6, seed=1)
    assert image.size == (64, 64)
    large = official.image_to_image(a_drawn_circle(), prompt=prompt, target_size={"width": 96, "height": 64})
    assert large.size == (96, 64)


def test_it_is_healthy_and_ready(client):
    assert client.get("/health").status == 200
    assert client.get("/ready").status == 200


def test_a_picture_under_way_is_still_answered_when_all_is_stopped(start_up, tmp_path, in_background):
    up = start_up("--demo", "--base", "warmbase/shapes-xl", XDG_CACHE_HOME=str(tmp_path)).ready()
    client = Client(up.url)
    drawn = in_background(client.draw, "warmbase/shapes-xl", num_inference_steps=20)
    until(lambda: busy_workers(up.redis_url), 60, "the job runs")
    up.signal(15)
    assert drawn.result().picture
    assert up.end() == 0
    assert up.survivors() == []
