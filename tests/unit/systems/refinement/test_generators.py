"""The generators of the refinement loop: an image server, a pipeline in this process, and OpenCV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.errors import BackendError, ConfigError, EngineUnavailable, ToolError
from agentfly.openai_client import Endpoint
from agentfly.systems.generators.classical import Drawing, read_drawing
from agentfly.systems.generators.server import ServerGenerator
from agentfly.systems.refinement import GeneratedImage, ImageRequest, RefinementSettings, make_generator
from tests.tiny import stable_diffusion
from tests.unit.serving.image_server.running import PUPPET, Running, running
from tests.unit.vision.remote.fake_node import FakeNode, answer, make_image, status
from tests.values import pixel


async def make(prompt: str, *, previous: Any = None, references: tuple[Any, ...] = (), **fields: Any) -> Image.Image:
    generator = make_generator(RefinementSettings(**{"retries": 0, "timeout": 60, **fields}))
    try:
        last = GeneratedImage(previous) if previous is not None else None
        return (await generator.generate(ImageRequest(prompt, 1, references, last))).image
    finally:
        await generator.close()


async def draw(prompt: str, **fields: Any) -> Image.Image:
    return await make(prompt, generator="classical", **fields)


@pytest.mark.parametrize(
    ("prompt", "drawing"),
    [
        ("a red circle", Drawing((("red", "circle"),), None)),
        ("Draw a red circle on a white background.", Drawing((("red", "circle"),), "white")),
        ("A picture of a blue star and a green square", Drawing((("blue", "star"), ("green", "square")), None)),
        (
            "a red circle, a blue star and a red square",
            Drawing((("red", "circle"), ("blue", "star"), ("red", "square")), None),
        ),
        ("a red circle on fire", None),
        ("a large red circle", None),
        ("a pink circle", None),
        ("brighten the image", None),
        ("", None),
    ],
)
def test_what_the_grammar_of_drawings_reads(prompt: str, drawing: Drawing | None) -> None:
    assert read_drawing(prompt) == drawing


async def test_classical_draws_what_is_named_where_it_is_said() -> None:
    drawn = await draw("a red circle and a blue square on a black background", size="1536x1024")
    assert drawn.size == (1536, 1024)
    pixels = np.asarray(drawn.convert("RGB"))
    assert pixels[512, 384, 0] > 200
    assert pixels[512, 1152, 2] > 200
    assert tuple(pixels[5, 5]) == (15, 15, 15)


@pytest.mark.slow
async def test_classical_leaves_the_ground_away_by_default() -> None:
    drawn = await draw("a red circle")
    assert (drawn.mode, pixel(drawn, (3, 3))[3], drawn.getpixel((512, 512))) == ("RGBA", 0, (225, 30, 35, 255))
    # Where the edge of a figure is half there, its colour is the figure's and not the ground's.
    values = np.asarray(drawn).reshape(-1, 4)
    soft = values[(values[:, 3] > 40) & (values[:, 3] < 215)]
    assert len(soft) > 50
    assert (soft[:, :3] > 200).all()
    assert (await draw("a red circle", background="opaque")).mode == "RGB"


async def test_classical_edits_images_and_says_what_it_cannot() -> None:
    source = Image.new("RGB", (40, 30), (90, 90, 90))
    brighter = await draw("brighten", references=(source,))
    assert pixel(brighter, (1, 1))[0] > 90
    assert pixel(await draw("darken", previous=brighter), (1, 1))[0] < pixel(brighter, (1, 1))[0]
    with pytest.raises(EngineUnavailable, match="needs a model backend: the classical generator draws"):
        await draw("a castle at dawn")
    with pytest.raises(EngineUnavailable, match="needs a model backend"):
        await draw("a castle at dawn", references=(source,))


@pytest.mark.slow
def test_classical_is_a_command_without_a_key(tmp_path: Path) -> None:
    judge = json.dumps({"evaluator": "tests.unit.systems.refinement.test_command:Fixed", "value": 91})
    flags = ["--generator", "classical", "--evaluator", judge, "--prompter", "feedback"]
    done = CliRunner().invoke(app, ["generate", "a red star", *flags, "--output-dir", str(tmp_path)])
    assert (done.exit_code, json.loads(done.stdout)["final_score"]) == (0, 91)
    assert json.loads(done.stdout)["iterations"][0]["engine"] == "classical"
    done = CliRunner().invoke(app, ["generate", "a castle", *flags, "--output-dir", str(tmp_path)])
    assert (done.exit_code, "needs a model backend" in json.loads(done.stdout)["error"]) == (1, True)


@pytest.fixture(scope="module")
def puppet() -> Iterator[Running]:
    with running(**PUPPET) as server:
        yield server


async def test_our_server_makes_images_from_text_and_edits_the_last_one(puppet: Running) -> None:
    fields: dict[str, Any] = {"generator": "server", "server_url": puppet.url, "size": "1024x1024", "seed": 7}
    made = await make("a ring", **fields)
    # The puppet paints its seed.
    assert (made.size, made.getpixel((0, 0))) == ((1024, 1024), (0, 0, 7))
    inverted = await make("brighter", previous=Image.new("RGB", (16, 12)), **{**fields, "size": "auto"})
    assert (inverted.size, inverted.getpixel((0, 0))) == ((16, 12), (255, 255, 255))
    assert (await make("x", references=(Image.new("RGB", (16, 12)),), **{**fields, "size": "auto"})).size == (16, 12)
    with pytest.raises(ToolError, match="cannot be done"):
        await make("refuse", **fields)
    with pytest.raises(BackendError, match="did not answer"):
        await make("break", **fields)


def test_our_server_is_a_generator_of_the_command(puppet: Running, tmp_path: Path) -> None:
    judge = json.dumps({"evaluator": "tests.unit.systems.refinement.test_command:Fixed", "value": 20})
    flags = ["--generator", "server", "--server-url", f"{puppet.url}/v1", "--evaluator", judge]
    flags += ["--prompter", "feedback", "--max-iterations", "2", "--output-dir", str(tmp_path), "--seed", "3"]
    done = CliRunner().invoke(app, ["generate", "a ring", *flags])
    found = json.loads(done.stdout)
    assert (done.exit_code, len(found["image_history"]), found["error"]) == (0, 2, None)
    # The second image is the first one, edited.
    with Image.open(found["image_history"][1]) as second:
        assert second.convert("RGB").getpixel((0, 0)) == (255, 255, 252)


def test_a_dead_address_ends_the_loop_with_1_and_is_named(tmp_path: Path) -> None:
    judge = json.dumps({"evaluator": "tests.unit.systems.refinement.test_command:Fixed", "value": 20})
    flags = ["--generator", "server", "--server-url", "http://127.0.0.1:9", "--evaluator", judge, "--retries", "0"]
    flags += ["--prompter", "feedback", "--max-iterations", "3", "--output-dir", str(tmp_path)]
    done = CliRunner().invoke(app, ["generate", "a ring", *flags])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["image_history"], found["stopped"]) == (1, [None], "error")
    told = done.stderr.splitlines()[-1]
    assert told.startswith("error: no image server at http://127.0.0.1:9/v1 (")
    assert told.endswith(": start it, or correct --server-url (server_url)")


async def test_a_server_that_only_edits_needs_a_reference() -> None:
    with FakeNode(capabilities=("edit",)).up() as node:
        node.otherwise = answer(make_image((9, 9, 9)))
        fields: dict[str, Any] = {"generator": "server", "server_url": node.url}
        with pytest.raises(EngineUnavailable, match="give a reference"):
            await make("a ring", **fields)
        assert (await make("a ring", references=(make_image(),), **fields)).getpixel((0, 0)) == (9, 9, 9)
        (form,) = node.forms
        assert (form["prompt"], form["model"], form["size"]) == ("a ring", "fake-model", "1024x1024")


async def test_a_server_that_only_makes_images_from_text_takes_no_references() -> None:
    with FakeNode(capabilities=("generate",)).up() as node:
        with pytest.raises(EngineUnavailable, match="leave the references out"):
            await make("a ring", references=(make_image(),), generator="server", server_url=node.url)
        assert node.forms == []


async def test_a_server_of_others_without_editing_goes_on_from_text() -> None:
    with FakeNode(owner="somebody", capabilities=()).up() as node:
        # FakeNode has no /v1/images/generations: what comes after the editing that it lacks fails there.
        node.script.append(status(404))
        with pytest.raises(ConfigError, match="not served there"):
            await make("a ring", previous=make_image(), generator="server", server_url=node.url)
        assert len(node.forms) == 1


def test_a_server_cannot_name_a_file_of_this_machine_as_its_image(tmp_path: Path) -> None:
    from openai.types import Image as ServerImage
    from openai.types import ImagesResponse

    make_image().save(tmp_path / "secret.png")
    generator = ServerGenerator(Endpoint(base_url="http://127.0.0.1:9"), "server_url")
    with pytest.raises(ToolError, match="cannot be read"):
        generator._read_image(ImagesResponse(created=0, data=[ServerImage(url=str(tmp_path / "secret.png"))]))


@pytest.mark.slow
async def test_a_tiny_sdxl_pipeline_makes_the_first_image_from_text_and_later_ones_from_the_last(
    tmp_path: Path,
) -> None:
    folder = stable_diffusion.sdxl(tmp_path / "sdxl")
    fields: dict[str, Any] = {
        "generator": "diffusers",
        "diffusers_model": str(folder),
        "device": "cpu",
        "steps": 2,
        "size": "auto",
    }
    generator = make_generator(RefinementSettings(**fields, seed=3))
    start = Image.new("RGB", (70, 64), "red")
    first = (await generator.generate(ImageRequest("a ring", 1, (start,)))).image
    assert first.size == (64, 64)
    later = ImageRequest("a ring", 2, (), GeneratedImage(first))
    second, again = (await generator.generate(later)).image, (await generator.generate(later)).image
    assert second.tobytes() == again.tobytes() != first.tobytes()
    with pytest.raises(EngineUnavailable, match="give one reference"):
        await generator.generate(ImageRequest("x", 1, (start, start)))
    text = (await generator.generate(ImageRequest("a ring", 1))).image
    assert text.size[0] >= 64
    await generator.close()


@pytest.mark.slow
async def test_an_editing_pipeline_needs_a_reference(tmp_path: Path) -> None:
    folder = stable_diffusion.instruct_pix2pix(tmp_path / "editor")
    fields: dict[str, Any] = {"generator": "diffusers", "diffusers_model": str(folder), "device": "cpu", "steps": 2}
    with pytest.raises(EngineUnavailable, match="give a reference"):
        await make("brighter", **fields)
    assert (await make("brighter", references=(Image.new("RGB", (64, 64), "red"),), **fields)).size == (64, 64)


@pytest.mark.slow
async def test_a_tiny_sdxl_server_makes_every_image_from_text(tmp_path: Path) -> None:
    folder = stable_diffusion.sdxl(tmp_path / "sdxl")
    with running(model_type="sdxl", model_path=str(folder), worker_slots=4) as server:
        fields: dict[str, Any] = {
            "generator": "server",
            "server_url": server.url,
            "size": "auto",
            "steps": 1,
            "seed": 1,
        }
        fields["server_fields"] = {"size": "64x64"}
        first = await make("a ring", **fields)
        assert first.size == (64, 64)
        assert (await make("a bright ring", previous=first, **fields)).size == (64, 64)
        with pytest.raises(EngineUnavailable, match="leave the references out"):
            await make("a ring", references=(first,), **fields)


@pytest.mark.slow
def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_index"):
        make_generator(RefinementSettings(generator="diffusers", diffusers_model=str(tmp_path)))
