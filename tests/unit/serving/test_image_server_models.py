"""Tiny checkpoints of the real classes behind the server, in real worker processes; the documented command with one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.serving.image_server.command import make_parser, settings_from
from agentfly.serving.image_server.engines import load_engine
from agentfly.serving.image_server.settings import EngineOptions
from agentfly.serving.image_server.work import Operation, Work
from tests.tiny import detectors, qwen_image, stable_diffusion
from tests.unit.serving.running import Running, as_text, from_text, plain, png, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stable_diffusion.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> Iterator[Running]:
    with running(model_type="sdxl", model_path=str(sdxl_folder), worker_slots=4) as server:
        yield server


def generate(server: Running, seed: int, **fields: object) -> Image.Image:
    body = {"prompt": "a red square", "size": "64x64", "seed": seed, "num_inference_steps": 2, **fields}
    reply = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return from_text(reply.json()["data"][0]["b64_json"])


def test_sdxl_makes_pictures_for_openais_client(sdxl: Running) -> None:
    with openai.OpenAI(base_url=f"{sdxl.url}/v1", api_key="none") as client:
        reply = client.images.generate(
            prompt="a red square", size="64x64", n=2, extra_body={"seed": 1, "num_inference_steps": 2}
        )
    assert reply.data is not None
    first, second = (from_text(item.b64_json or "") for item in reply.data)
    assert first.size == second.size == (64, 64)
    assert first.tobytes() != second.tobytes()


def test_seed_gives_the_same_picture_alone_and_in_a_batch(sdxl: Running) -> None:
    alone = [np.asarray(generate(sdxl, seed), np.int16) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda seed: np.asarray(generate(sdxl, seed), np.int16), range(4)))
    assert max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)) <= 2
    assert np.abs(alone[0] - alone[1]).max() > 10


def test_what_the_pipeline_does_not_know_is_refused(sdxl: Running) -> None:
    reply = httpx.post(f"{sdxl.url}/v1/images/generations", json={"prompt": "x", "true_cfg_scale": 3}, timeout=30)
    assert (reply.status_code, "true_cfg_scale" in reply.json()["error"]["message"]) == (422, True)


def test_docs_are_up_as_the_health_check_of_the_sdxl_server_wants(sdxl: Running) -> None:
    assert httpx.get(f"{sdxl.url}/docs").status_code == 200


def test_documented_command_of_the_editing_service(tmp_path: Path) -> None:
    folder = qwen_image.qwen_edit(tmp_path / "qwen")
    lora = qwen_image.lightning_lora(tmp_path / "lora.safetensors", folder)
    flags = ["--model-type", "qwen", "--model-path", str(folder), "--use-fast", "--lora", str(lora)]
    settings = settings_from(
        make_parser().parse_args([*flags, "--area", "4096", "--host", "0.0.0.0", "--port", "8000"])
    )
    with running(**settings.model_dump(exclude={"worker_slots", "cancel_grace"})) as server:
        fields = {"negative_prompt": " ", "true_cfg_scale": 4.0, "num_inference_steps": 50, "seed": 1, "timeout": 120}
        first, second = (server.edit("make it blue", plain((64, 64)), **fields).json() for _ in range(2))
        assert from_text(first["image"]).size == (64, 64)
        assert first["image"] == second["image"]
        (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert model["capabilities"] == ["edit"]
        refused = server.edit("x", plain((64, 64)), mask=as_text(Image.new("L", (64, 64), 255)))
        assert "leave the mask out" in refused.json()["error"]["message"]


def test_inpainting_model(tmp_path: Path) -> None:
    folder = stable_diffusion.sd_inpaint(tmp_path / "sd")
    image, mask = plain((64, 64)), Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    with running(model_type="inpaint", model_path=str(folder), area=4096) as server:
        files = {"image": png(image), "mask": png(mask)}
        data = {"prompt": "a cat", "num_inference_steps": "2", "seed": "1", "guidance_scale": "3"}
        reply = httpx.post(f"{server.url}/v1/images/edits", files=files, data=data, timeout=60).json()
    result = np.asarray(from_text(reply["data"][0]["b64_json"]))
    outside = np.asarray(mask) == 0
    assert (result[outside] == np.asarray(image)[outside]).all()
    assert (result[~outside] != np.asarray(image)[~outside]).any()


async def test_detection_model(tmp_path: Path) -> None:
    folder = detectors.grounding_dino(tmp_path / "dino")
    engine = load_engine(EngineOptions(model_type="detect", model_path=str(folder)))
    outcome = await engine.run(Work(Operation.detect, "a cat", (plain((64, 64)),), box_threshold=0.0))
    assert engine.operations == {Operation.detect}
    assert outcome.detections


async def test_generic_starts_from_text_or_from_a_picture_as_its_pipeline_does(
    sdxl_folder: Path, tmp_path: Path
) -> None:
    text = load_engine(EngineOptions(model_type="generic", model_path=str(sdxl_folder)))
    folder = qwen_image.qwen_edit(tmp_path / "qwen")
    picture = load_engine(EngineOptions(model_type="generic", model_path=str(folder), area=4096))
    assert (text.operations, picture.operations) == ({Operation.generate}, {Operation.edit})


@pytest.mark.parametrize("model_type", ["sdxl", "qwen", "inpaint", "detect", "generic"])
def test_folders_that_are_no_checkpoints_are_named(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_engine(EngineOptions.model_validate({"model_type": model_type, "model_path": str(tmp_path)}))


def test_a_checkpoint_of_another_kind_says_which_type_to_use(tmp_path: Path) -> None:
    folder = stable_diffusion.sd_inpaint(tmp_path / "sd")
    with pytest.raises(ConfigError, match="--model-type generic or inpaint"):
        load_engine(EngineOptions(model_type="sdxl", model_path=str(folder)))
