"""Requests and replies: OpenAI's own client, the documented JSON body, uploads, detections; status for operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageDraw

from agentfly.serving.image_server import UploadLimits
from agentfly.serving.image_server.http.images import Coder
from tests.unit.serving.image_server.running import PUPPET, Running, as_text, from_text, plain, png, running
from tests.values import pixel


@pytest.fixture(scope="module")
def puppet() -> Iterator[Running]:
    with running(**PUPPET, workers=2) as server:
        yield server


@pytest.fixture(scope="module")
def classical() -> Iterator[Running]:
    with running(model_type="classical") as server:
        yield server


@pytest.fixture
def client(puppet: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{puppet.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def sticker() -> Image.Image:
    image = Image.new("RGB", (160, 120), (120, 140, 120))
    ImageDraw.Draw(image).ellipse((40, 30, 90, 80), fill=(220, 20, 30), outline="white", width=4)
    return image


def test_openai_client_edits_one_image(client: openai.OpenAI) -> None:
    reply = client.images.edit(image=("a.png", png(plain())), prompt="invert", model="whatever", quality="high")
    assert reply.data is not None
    assert from_text(reply.data[0].b64_json or "").getpixel((0, 0)) == (55, 225, 215)


def test_openai_client_sends_a_mask_a_size_and_our_own_fields(client: openai.OpenAI) -> None:
    mask = Image.new("RGBA", (16, 12), (0, 0, 0, 0))
    reply = client.images.edit(
        image=png(plain()),
        mask=png(mask),
        prompt="invert",
        size="1024x1024",
        output_format="jpeg",
        extra_body={"seed": 3, "strength": 0.5, "negative_prompt": "blurry", "num_inference_steps": 4},
    )
    assert reply.data is not None
    image = from_text(reply.data[0].b64_json or "")
    assert (image.size, image.format) == ((1024, 1024), "JPEG")


def test_openai_client_makes_several_images_each_with_its_seed(client: openai.OpenAI) -> None:
    reply = client.images.generate(prompt="a cat", n=3, size="64x32", extra_body={"seed": 7})
    assert reply.data is not None
    images = [from_text(item.b64_json or "") for item in reply.data]
    assert [image.size for image in images] == [(64, 32)] * 3
    assert [image.getpixel((0, 0)) for image in images] == [(0, 0, 7), (0, 0, 8), (0, 0, 9)]


def test_openai_client_gets_errors_it_understands(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Did you mean 'num_inference_steps'"):
        client.images.edit(image=png(plain()), prompt="x", extra_body={"num_inference_step": 4})
    with pytest.raises(openai.UnprocessableEntityError, match="try another prompt"):
        client.images.edit(image=png(plain()), prompt="refuse")


def test_documented_json_body(puppet: Running) -> None:
    fields: dict[str, Any] = {
        "negative_prompt": "",
        "true_cfg_scale": 4.0,
        "num_inference_steps": 8,
        "seed": 5,
        "timeout": 30,
    }
    reply = puppet.edit("invert", **fields).json()
    assert from_text(reply["image"]).getpixel((0, 0)) == (55, 225, 215)
    assert (reply["seed"], reply["engine"]) == (5, "puppet")


def test_data_uri_is_an_image(puppet: Running) -> None:
    body = {"prompt": "invert", "image": f"data:image/png;base64,{as_text(plain())}"}
    assert httpx.post(f"{puppet.url}/v1/images/edits", json=body).status_code == 200


def test_upload_replies_as_the_json_body_does(puppet: Running) -> None:
    reply = httpx.post(
        f"{puppet.url}/v1/images/edits/upload", files={"image": ("p.png", png(plain()))}, data={"prompt": "invert"}
    )
    assert from_text(reply.json()["image"]).size == (16, 12)


def test_a_seed_that_nobody_gave_is_told(puppet: Running) -> None:
    seeds = {puppet.edit("invert").json()["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_detections(classical: Running) -> None:
    reply = httpx.post(
        f"{classical.url}/v1/detections",
        files={"image": png(sticker())},
        data={"prompt": "red circle", "box_threshold": "0.3"},
    ).json()
    (found,) = reply["data"]
    assert found["label"] == "red circle"
    assert found["box"] == pytest.approx([40, 30, 91, 81], abs=5)
    assert from_text(found["mask"]).size == (160, 120)
    bare = {"prompt": "red circle", "image": as_text(sticker()), "masks": False}
    assert "mask" not in httpx.post(f"{classical.url}/v1/detections", json=bare).json()["data"][0]


def test_nothing_found_is_no_error(classical: Running) -> None:
    body = {"prompt": "red circle", "image": as_text(sticker()), "box_threshold": 0.99}
    reply = httpx.post(f"{classical.url}/v1/detections", json=body).json()
    assert reply["data"] == []
    assert 0.5 < reply["best_rejected"] < 0.99


def test_real_inpainting_keeps_what_the_mask_keeps(classical: Running) -> None:
    image, mask = sticker(), Image.new("L", (160, 120), 0)
    mask.paste(255, (30, 20, 100, 90))
    files = {"image": png(image), "mask": png(mask)}
    reply = httpx.post(f"{classical.url}/v1/images/edits", files=files, data={"prompt": ""}).json()
    result = from_text(reply["data"][0]["b64_json"])
    assert result.crop((110, 0, 160, 120)).tobytes() == image.crop((110, 0, 160, 120)).tobytes()
    assert max(pixel(result, (65, 55))) < 180


def test_what_the_model_cannot_do_is_refused_with_what_it_can(classical: Running, puppet: Running) -> None:
    reply = httpx.post(f"{classical.url}/v1/images/generations", json={"prompt": "a cat"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "operation_not_offered")
    assert "detect, edit, inpaint" in reply.json()["error"]["message"]
    reply = puppet.edit("unavailable")
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "engine_unavailable")


def test_strength_without_a_mask_is_refused_rather_than_ignored(puppet: Running) -> None:
    assert puppet.edit("invert", strength=0.5).json()["error"]["param"] == "strength"


def test_faults_of_the_engine_tell_clients_nothing(puppet: Running) -> None:
    reply = puppet.edit("break")
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text


def test_models_and_health(classical: Running) -> None:
    (model,) = httpx.get(f"{classical.url}/v1/models").json()["data"]
    assert (model["id"], model["owned_by"]) == ("classical", "agentfly")
    assert (model["capabilities"], model["max_images"]) == (["detect", "edit", "inpaint"], 1)
    assert model["slots"] == 2
    health = httpx.get(f"{classical.url}/health")
    assert (health.status_code, health.json()) == (200, {"status": "ready", "workers": ["ready"]})


def test_gpu_status_and_metrics_count(puppet: Running) -> None:
    puppet.edit("invert")
    workers = httpx.get(f"{puppet.url}/gpu/status").json()["workers"]
    assert sum(worker["finished"] for worker in workers) >= 1
    assert len({worker["pid"] for worker in workers}) == 2
    text = httpx.get(f"{puppet.url}/metrics").text
    assert 'agentfly_image_requests_total{operation="edit",status="200"}' in text
    assert 'agentfly_image_workers{state="ready"} 2.0' in text
    assert 'agentfly_image_request_seconds_bucket{le="+Inf",operation="edit"}' in text


def test_docs_describe_the_fields(puppet: Running) -> None:
    assert httpx.get(f"{puppet.url}/docs").status_code == 200
    paths = httpx.get(f"{puppet.url}/openapi.json").json()["paths"]
    form = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"image", "images", "mask", "prompt", "n", "size", "seed", "true_cfg_scale"} <= form["properties"].keys()


def test_other_formats(puppet: Running) -> None:
    assert from_text(puppet.edit("invert", output_format="webp").json()["image"]).format == "WEBP"


async def test_jpeg_of_a_transparent_image_is_on_white() -> None:
    text = await Coder(UploadLimits()).encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "jpeg")
    assert from_text(text).getpixel((1, 1)) == (255, 255, 255)
