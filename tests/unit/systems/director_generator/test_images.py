"""Images: placeholders that say so, servers with their faults, failover that is counted, SDXL in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from agentfly.errors import BackendError, ConfigError, ToolError
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.systems.director_generator.settings import Keys, SdxlSettings
from agentfly.systems.director_generator.studio import make_generator
from agentfly.systems.generators import GeneratedImage, ImageGenerator, ImageRequest
from agentfly.systems.generators.base import EditingGenerator
from agentfly.systems.generators.placeholder import FailoverGenerator, placeholder
from agentfly.systems.generators.server import ServerGenerator
from agentfly.systems.generators.stability import StabilityGenerator
from agentfly.vision.classical import classical_engines
from tests.tiny import build
from tests.unit.agents.conftest import Reply, failure
from tests.unit.systems.director_generator.conftest import StudioServer

KEYS = Keys(openai=SecretStr("sk-openai"), stability=SecretStr("sk-stability"))
BOAT = "A red boat"


async def make(
    generator: ImageGenerator, seed: int, prompt: str = BOAT, references: tuple[Image.Image, ...] = ()
) -> GeneratedImage:
    return await generator.generate(ImageRequest(prompt, references=references, negative_prompt="text", seed=seed))


async def no_nap(_: float) -> None:
    """Instead of sleeping."""


def stability(server: StudioServer, **settings: Any) -> ImageGenerator:
    fields = {"mode": "api", "stability_base": server.url, "size": "1024x1024", "retries": 1, **settings}
    generator = make_generator(SdxlSettings(**fields), KEYS)
    inner = generator.generator if isinstance(generator, FailoverGenerator) else generator
    assert isinstance(inner, StabilityGenerator)
    inner._sleep = no_nap
    return generator


def image_server(server: StudioServer, **settings: Any) -> ImageGenerator:
    return make_generator(SdxlSettings(mode="api", api_base=server.url, retries=0, size="64x64", **settings), KEYS)


async def test_mock_images_say_that_they_are_none_and_carry_the_prompt() -> None:
    generator = make_generator(SdxlSettings(size="256x192"), Keys())
    first, same = [await make(generator, 1) for _ in range(2)]
    other = await make(generator, 1, "A blue car")
    assert (generator.name, first.stand_in, first.image.size) == ("mock", None, (256, 192))
    assert first.image.tobytes() == same.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    # What differs is written, in the lower part; the banner is the same.
    rows = np.nonzero((np.asarray(first.image) != np.asarray(other.image)).any(axis=(1, 2)))[0]
    assert rows.min() > 20


@pytest.mark.parametrize("size", [(8, 8), (16, 400), (1024, 1024)])
def test_placeholders_of_any_size_and_any_prompt(size: tuple[int, int]) -> None:
    assert placeholder(size, "word " * 300 + "舟" * 40, "x").size == size


async def test_stability_is_sent_what_its_api_takes(server: StudioServer) -> None:
    generator = stability(server, guidance_scale=5.0, steps=20)
    made = await make(generator, 9)
    await generator.close()
    assert generator.name == "stability stable-diffusion-xl-1024-v1-0"
    assert made.image.getpixel((0, 0)) == (200, 9, 40)
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
    assert (await make(stability(server), 1)).stand_in is None
    assert len(server.images) == 2


async def test_stabilitys_refusals(server: StudioServer) -> None:
    from fastapi.responses import JSONResponse

    server.image_faults.append(stability_says(400, "invalid_prompts"))
    with pytest.raises(ToolError, match="answered 400: invalid_prompts"):
        await make(stability(server), 1)
    filtered = {"artifacts": [{"base64": "", "finishReason": "CONTENT_FILTERED", "seed": 1}]}
    server.image_faults.append(lambda _: JSONResponse(filtered))
    with pytest.raises(ToolError, match="CONTENT_FILTERED"):
        await make(stability(server), 1)
    server.image_faults.append(stability_says(401, "bad key"))
    with pytest.raises(ConfigError, match="check STABILITY_API_KEY") as caught:
        await make(stability(server, failover_mode="mock"), 1)
    assert "sk-stability" not in str(caught.value)


def test_api_mode_needs_a_server_or_a_key() -> None:
    with pytest.raises(ConfigError, match="set SDXL_API_BASE"):
        make_generator(SdxlSettings(mode="api"), Keys())


async def test_an_image_server_is_never_sent_the_key_of_openai(
    server: StudioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    generator = image_server(server, steps=3)
    made = await make(generator, 5)
    await generator.close()
    assert made.image.getpixel((0, 0)) == (200, 5, 40)
    (body,) = server.images
    assert "sk-openai" not in str(body)
    assert {"size": "64x64", "seed": 5, "num_inference_steps": 3, "negative_prompt": "text"}.items() <= body.items()


@pytest.mark.parametrize("fault", [failure(503, "loading"), failure(400, "refused")])
async def test_failover_stands_in_for_a_failed_image_and_says_why(server: StudioServer, fault: Reply) -> None:
    server.image_faults.extend([fault, fault])
    with pytest.raises((ToolError, BackendError)):
        await make(image_server(server), 1)
    made = await make(image_server(server, failover_mode="mock"), 1)
    assert made.image.size == (64, 64)
    assert made.stand_in


def _text(body: str) -> Any:
    from fastapi.responses import HTMLResponse

    return HTMLResponse(body)


async def test_an_address_where_no_image_server_ever_answered_is_wrong_whatever_the_failover(
    server: StudioServer,
) -> None:
    """Placeholders for a whole run would say nothing of the address."""
    fields = {"mode": "api", "retries": 0, "failover_mode": "mock", "size": "1024x1024"}
    nowhere = "http://127.0.0.1:9"
    with pytest.raises(ConfigError, match=rf"no image server at {nowhere}/v1 .*: start it, or correct SDXL_API_BASE"):
        await make(make_generator(SdxlSettings(**fields, api_base=nowhere), Keys()), 1)
    with pytest.raises(ConfigError, match=f"cannot be reached at {nowhere} .*: check stability_base"):
        await make(make_generator(SdxlSettings(**fields, stability_base=nowhere), KEYS), 1)
    server.image_faults.append(lambda _: _text("<html>"))
    with pytest.raises(ConfigError, match="sent no image: check SDXL_API_BASE"):
        await make(image_server(server, failover_mode="mock"), 1)
    server.image_faults.append(failure(400, "this server's model does not generate", code="operation_not_offered"))
    with pytest.raises(ConfigError, match=r"makes no images from text .* correct SDXL_API_BASE"):
        await make(image_server(server, failover_mode="mock"), 1)


async def test_a_server_that_goes_away_after_it_answered_is_stood_in_for(server: StudioServer) -> None:
    generator = image_server(server, failover_mode="mock")
    server.image_faults.extend([failure(503, "loading"), lambda _: _text("<html>")])
    faults = [(await make(generator, seed)).stand_in for seed in range(3)]
    assert ("loading" in str(faults[0]), "sent no image" in str(faults[1]), faults[2]) == (True, True, None)
    assert isinstance(generator, FailoverGenerator)
    assert isinstance(generator.generator, ServerGenerator)
    generator.generator._client = SdkClient(
        Endpoint(base_url="http://127.0.0.1:9/v1", api_key=SecretStr("k"), retries=0)
    )
    assert "did not answer" in str((await make(generator, 3)).stand_in)


async def test_an_editor_edits_the_source() -> None:
    generator = EditingGenerator(classical_engines().editor)
    source = Image.new("RGB", (32, 32), (90, 60, 30))
    made = await generator.generate(ImageRequest("brighten", references=(source,), seed=1))
    assert made.image.size == source.size
    assert np.asarray(made.image).mean() > np.asarray(source).mean()
    with pytest.raises(ToolError, match="needs an image to edit"):
        await generator.generate(ImageRequest("brighten", seed=1))


@pytest.mark.slow
async def test_local_mode_runs_the_pipeline_here_and_seeds_decide(tmp_path: Path) -> None:
    folder = build("sdxl", tmp_path / "sdxl")
    settings = SdxlSettings(mode="local", model=str(folder), device="cpu", size="64x64", steps=2, guidance_scale=2.0)
    generator = make_generator(settings, Keys())
    first, same, other = [await make(generator, seed) for seed in (1, 1, 2)]
    await generator.close()
    assert (generator.name, first.image.size) == ("local sdxl", (64, 64))
    assert first.image.tobytes() == same.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_local_mode_names_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no model_index\.json"):
        make_generator(SdxlSettings(mode="local", model=str(tmp_path)), Keys())
