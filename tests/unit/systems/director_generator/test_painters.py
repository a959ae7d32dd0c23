"""Images: placeholders that say so, servers with their faults, failover that is counted, SDXL in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from agentfly.errors import ConfigError, ToolError
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.systems.director_generator.painters import Easel, EditingPainter, ImagePrompt, make_easel, placeholder
from agentfly.systems.director_generator.remote import ServerPainter, StabilityPainter
from agentfly.systems.director_generator.settings import Keys, SdxlSettings
from agentfly.vision.classical import classical_engines
from tests.tiny import build
from tests.unit.agents.conftest import Reply, failure
from tests.unit.systems.director_generator.conftest import StudioServer

KEYS = Keys(openai=SecretStr("sk-openai"), stability=SecretStr("sk-stability"))
BOAT = ImagePrompt("A red boat", "text")


async def no_nap(_: float) -> None:
    """Instead of sleeping."""


def stability(server: StudioServer, **settings: Any) -> Easel:
    fields = {"mode": "api", "stability_base": server.url, "size": "1024x1024", "retries": 1, **settings}
    easel = make_easel(SdxlSettings(**fields), KEYS)
    assert isinstance(easel.painter, StabilityPainter)
    easel.painter._sleep = no_nap
    return easel


def image_server(server: StudioServer, **settings: Any) -> Easel:
    return make_easel(SdxlSettings(mode="api", api_base=server.url, retries=0, size="64x64", **settings), KEYS)


async def test_mock_images_say_that_they_are_none_and_carry_the_prompt() -> None:
    easel = make_easel(SdxlSettings(size="256x192"), Keys())
    first, same = [await easel.paint(BOAT, 1) for _ in range(2)]
    other = await easel.paint(ImagePrompt("A blue car"), 1)
    assert (first.engine, first.fault, first.image.size) == ("mock", None, (256, 192))
    assert first.image.tobytes() == same.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    # What differs is written, in the lower part; the banner is the same.
    rows = np.nonzero((np.asarray(first.image) != np.asarray(other.image)).any(axis=(1, 2)))[0]
    assert rows.min() > 20


@pytest.mark.parametrize("size", [(8, 8), (16, 400), (1024, 1024)])
def test_placeholders_of_any_size_and_any_prompt(size: tuple[int, int]) -> None:
    assert placeholder(size, "word " * 300 + "舟" * 40, "x").size == size


async def test_stability_is_sent_what_its_api_takes(server: StudioServer) -> None:
    easel = stability(server, guidance_scale=5.0, steps=20)
    painted = await easel.paint(BOAT, 9)
    await easel.painter.close()
    assert painted.engine == "stability stable-diffusion-xl-1024-v1-0"
    assert painted.image.getpixel((0, 0)) == (200, 9, 40)
    (body,) = server.images
    prompts = [{"text": "A red boat", "weight": 1.0}, {"text": "text", "weight": -1.0}]
    assert body == {
        "text_prompts": prompts,
        "width": 1024,
        "height": 1024,
        "samples": 1,
        "seed": 9,
        "steps": 20,
        "cfg_scale": 5.0,
        "authorization": "Bearer sk-stability",
    }


def stability_says(status: int, message: str) -> Reply:
    from fastapi.responses import JSONResponse

    return lambda _: JSONResponse({"id": "1", "name": "fault", "message": message}, status)


async def test_stability_is_asked_again_after_a_fault_that_passes(server: StudioServer) -> None:
    server.image_faults.append(stability_says(429, "too many"))
    assert (await stability(server).paint(BOAT, 1)).fault is None
    assert len(server.images) == 2


async def test_stabilitys_refusals(server: StudioServer) -> None:
    from fastapi.responses import JSONResponse

    server.image_faults.append(stability_says(400, "invalid_prompts"))
    with pytest.raises(ToolError, match="answered 400: invalid_prompts"):
        await stability(server).paint(BOAT, 1)
    filtered = {"artifacts": [{"base64": "", "finishReason": "CONTENT_FILTERED", "seed": 1}]}
    server.image_faults.append(lambda _: JSONResponse(filtered))
    with pytest.raises(ToolError, match="CONTENT_FILTERED"):
        await stability(server).paint(BOAT, 1)
    server.image_faults.append(stability_says(401, "bad key"))
    with pytest.raises(ConfigError, match="check STABILITY_API_KEY") as caught:
        await stability(server, failover_mode="mock").paint(BOAT, 1)
    assert "sk-stability" not in str(caught.value)


def test_api_mode_needs_a_server_or_a_key() -> None:
    with pytest.raises(ConfigError, match="set SDXL_API_BASE"):
        make_easel(SdxlSettings(mode="api"), Keys())


async def test_an_image_server_is_never_sent_the_key_of_openai(
    server: StudioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    easel = image_server(server, steps=3)
    painted = await easel.paint(BOAT, 5)
    await easel.painter.close()
    assert painted.image.getpixel((0, 0)) == (200, 5, 40)
    (body,) = server.images
    assert "sk-openai" not in str(body)
    assert {"size": "64x64", "seed": 5, "num_inference_steps": 3, "negative_prompt": "text"}.items() <= body.items()


@pytest.mark.parametrize("fault", [failure(503, "loading"), failure(400, "refused")])
async def test_failover_stands_in_for_a_failed_image_and_says_why(server: StudioServer, fault: Reply) -> None:
    server.image_faults.extend([fault, fault])
    with pytest.raises(ToolError):
        await image_server(server).paint(BOAT, 1)
    painted = await image_server(server, failover_mode="mock").paint(BOAT, 1)
    assert (painted.engine, painted.image.size) == ("mock", (64, 64))
    assert painted.fault


def _text(body: str) -> Any:
    from fastapi.responses import HTMLResponse

    return HTMLResponse(body)


async def test_an_address_where_no_image_server_ever_answered_is_wrong_whatever_the_failover(
    server: StudioServer,
) -> None:
    """Placeholders for a whole run would say nothing of the address."""
    fields = {"mode": "api", "retries": 0, "failover_mode": "mock", "size": "1024x1024"}
    nowhere = "http://127.0.0.1:9"
    with pytest.raises(ConfigError, match=rf"no image server {nowhere}/v1 .*: start it, or correct SDXL_API_BASE"):
        await make_easel(SdxlSettings(**fields, api_base=nowhere), Keys()).paint(BOAT, 1)
    with pytest.raises(ConfigError, match=f"cannot be reached at {nowhere} .*: check stability_base"):
        await make_easel(SdxlSettings(**fields, stability_base=nowhere), KEYS).paint(BOAT, 1)
    server.image_faults.append(lambda _: _text("<html>"))
    with pytest.raises(ConfigError, match="sent no image: check SDXL_API_BASE"):
        await image_server(server, failover_mode="mock").paint(BOAT, 1)
    server.image_faults.append(failure(400, "this server's model does not generate", code="operation_not_offered"))
    with pytest.raises(ConfigError, match=r"makes no images from text .* correct SDXL_API_BASE"):
        await image_server(server, failover_mode="mock").paint(BOAT, 1)


async def test_a_server_that_goes_away_after_it_answered_is_stood_in_for(server: StudioServer) -> None:
    easel = image_server(server, failover_mode="mock")
    server.image_faults.extend([failure(503, "loading"), lambda _: _text("<html>")])
    faults = [(await easel.paint(BOAT, seed)).fault for seed in range(3)]
    assert ("loading" in str(faults[0]), "sent no image" in str(faults[1]), faults[2]) == (True, True, None)
    assert isinstance(easel.painter, ServerPainter)
    easel.painter._client = SdkClient(Endpoint(base_url="http://127.0.0.1:9/v1", api_key=SecretStr("k"), retries=0))
    assert "did not answer" in str((await easel.paint(BOAT, 3)).fault)


async def test_an_editor_paints_on_the_source() -> None:
    easel = Easel(EditingPainter(classical_engines().editor))
    source = Image.new("RGB", (32, 32), (90, 60, 30))
    painted = await easel.paint(ImagePrompt("brighten"), 1, source)
    assert painted.image.size == source.size
    assert np.asarray(painted.image).mean() > np.asarray(source).mean()
    with pytest.raises(ToolError, match="needs an image to edit"):
        await easel.paint(ImagePrompt("brighten"), 1)


@pytest.mark.slow
async def test_local_mode_runs_the_pipeline_here_and_seeds_decide(tmp_path: Path) -> None:
    folder = build("sdxl", tmp_path / "sdxl")
    settings = SdxlSettings(mode="local", model=str(folder), device="cpu", size="64x64", steps=2, guidance_scale=2.0)
    easel = make_easel(settings, Keys())
    first, same, other = [await easel.paint(BOAT, seed) for seed in (1, 1, 2)]
    await easel.painter.close()
    assert (first.engine, first.image.size) == ("local sdxl", (64, 64))
    assert first.image.tobytes() == same.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_local_mode_names_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no model_index\.json"):
        make_easel(SdxlSettings(mode="local", model=str(tmp_path)), Keys())
