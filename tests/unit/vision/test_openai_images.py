"""Remote editors: what is sent over the wire by the real SDK, and what comes of the reply."""

from __future__ import annotations

import base64
import io
import json
import sys
from email import message_from_bytes
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from agentfly.errors import ConfigError, MissingExtraError, ToolError
from agentfly.vision.base import EditParams, InpaintParams
from agentfly.vision.openai_images import ImagesSettings, LiteLLMImages, OpenAIImages


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class Server:
    """Answers `/v1/images/edits` with one image, and keeps the parts of each form."""

    def __init__(self, data: Any = None, status: int = 200, body: bytes | None = None) -> None:
        self.data = [{"b64_json": png(Image.new("RGB", (64, 64), (0, 200, 0)))}] if data is None else data
        self.status, self.body = status, body
        self.forms: list[dict[str, bytes]] = []
        self.paths: list[str] = []
        self.images: list[tuple[str, Image.Image]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        form = {}
        for part in message_from_bytes(head + request.read()).walk():
            name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            if isinstance(content, bytes):
                form[str(name)] = content
                if str(name).startswith("image"):
                    self.images.append((str(name), Image.open(io.BytesIO(content))))
        self.forms.append(form)
        self.paths.append(request.url.path)
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": {"message": "not allowed by our policy"}})
        body = self.body or json.dumps({"created": 0, "data": self.data}).encode()
        kind = "text/html" if body.startswith(b"<") else "application/json"
        return httpx2.Response(200, content=body, headers={"content-type": kind})

    def engine(self, **settings: Any) -> OpenAIImages:
        client = openai.AsyncOpenAI(
            api_key="k",
            base_url="http://images.test/v1",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(self)),
        )
        return OpenAIImages(ImagesSettings(model="image-model", **settings), client)


async def test_without_a_model_none_is_sent(noise: Image.Image) -> None:
    server = Server()
    engine = server.engine()
    engine.settings = ImagesSettings()
    await engine.edit(noise, "darken", EditParams())
    assert "model" not in server.forms[0]


async def test_an_edit_sends_image_and_prompt_and_restores_the_size(noise: Image.Image) -> None:
    server = Server()
    edited = await server.engine(fields={"quality": "high"}).edit(
        noise, "make it green", EditParams("blur", 4.0, 20, 7)
    )
    assert (edited.size, edited.getpixel((5, 5))) == (noise.size, (0, 200, 0))
    form = server.forms[0]
    assert server.paths == ["/v1/images/edits"]
    assert form.keys() == {"model", "prompt", "image", "quality"}
    assert (form["model"], form["quality"]) == (b"image-model", b"high")
    assert form["prompt"] == b"make it green\nAvoid: blur"
    assert Image.open(io.BytesIO(form["image"])).convert("RGB").tobytes() == noise.tobytes()


async def test_several_images_are_repeated_fields_in_their_order(noise: Image.Image) -> None:
    server, tall = Server(), Image.new("RGBA", (10, 40), (255, 0, 0, 128))
    engine = server.engine()
    edited = await engine.edit_images([noise, tall, noise], "wear the hat of image 2", EditParams())
    assert edited.size == noise.size
    assert [name for name, _ in server.images] == ["image[]"] * 3
    sent = [image.tobytes() for _, image in server.images]
    assert sent == [noise.tobytes(), tall.tobytes(), noise.tobytes()]
    assert engine.max_images == 16


async def test_servers_that_take_settings_get_them_as_fields(noise: Image.Image) -> None:
    server = Server()
    await server.engine(send_settings=True).edit(noise, "green", EditParams("blur", 4.0, None, 7))
    form = server.forms[0]
    assert {name: form[name] for name in form.keys() - {"image"}} == {
        "model": b"image-model",
        "prompt": b"green",
        "negative_prompt": b"blur",
        "true_cfg_scale": b"4.0",
        "seed": b"7",
    }


async def test_an_inpainting_sends_a_mask_that_is_transparent_where_it_may_change(
    noise: Image.Image, soft_mask: Image.Image
) -> None:
    server = Server()
    painted = await server.engine().inpaint(noise, soft_mask, "", InpaintParams())
    sent = Image.open(io.BytesIO(server.forms[0]["mask"]))
    assert (sent.mode, sent.size) == ("RGBA", noise.size)
    alpha, grey = np.asarray(sent.getchannel("A")), np.asarray(soft_mask)
    assert (alpha[grey == 255] == 0).all()
    assert (alpha[grey == 0] == 255).all()
    assert server.forms[0]["prompt"].startswith(b"Remove what is in the masked area")
    before, after = np.asarray(noise), np.asarray(painted)
    assert (after[grey == 0] == before[grey == 0]).all()
    assert (after[grey == 255] == (0, 200, 0)).all()


async def test_faults_are_told_apart(noise: Image.Image) -> None:
    for status, kind, message in (
        (400, ToolError, "refuses this request: .*not allowed by our policy"),
        (401, ConfigError, "refuses the key"),
        (404, ConfigError, "check model and base_url"),
        (429, ToolError, "try again later"),
        (500, ToolError, "did not answer"),
    ):
        with pytest.raises(kind, match=message):
            await Server(status=status).engine().edit(noise, "green", EditParams())


async def test_nobody_at_the_address(noise: Image.Image) -> None:
    client = openai.AsyncOpenAI(api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=0)
    engine = OpenAIImages(ImagesSettings(model="image-model"), client)
    with pytest.raises(ToolError, match="check its address, and that it runs"):
        await engine.edit(noise, "green", EditParams())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "sent no image"),
        ([{}], "sent no image"),
        ([None], "sent no image"),
        ({}, "sent no image"),
        ([{"b64_json": 5}], "sent no image"),
        ([{"b64_json": "aGVsbG8="}], "cannot be read"),
        ([{"b64_json": "\ud800"}], "cannot be read"),
        ([{"url": "ftp://images.test/image.png"}], "cannot be read"),
        (["<html>"], "cannot be read"),
    ],
)
async def test_a_reply_without_an_image_is_an_observation(noise: Image.Image, data: Any, message: str) -> None:
    with pytest.raises(ToolError, match=f"the image model image-model .*{message}"):
        await Server(data).engine().edit(noise, "green", EditParams())


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"null", b"[]", b'"image"', b"7"])
async def test_a_body_of_another_form_is_an_observation(noise: Image.Image, body: bytes) -> None:
    with pytest.raises(ToolError, match="the image model image-model sent no list of images: check that base_url"):
        await Server(body=body).engine().edit(noise, "green", EditParams())


async def test_an_error_in_a_reply_of_status_200_names_its_reason(noise: Image.Image) -> None:
    body = json.dumps({"error": {"message": "out of credits", "code": 402}}).encode()
    with pytest.raises(ToolError, match="out of credits"):
        await Server(body=body).engine().edit(noise, "x", EditParams())


async def test_a_path_in_the_reply_is_not_opened_here(noise: Image.Image, tmp_path: Path) -> None:
    noise.save(tmp_path / "secret.png")
    with pytest.raises(ToolError, match="local files are not read"):
        await Server([{"url": str(tmp_path / "secret.png")}]).engine().edit(noise, "green", EditParams())


async def test_transparent_parts_of_a_reply_are_white_and_show_no_hidden_colour(noise: Image.Image) -> None:
    hidden = Server([{"b64_json": png(Image.new("RGBA", noise.size, (255, 0, 0, 0)))}])
    edited = await hidden.engine().edit(noise, "cut it out", EditParams())
    assert (edited.mode, edited.getpixel((5, 5))) == ("RGB", (255, 255, 255))
    everything = Image.new("L", noise.size, 255)
    painted = await hidden.engine().inpaint(noise, everything, "cut it out", InpaintParams())
    assert painted.getpixel((5, 5)) == (255, 255, 255)


async def test_an_address_in_the_reply_is_not_followed_into_the_private_network(noise: Image.Image) -> None:
    with pytest.raises(ToolError, match="cannot be read"):
        await Server([{"url": "http://127.0.0.1:9/image.png"}]).engine().edit(noise, "green", EditParams())


async def test_a_mask_of_another_size_is_an_observation(noise: Image.Image) -> None:
    with pytest.raises(ToolError, match="the mask is 5x5"):
        await Server().engine().inpaint(noise, Image.new("L", (5, 5)), "cat", InpaintParams())


def test_litellm_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[litellm\]"):
        LiteLLMImages(ImagesSettings(model="vendor/model"))


async def test_litellm_gets_the_same_request(monkeypatch: pytest.MonkeyPatch, noise: Image.Image) -> None:
    given: dict[str, Any] = {}
    litellm = ModuleType("litellm")

    async def aimage_edit(**arguments: Any) -> Any:
        given.update(arguments)
        return openai.types.ImagesResponse(created=0, data=[openai.types.Image(b64_json=png(noise))])

    vars(litellm)["aimage_edit"] = aimage_edit
    monkeypatch.setitem(sys.modules, "litellm", litellm)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    engine = LiteLLMImages(ImagesSettings(model="vendor/model", endpoint={"timeout": 30.0}))
    edited = await engine.edit(noise, "green", EditParams("blur"))
    assert edited.tobytes() == noise.tobytes()
    assert (given["model"], given["prompt"], given["timeout"]) == ("vendor/model", "green\nAvoid: blur", 30.0)
    # litellm 1.110 fails on a file with a name: it takes the tuple for the content.
    assert Image.open(io.BytesIO(given["image"])).tobytes() == noise.tobytes()
    await engine.edit_images([noise, noise], "hat", EditParams())
    assert [Image.open(io.BytesIO(content)).size for content in given["image"]] == [noise.size] * 2
    await engine.inpaint(noise, Image.new("L", noise.size, 255), "hat", InpaintParams())
    assert Image.open(io.BytesIO(given["mask"])).mode == "RGBA"
