"""Tiny checkpoints of the real classes behind the server, in real worker processes; the documented command with one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image

from agentfly.errors import ConfigError, ToolError
from agentfly.serving.image_server.settings import EngineOptions
from agentfly.serving.image_server.workers.engines import load_engine
from agentfly.serving.image_server.workers.messages import Operation, Work
from agentfly.vision.base import EditParams, edit_images
from agentfly.vision.detection.boxes import box_mask
from agentfly.vision.diffusion import DiffusionEditor, EditorSettings
from agentfly.vision.remote import remote_engines
from tests.tiny import detectors, qwen_image, segmenters, stable_diffusion
from tests.unit.serving.image_server.running import as_text, command, from_text, plain, png, read, running

pytestmark = pytest.mark.slow

COMMAND = "python -m agentfly.agents.specialized.image_agent.utils.diffuser_apis"


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stable_diffusion.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path) -> Iterator[str]:
    """The documented server of text-to-image, here without a GPU: one hot pipeline, clients that fan out."""
    with command(f"{COMMAND} --model-type sdxl --model-path {sdxl_folder} --port 7000 --device cpu") as (_, url):
        yield url


def generate(server: str, seed: int, **fields: object) -> Image.Image:
    body = {"prompt": "a red square", "size": "64x64", "seed": seed, "num_inference_steps": 2, **fields}
    reply = httpx.post(f"{server}/v1/images/generations", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return from_text(reply.json()["data"][0]["b64_json"])


def test_sdxl_makes_images_for_openais_client(sdxl: str) -> None:
    with openai.OpenAI(base_url=f"{sdxl}/v1", api_key="none") as client:
        reply = client.images.generate(
            prompt="a red square", size="64x64", n=2, extra_body={"seed": 1, "num_inference_steps": 2}
        )
    assert reply.data is not None
    first, second = (from_text(item.b64_json or "") for item in reply.data)
    assert first.size == second.size == (64, 64)
    assert first.tobytes() != second.tobytes()


def test_seed_gives_the_same_image_alone_and_in_a_batch(sdxl: str) -> None:
    alone = [np.asarray(generate(sdxl, seed), np.int16) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda seed: np.asarray(generate(sdxl, seed), np.int16), range(4)))
    assert max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)) <= 2
    assert np.abs(alone[0] - alone[1]).max() > 10


def test_what_the_pipeline_does_not_know_is_refused(sdxl: str) -> None:
    reply = httpx.post(f"{sdxl}/v1/images/generations", json={"prompt": "x", "true_cfg_scale": 3}, timeout=30)
    assert (reply.status_code, "true_cfg_scale" in reply.json()["error"]["message"]) == (422, True)


@pytest.mark.parametrize("size", ["100x60", "9x8"])
def test_sizes_that_are_no_whole_latents_are_met_all_the_same(sdxl: str, size: str) -> None:
    assert "{}x{}".format(*generate(sdxl, 1, size=size).size) == size


def test_docs_are_up_as_the_health_check_of_the_sdxl_server_wants(sdxl: str) -> None:
    assert httpx.get(f"{sdxl}/docs").status_code == 200


def test_documented_command_of_the_editing_service(tmp_path: Path) -> None:
    folder = qwen_image.qwen_edit(tmp_path / "qwen")
    lora = qwen_image.lightning_lora(tmp_path / "lora.safetensors", folder)
    line = f"{COMMAND} --model-type qwen --model-path Qwen/Qwen-Image-Edit --gpu-ids 0 1 --use-fast --host 0.0.0.0"
    # The same without the hub and without GPUs.
    line = line.replace("Qwen/Qwen-Image-Edit", str(folder)).replace("--gpu-ids 0 1", "--device cpu --workers 2")
    with command(f"{line} --lora {lora} --area 4096", workers=2) as (_, url):
        fields = {"negative_prompt": " ", "true_cfg_scale": 4.0, "num_inference_steps": 50, "seed": 1, "timeout": 120}
        body = {"prompt": "make it blue", "image": as_text(plain((64, 64))), **fields}
        with ThreadPoolExecutor(6) as threads:
            replies = list(
                threads.map(lambda _: httpx.post(f"{url}/v1/images/edits", json=body, timeout=120), range(6))
            )
        assert {reply.status_code for reply in replies} == {200}
        images = [np.asarray(from_text(reply.json()["image"]), np.int16) for reply in replies]
        assert images[0].shape == (64, 64, 3)
        assert max(np.abs(image - images[0]).max() for image in images) <= 2
        assert all(worker["finished"] for worker in httpx.get(f"{url}/gpu/status").json()["workers"])
        (model,) = httpx.get(f"{url}/v1/models").json()["data"]
        assert model["capabilities"] == ["edit"]
        mask = as_text(Image.new("L", (64, 64), 255))
        refused = httpx.post(f"{url}/v1/images/edits", json={**body, "mask": mask}, timeout=60)
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("flags", ["--gpu-ids 1 0", "--device cuda"])
def test_without_a_gpu_the_flag_is_named(tmp_path: Path, flags: str) -> None:
    folder = detectors.grounding_dino(tmp_path / "dino")
    words = f"--model-type detect --model-path {folder} {flags}".split()
    options = read(*words).engine_options()
    # As the worker gets them.
    sent = EngineOptions.model_validate_json(options.model_dump_json())
    with pytest.raises(ConfigError, match=rf"^{flags}: torch sees no such GPU here .*leave the flag out"):
        load_engine(sent)


async def test_detection_model(tmp_path: Path) -> None:
    folder = detectors.grounding_dino(tmp_path / "dino")
    engine = load_engine(EngineOptions(model_type="detect", model_path=str(folder)))
    outcome = await engine.run(Work(Operation.detect, "a cat", (plain((64, 64)),), box_threshold=0.0))
    assert engine.operations == {Operation.detect}
    assert all(box_mask(d.box, d.mask.size).tobytes() == d.mask.tobytes() for d in outcome.detections)
    sam = segmenters.sam(tmp_path / "sam")
    engine = load_engine(EngineOptions(model_type="detect", model_path=str(folder), masks=str(sam)))
    cut = await engine.run(Work(Operation.detect, "a cat", (plain((64, 64)),), box_threshold=0.0))
    assert engine.name == "dino + sam"
    assert [d.box for d in cut.detections] == [d.box for d in outcome.detections] != []
    assert any(d.mask.tobytes() != box_mask(d.box, d.mask.size).tobytes() for d in cut.detections)


async def test_a_model_that_starts_from_text_works_at_no_area(sdxl_folder: Path) -> None:
    with pytest.raises(ConfigError, match="--area is for models that start from an image"):
        load_engine(EngineOptions(model_type="generic", model_path=str(sdxl_folder), area=4096))


async def test_generic_starts_from_text_or_from_an_image_as_its_pipeline_does(
    sdxl_folder: Path, tmp_path: Path
) -> None:
    text = load_engine(EngineOptions(model_type="generic", model_path=str(sdxl_folder)))
    folder = qwen_image.qwen_edit(tmp_path / "qwen")
    image = load_engine(EngineOptions(model_type="generic", model_path=str(folder), area=4096))
    assert (text.operations, image.operations) == (frozenset((Operation.generate,)), frozenset((Operation.edit,)))


@pytest.mark.parametrize("model_type", ["sdxl", "qwen", "inpaint", "detect", "generic"])
def test_folders_that_are_no_checkpoints_are_named(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_engine(EngineOptions.model_validate({"model_type": model_type, "model_path": str(tmp_path)}))


def test_a_checkpoint_of_another_kind_says_which_type_to_use(tmp_path: Path) -> None:
    folder = stable_diffusion.sd_inpaint(tmp_path / "sd")
    with pytest.raises(ConfigError, match="cannot generate: give a model that starts from text"):
        load_engine(EngineOptions(model_type="sdxl", model_path=str(folder)))


async def test_a_model_of_several_images_edits_with_references(tmp_path: Path) -> None:
    folder = qwen_image.qwen_edit_plus(tmp_path / "plus")
    images = [plain((64, 48)), plain((48, 64), (0, 0, 250)), plain((32, 32), (0, 250, 0))]
    params = EditParams(num_inference_steps=2, seed=1)
    with running(model_type="qwen", model_path=str(folder), area=4096) as server:
        (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert (model["capabilities"], model["max_images"]) == (["edit"], 3)
        engines = remote_engines(server.url, timeout=120)
        made = [await edit_images(engines.editor, chosen, "x", params) for chosen in (images, images, images[:1])]
        with pytest.raises(ToolError, match="takes 3 images at most, got 4: leave some out"):
            await edit_images(engines.editor, [*images, images[0]], "x", params)
        await engines.close()
    settings = EditorSettings(model=str(folder), device="cpu", area=4096)
    here = await DiffusionEditor(settings).edit_images(images, "x", params)
    assert [image.size for image in made] == [(64, 48)] * 3
    assert made[0].tobytes() == made[1].tobytes() == here.tobytes() != made[2].tobytes()
