"""Remote engines against our own server with the embedded engines: the same results as without a server between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.vision.base import Detections, EditParams, InpaintParams, edit_images
from agentfly.vision.cached_engines import cache_stats
from agentfly.vision.classical import classical_engines
from agentfly.vision.factory import make_engines
from agentfly.vision.remote import RemoteEngines, remote_engines
from tests.unit.serving.image_server.running import BANDS, Running, as_text, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(model_type="classical") as server:
        yield server


@pytest.fixture(scope="module")
def puppet() -> Iterator[Running]:
    with running(model_type="custom", model_path="tests.unit.serving.image_server.custom_engines:editor") as server:
        yield server


def remote(server: Running, **settings: Any) -> RemoteEngines:
    host, port = server.url.removeprefix("http://").split(":")
    return remote_engines([(host, int(port))], **{"timeout": 30.0, **settings})


@pytest.fixture
def sticker() -> Image.Image:
    image = Image.new("RGB", (160, 120), (120, 140, 120))
    ImageDraw.Draw(image).ellipse((40, 30, 90, 80), fill=(220, 20, 30), outline="white", width=4)
    return image


async def test_detection_is_the_embedded_one(server: Running, sticker: Image.Image) -> None:
    engines = remote(server)
    thresholds = {"box_threshold": 0.3, "text_threshold": 0.25}
    found = await engines.detector.detect(sticker, "red circle", **thresholds)
    expected = await classical_engines().detector.detect(sticker, "red circle", **thresholds)
    await engines.close()
    assert [(d.label, d.score, d.box) for d in found] == [(d.label, d.score, d.box) for d in expected]
    assert [d.mask.tobytes() for d in found] == [d.mask.tobytes() for d in expected]
    assert engines.detector.name == "remote: classical"


async def test_nothing_found_keeps_the_best_rejected_score(server: Running, sticker: Image.Image) -> None:
    engines = remote(server)
    found = await engines.detector.detect(sticker, "red circle", box_threshold=0.99, text_threshold=0.25)
    await engines.close()
    assert isinstance(found, Detections)
    assert len(found) == 0
    assert found.best_rejected is not None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
async def test_inpainting_and_editing_are_the_embedded_ones(server: Running, sticker: Image.Image, mode: str) -> None:
    engines, image = remote(server), sticker.convert(mode)
    mask = Image.new("L", sticker.size, 0)
    ImageDraw.Draw(mask).ellipse((36, 26, 94, 84), fill=255)
    painted = await engines.inpainter.inpaint(image, mask, "", InpaintParams(strength=0.5))
    edited = await engines.editor.edit(image, "brighten", EditParams())
    local = classical_engines()
    await engines.close()
    expected = await local.inpainter.inpaint(image, mask, "", InpaintParams(strength=0.5))
    assert np.array_equal(np.asarray(painted.convert("RGB")), np.asarray(expected.convert("RGB")))
    expected = await local.editor.edit(image, "brighten", EditParams())
    assert np.array_equal(np.asarray(edited.convert("RGB")), np.asarray(expected.convert("RGB")))


async def test_words_of_a_refusal_reach_the_model(server: Running, sticker: Image.Image) -> None:
    engines = remote(server)
    with pytest.raises(ToolError, match="does not know 'cat'"):
        await engines.detector.detect(sticker, "cat", box_threshold=0.3, text_threshold=0.25)
    with pytest.raises(EngineUnavailable, match="needs a model backend"):
        await engines.editor.edit(sticker, "make it a Van Gogh", EditParams())
    await engines.close()


async def test_what_no_server_offers_is_done_here(puppet: Running, sticker: Image.Image) -> None:
    engines = remote(puppet)
    found = await engines.detector.detect(sticker, "red circle", box_threshold=0.3, text_threshold=0.25)
    edited = await engines.editor.edit(sticker, "invert", EditParams())
    statistics = engines.get_statistics()
    await engines.close()
    assert (len(found), engines.detector.name, engines.editor.name) == (
        1,
        "classical",
        "remote: tests.unit.serving.image_server.custom_engines:editor",
    )
    assert edited.getpixel((0, 0)) == (135, 115, 135)
    assert (statistics.requests, statistics.answered) == (1, 1)


async def test_a_task_reads_the_name_of_its_own_call(puppet: Running, sticker: Image.Image) -> None:
    engines = remote(puppet)

    async def maker() -> str:
        await engines.editor.edit(sticker, "invert", EditParams())
        return engines.editor.name

    made_elsewhere = await asyncio.create_task(maker())
    await engines.close()
    assert made_elsewhere == "remote: tests.unit.serving.image_server.custom_engines:editor"
    assert engines.editor.name == "remote"


async def test_a_cache_in_front_of_the_stand_in_keeps_what_servers_make(
    puppet: Running, sticker: Image.Image, tmp_path: Path
) -> None:
    spec = {"cache": {"root": str(tmp_path)}}
    answered, images, names = [], [], []
    for _ in range(2):
        engines = remote(puppet, otherwise=make_engines(spec))
        images.append(await engines.editor.edit(sticker, "invert", EditParams(seed=1)))
        await engines.detector.detect(sticker, "red circle", box_threshold=0.3, text_threshold=0.25)
        names.append((engines.editor.name, engines.detector.name))
        answered.append(engines.get_statistics().answered)
        stats = cache_stats(engines)
        await engines.close()
    assert answered == [1, 0]
    assert stats is not None
    assert (stats.hits, stats.misses, stats.hit_rate) == (2, 0, 1.0)
    assert images[0].tobytes() == images[1].tobytes()
    assert names[0] == names[1] == ("remote: tests.unit.serving.image_server.custom_engines:editor", "classical")


async def test_a_server_with_other_settings_is_another_maker(puppet: Running) -> None:
    engines = remote(puppet)
    before = await engines.pool.makers("edit")
    engines.pool.nodes[0].version = "of another checkpoint"
    assert len(before[0].split()[-1]) == 16
    assert await engines.pool.makers("edit") != before
    await engines.close()


async def test_a_cache_in_front_of_servers_that_are_all_down_is_no_hang(sticker: Image.Image, tmp_path: Path) -> None:
    spec = {"cache": {"root": str(tmp_path)}}
    engines = remote_engines([("127.0.0.1", 9)], timeout=0.3, otherwise=make_engines(spec))
    with pytest.raises(ToolError, match=r"no image server answered within 0\.3 s"):
        await engines.editor.edit(sticker, "invert", EditParams(seed=1))
    statistics = engines.get_statistics()
    await engines.close()
    assert (statistics.requests, statistics.timed_out, statistics.pending) == (1, 1, 0)


async def test_the_servers_own_crash_is_no_concern_of_the_model(puppet: Running, sticker: Image.Image) -> None:
    engines = remote(puppet)
    with pytest.raises(ToolError, match="image servers failed"):
        await engines.editor.edit(sticker, "break", EditParams())
    await engines.close()


@pytest.mark.slow
async def test_references_go_to_a_server_that_takes_them(puppet: Running, sticker: Image.Image) -> None:
    colours = [(250, 0, 0), (0, 240, 0), (0, 0, 230)]
    images = [Image.new("RGB", (30, 20), colour) for colour in colours]
    with running(**BANDS) as bands:
        engines = remote_engines([puppet.url, bands.url], timeout=30.0)
        made = await edit_images(engines.editor, images, "the hat of image 2", EditParams(seed=1))
        assert engines.editor.name == "remote: tests.unit.serving.image_server.custom_engines:bands"
        await engines.close()
    assert made.size == (30, 20)
    assert [made.getpixel((x, 9)) for x in (5, 15, 25)] == colours


@pytest.mark.slow
async def test_a_server_of_one_image_says_what_to_do_with_several(server: Running, sticker: Image.Image) -> None:
    engines = remote(server)
    with pytest.raises(EngineUnavailable, match="none of these has one; give one image, or paste"):
        await edit_images(engines.editor, [sticker, sticker], "brighten", EditParams())
    await engines.close()
    # A client that sends them all the same gets the engine's own words.
    reply = server.edit("brighten", sticker, images=[as_text(sticker)])
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "engine_unavailable")
    assert "classical takes one; give one image" in reply.json()["error"]["message"]
