"""The requests to each kind of server, and the reading of their replies."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.images import to_base64
from agentfly.vision.base import EditParams, Engines, InpaintParams, edit_images
from agentfly.vision.factory import make_engines
from agentfly.vision.remote import NodeConfig, remote_engines
from agentfly.vision.remote.adapters import (
    BadReply,
    Operation,
    adapter_of,
    encode_mask,
    read_detections,
    read_image,
)
from tests.unit.vision.remote.fake_node import FakeNode, answer, make_image, status
from tests.values import pixel

EVERYTHING = EditParams(negative_prompt="blur", true_cfg_scale=4.5, num_inference_steps=8, seed=3)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def half_mask(size: tuple[int, int] = (8, 6)) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


async def asked(node: FakeNode, config: NodeConfig | None = None) -> dict[str, Any]:
    engines = remote_engines([config or node.address], timeout=10)
    await engines.editor.edit(make_image(), "make it blue", EVERYTHING)
    await engines.close()
    return node.forms[-1]


async def test_our_own_server_gets_every_setting_and_the_time_left() -> None:
    with FakeNode().up() as node:
        form = await asked(node)
    assert form.pop("image")[:4] == b"\x89PNG"
    assert 0 < float(form.pop("timeout")) <= 10
    assert form == {
        "prompt": "make it blue",
        "negative_prompt": "blur",
        "true_cfg_scale": "4.5",
        "num_inference_steps": "8",
        "seed": "3",
    }


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
async def test_vllm_omni_and_sglang_are_recognised_and_get_no_timeout(owner: str) -> None:
    with FakeNode(owner).up() as node:
        form = await asked(node)
    assert "timeout" not in form
    assert (form["num_inference_steps"], form["seed"]) == ("8", "3")


async def test_openai_gets_the_prompt_and_its_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_KEY", "sk-1")
    with FakeNode("somebody").up() as node:
        form = await asked(node, NodeConfig(node.url, "openai", model="image-model", api_key_env="CLOUD_KEY"))
    assert form.keys() == {"prompt", "model", "image"}
    assert form["model"] == "image-model"
    assert node.keys == ["Bearer sk-1"]


async def test_a_key_that_a_server_repeats_is_not_in_the_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_KEY", "sk-abcdef\n")
    with FakeNode("agentfly").up() as node:
        node.script.append(status(400, "no sk-abcdef here"))
        with pytest.raises(ToolError, match=r"no \*\*\* here"):
            await asked(node, NodeConfig(node.url, api_key_env="CLOUD_KEY"))


async def inpainted(node: FakeNode, config: NodeConfig) -> tuple[Image.Image, dict[str, Any]]:
    engines = remote_engines([config], timeout=10)
    image = await engines.inpainter.inpaint(make_image((9, 9, 9)), half_mask(), "cat", InpaintParams(strength=0.5))
    await engines.close()
    return image, node.forms[-1]


async def test_masks_are_white_for_us_and_for_vllm_omni_under_its_name() -> None:
    with FakeNode().up() as node:
        _, form = await inpainted(node, NodeConfig(node.url))
        assert opened(form["mask"]).tobytes() == half_mask().tobytes()
        assert form["strength"] == "0.5"
        config = NodeConfig(node.url, "vllm-omni", operations=frozenset(("inpaint",)))
        _, form = await inpainted(node, config)
        assert opened(form["mask_image"]).tobytes() == half_mask().tobytes()


async def test_masks_are_transparent_for_openai() -> None:
    with FakeNode("openai").up() as node:
        _, form = await inpainted(node, NodeConfig(node.url, model="m"))
    alpha = opened(form["mask"]).getchannel("A")
    assert (alpha.getpixel((0, 0)), alpha.getpixel((7, 0))) == (0, 255)


async def test_what_a_server_changes_outside_the_mask_is_undone() -> None:
    with FakeNode().up() as node:
        image, _ = await inpainted(node, NodeConfig(node.url))
    assert (image.getpixel((0, 0)), image.getpixel((7, 0))) == ((1, 2, 3), (9, 9, 9))


async def test_sglang_is_never_asked_to_inpaint(stand_in: Engines) -> None:
    with FakeNode("sglang").up() as node:
        engines = remote_engines([node.address], timeout=10, otherwise=stand_in)
        image = await engines.inpainter.inpaint(make_image(), half_mask(), "", InpaintParams())
        await engines.close()
    assert node.forms == []
    assert (image.size, engines.inpainter.name) == ((8, 6), "classical")


@pytest.fixture
def stand_in() -> Engines:
    from agentfly.vision.classical import classical_engines

    return classical_engines()


def test_a_server_that_does_not_tell_is_not_guessed() -> None:
    assert adapter_of({"data": [{"owned_by": "me"}]}) is None
    assert adapter_of({}) is None


def test_masks_of_both_styles_are_each_others_opposite() -> None:
    grey = Image.new("L", (1, 1), 200)
    assert opened(encode_mask(grey, "white")).getpixel((0, 0)) == 200
    assert opened(encode_mask(grey, "transparent")).getpixel((0, 0)) == (200, 200, 200, 55)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"url": "http://x"}]}',
        b'{"data": [{"b64_json": "AAAA"}]}',
        b'{"data": [{"b64_json": null}]}',
        b'{"data": [{"b64_json": 5}]}',
        b'{"data": [{"b64_json": "http://127.0.0.1:9/image.png"}]}',
        b'{"data": ["https://127.0.0.1:9/image.png"]}',
        b'{"data": ["/etc/hostname"]}',
        b'{"data": [null]}',
        b'{"data": null}',
        b"null",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_replies_without_an_image(content: bytes) -> None:
    with pytest.raises(BadReply):
        read_image(content)


@pytest.mark.parametrize("best", ["much", float("nan"), [], int("9" * 400)])
def test_the_best_rejected_score_of_another_form(best: object) -> None:
    with pytest.raises(BadReply):
        read_detections(json.dumps({"data": [], "best_rejected": best}).encode(), (8, 6))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
async def test_hidden_colours_of_a_reply_are_not_painted(mode: str) -> None:
    source = Image.new(mode, (8, 6), (9, 9, 9))
    with FakeNode("openai").up() as node:
        node.script.append(answer(Image.new("RGBA", (8, 6), (255, 0, 0, 0))))
        engines = remote_engines([NodeConfig(node.url, model="m")], timeout=10)
        image = await engines.inpainter.inpaint(source, half_mask(), "cat", InpaintParams())
        await engines.close()
    assert pixel(image, (0, 0))[:3] == (255, 255, 255)
    assert image.getpixel((7, 0)) == source.getpixel((7, 0))


def test_detections_without_masks_are_boxes() -> None:
    reply = {"data": [{"label": "cat", "score": 0.5, "box": [1, 2, 4, 5]}], "best_rejected": 0.2}
    (found,) = detections = read_detections(json.dumps(reply).encode(), (8, 6))
    assert found.mask.getbbox() == found.box == (1, 2, 4, 5)
    assert detections.best_rejected == 0.2


OUTSIDE = ([100, 100, 101, 101], [3, 3, 3, 3], [-5, 0, -1, 4], [0, 0, float("nan"), 1])


@pytest.mark.parametrize("box", OUTSIDE)
def test_an_object_outside_of_the_image_is_left_out_and_the_others_count(box: list[float]) -> None:
    items = [{"label": "dog", "score": 0.9, "box": box}, {"label": "cat", "score": 0.5, "box": [1, 2, 4, 5]}]
    for data in (items, items[::-1]):
        (found,) = read_detections(json.dumps({"data": data}).encode(), (8, 6))
        assert (found.label, found.box) == ("cat", (1, 2, 4, 5))


def test_a_reply_whose_objects_are_all_outside_of_the_image_is_no_answer() -> None:
    data = [{"label": "dog", "score": 0.9, "box": box} for box in OUTSIDE]
    with pytest.raises(BadReply):
        read_detections(json.dumps({"data": data}).encode(), (8, 6))
    assert not read_detections(b'{"data": []}', (8, 6))


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"label": "x", "score": "y", "box": [0, 0, 1, 1]},
        {"label": "x", "score": 1, "box": [0]},
        {"label": "x", "score": 1, "box": [0, 0, float("inf"), 1]},
        {"label": "x", "score": 1, "box": [0, 0, int("9" * 400), 1]},
        {"label": "x", "score": 1, "box": [100, 100, 101, 101]},
        {"label": "x", "score": float("nan"), "box": [0, 0, 1, 1]},
        {"label": "x", "score": 1, "box": [0, 0, 1, 1], "mask": 7},
        {"label": "x", "score": 1, "box": [0, 0, 1, 1], "mask": "http://127.0.0.1:9/mask.png"},
        {"label": "x", "score": 1, "box": [0, 0, 1, 1], "mask": to_base64(Image.new("L", (3, 3)))},
        ["label", "score", "box"],
        "label score box",
        3,
    ],
)
def test_detections_of_another_form(item: Any) -> None:
    with pytest.raises(BadReply):
        read_detections(json.dumps({"data": [item]}).encode(), (8, 6))


@pytest.mark.parametrize(
    ("owner", "operations", "field"),
    [
        ("agentfly", None, "image"),
        ("vllm", frozenset(("edit_images",)), "image"),
        ("sglang", frozenset(("edit_images",)), "image"),
        ("openai", None, "image[]"),
    ],
)
async def test_several_images_go_to_each_kind_of_server_in_their_order(
    owner: str, operations: frozenset[Operation] | None, field: str
) -> None:
    images = [make_image((9, 9, 9)), make_image((8, 8, 8), (3, 4)), make_image((7, 7, 7))]
    with FakeNode(owner, max_images=3).up() as node:
        engines = remote_engines([NodeConfig(node.url, model="m", operations=operations)], timeout=10)
        edited = await edit_images(engines.editor, images, "the hat of image 2", EVERYTHING)
        await engines.close()
    assert edited.size == (8, 6)
    assert [name for name, _ in node.images[0]] == [field] * 3
    assert [pixel(opened(data), (0, 0)) for _, data in node.images[0]] == [(9, 9, 9), (8, 8, 8), (7, 7, 7)]
    assert engines.editor.name == "remote: m"


@pytest.mark.parametrize("said", [None, 1, "many", [3]])
async def test_a_server_that_takes_one_image_is_not_sent_several(said: object) -> None:
    with FakeNode(max_images=said).up() as node:
        engines = remote_engines([node.address], timeout=10)
        with pytest.raises(EngineUnavailable, match="none of these has one; give one image, or paste"):
            await edit_images(engines.editor, [make_image()] * 2, "hat", EVERYTHING)
        await edit_images(engines.editor, [make_image()], "hat", EVERYTHING)
        await engines.close()
    assert len(node.forms) == 1


async def test_of_several_servers_the_one_that_can_is_asked_and_named(tmp_path: Path) -> None:
    with FakeNode().up() as single, FakeNode(max_images=3).up() as several:
        spec = {"cache": {"root": str(tmp_path)}}
        engines = remote_engines([single.address, several.address], timeout=10, otherwise=make_engines(spec))
        for _ in range(3):
            await edit_images(engines.editor, [make_image(), make_image((5, 5, 5))], "hat", EVERYTHING)
        await engines.close()
    assert (len(single.forms), len(several.forms)) == (0, 1)
