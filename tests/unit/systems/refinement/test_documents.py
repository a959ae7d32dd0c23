"""The spellings of the document on the image generation system: its command and its functions."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from agentfly.errors import ConfigError
from tests.unit.systems.refinement.openai_server import OpenAIServer, drawn, encoded, judged, written

ROOT = Path(__file__).resolve().parents[4]
DOCUMENTS = ROOT / "recipes" / "documents"


@pytest.fixture
def module(openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the documented package, which can be imported; its settings come from the environment."""
    monkeypatch.syspath_prepend(str(DOCUMENTS))
    monkeypatch.setenv("OPENAI_BASE_URL", openai.url)
    return "agentic_image_gen"


def part(module: str, name: str) -> ModuleType:
    return importlib.import_module(f"{module}.{name}")


@pytest.mark.slow
def test_the_documented_command_and_its_object(openai: OpenAIServer, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "local_cyberpunk_style.jpg")
    openai.files["/another_style_ref.png"] = encoded("green")
    openai.say([drawn("red"), drawn("blue")], [judged(40, "Dull."), judged(92, "Fine.")], [written("a bright car")])
    prompt = "A futuristic car in a neon-lit city, inspired by cyberpunk art"
    # A web server of this machine is asked only where that is allowed.
    refs = ["./local_cyberpunk_style.jpg", openai.url.replace("/v1", "/another_style_ref.png"), "--allow-private-hosts"]
    done = subprocess.run(
        [sys.executable, "-m", "agentic_image_gen", prompt, "--refs", *refs],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{DOCUMENTS}:{ROOT}", "OPENAI_BASE_URL": openai.url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["final_score"] == 92
    assert found["prompt_history"] == [prompt, "a bright car"]
    assert found["feedback_history"] == ["Dull.", "Fine."]
    assert found["best_image_url"] == found["image_history"][1]
    assert found["thread_id"] == "conv_7"
    first, second = openai.bodies("image")
    tool = first["tools"][0]
    assert (tool["quality"], tool["size"], tool["background"]) == ("high", "1024x1024", "transparent")
    assert tool["output_format"] == "png"
    assert sum(part["type"] == "input_image" for part in first["input"][0]["content"]) == 2
    # The service remembers the first image: neither it nor the references are sent again.
    assert second["previous_response_id"] == "resp_1"
    assert [part["type"] for part in second["input"][0]["content"]] == ["input_text"]


async def test_the_loop_is_a_function(module: str, openai: OpenAIServer, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "a.png")
    openai.say([drawn("red")], [judged(95, "Fine.")])
    found = await part(module, "loop_controller").run_image_generation_loop("a ring", ["a.png"])
    assert (found["final_score"], found["stopped"]) == (95, "threshold")
    assert Path(found["best_image_url"]).read_bytes() == encoded("red")
    with pytest.raises(ConfigError, match="the prompt is empty"):
        await part(module, "loop_controller").run_image_generation_loop(" ", None)


async def test_an_image_is_made_and_gone_on_from(module: str, openai: OpenAIServer) -> None:
    openai.say([drawn("red"), drawn("blue")])
    make = part(module, "image_gen").generate_image
    first = await make("a ring")
    assert Path(first["image_path"]).read_bytes() == encoded("red")
    second = await make("a better ring", previous_response_id=first["response_id"])
    assert openai.bodies("image")[1]["previous_response_id"] == first["response_id"] == "resp_1"
    assert (second["response_id"], Path(second["image_path"]).read_bytes()) == ("resp_2", encoded("blue"))


async def test_an_image_is_judged_and_a_prompt_is_written(module: str, openai: OpenAIServer, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "a.png")
    openai.say(None, [judged(71, "More light.")], [written("a ring in soft light")])
    assert await part(module, "evaluator").evaluate_image("a.png", "a ring") == {"score": 71, "feedback": "More light."}
    assert (
        await part(module, "prompter").generate_prompt("a ring", ["More light.", "Sharper."]) == "a ring in soft light"
    )
    asked = openai.bodies("prompt")[0]["input"][0]["content"]
    assert "The judge: More light.\nSharper." in asked
    assert "of 100" not in asked, "nobody gave a score"
    judge = str(openai.bodies("judge")[0]["messages"])
    assert "Be consistent: the same image gets the same score in every round" in judge
    assert "a short paragraph of critique that says what to change next" in judge


async def test_an_image_is_uploaded(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "a.png")
    upload = part(module, "storage").upload_image_to_cloud
    with pytest.raises(ConfigError, match="set UPLOAD_URL"):
        await upload("a.png")
    monkeypatch.setenv("UPLOAD_URL", f"file://{tmp_path}/shop/best.png")
    assert await upload("a.png") == f"file://{tmp_path}/shop/best.png"
    assert (tmp_path / "shop/best.png").read_bytes() == (tmp_path / "a.png").read_bytes()
