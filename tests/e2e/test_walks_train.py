"""Run the commands of docs/training.md: with a user's own images, own reward and own tool.

The commands and the code are taken from the pages. The one launch is made short; a launch takes a minute or two.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from agentfly.datasets.photos import load_photo
from tests.unit.agents.conftest import ChatServer, completion, running_server, server
from tests.unit.evaluation.agents import call

__all__ = ["running_server", "server"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "training.md"
SHORT = (
    "trainer.total_training_steps=1",
    "trainer.save_freq=1",
    "data.train_batch_size=2",
    "actor_rollout_ref.rollout.n=2",
)


def section(page: Path, title: str, language: str) -> list[str]:
    """Return the fenced blocks of a section."""
    text = page.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found, f"{page.name} has no {language} in {title!r}"
    return found


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the recipes, the policy, thirty images, and the modules that the pages show."""
    folder = tmp_path_factory.mktemp("walk")
    for name in ("recipes", "data"):
        (folder / name).symlink_to(ROOT / name)
    lines = [json.dumps(_own_image(folder, number)) for number in range(30)]
    (folder / "mine.jsonl").write_text("\n".join(lines))
    [own_score] = section(PAGE, "2. The evaluator", "python")
    subprocess.run([sys.executable, "-c", own_score], cwd=folder, check=True, timeout=60)
    [own_tool] = section(ROOT / "docs" / "agent.md", "Your own tools and rewards", "python")
    (folder / "mirrors.py").write_text(own_tool.partition("@reward")[0])
    return folder


def _own_image(folder: Path, number: int) -> dict[str, str]:
    """Write a photograph with a red disc, one without it, and a mask of the disc; sizes differ, as users' do."""
    name, size = ("coffee.png", "chelsea.png")[number % 2], ((320, 240), (180, 260), (400, 300))[number % 3]
    target = load_photo(name).convert("RGB").resize(size)
    source, mask = target.copy(), Image.new("L", size)
    left, top = 20 + 37 * number % (size[0] - 90), 20 + 23 * number % (size[1] - 90)
    for image, colour in ((source, (225, 30, 35)), (mask, 255)):
        ImageDraw.Draw(image).ellipse((left, top, left + 50, top + 50), fill=colour)
    row = {"image": f"{number}.png", "target": f"{number}_target.png", "mask": f"{number}_mask.png"}
    for image, file in zip((source, target, mask), row.values(), strict=True):
        image.save(folder / file)
    return {"instruction": "Remove the red circle.", **row}


def typed(folder: Path, line: str, *more: str, code: int = 0) -> str:
    """Run a command of the page in a folder, as a shell with the environment activated does; return what it printed."""
    program, *words = line.split()
    assert program == "agentfly"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    command = [str(Path(sys.executable).with_name(program)), *words, *more]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, f"{line}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_thirty_images_on_a_laptop_with_a_reward_of_ones_own(user_folder: Path) -> None:
    [block] = section(PAGE, "Thirty images on a laptop", "bash")
    check, dry_run, train, replay, export = block.splitlines()
    [own_reward] = section(PAGE, "2. The evaluator", "bash")
    assert own_reward.strip() == f"{train} agentfly.evaluator=my_score:NoRed"

    assert "30 rows, no problems" in typed(user_folder, check)
    # The recipe takes thirty images without any change.
    assert "16 of the first 16 tasks have what their score needs" in typed(user_folder, dry_run)
    assert not (user_folder / "runs").exists()

    # One launch for two commands of the page: the second adds an evaluator of one's own.
    assert "step 1/1" in typed(user_folder, own_reward.strip(), *SHORT)
    chains = [json.loads(line) for line in (user_folder / "runs/laptop/trajectories.jsonl").read_text().splitlines()]
    trained = [chain["trajectory"] for chain in chains if not chain["validate"]]
    assert len(trained) == 4
    assert all(0.0 <= chain["score"] <= 100.0 for chain in trained)

    assert "| **all** |" in typed(user_folder, replay)
    replayed = json.loads((user_folder / "runs/laptop/replay/summary.json").read_text())["all"]
    assert replayed["scores"]["structural"]["scored"] == len(chains)
    assert (user_folder / "runs/laptop/replay/gallery.html").read_text().count("<article") == len(chains)

    typed(user_folder, export)
    assert (user_folder / "policies/laptop/model.safetensors").is_file()


def test_a_tool_of_ones_own_in_an_evaluation(user_folder: Path, server: ChatServer) -> None:
    [line] = [
        line
        for block in section(ROOT / "docs" / "evaluation.md", "Agents", "bash")
        for line in block.splitlines()
        if "mirrors:MirrorAgent" in line
    ]
    for _ in range(2):
        server.say(
            completion(call("mirror", image_id="img_1")), completion(call("give_answer", final_image_id="img_2"))
        )
    line = line.replace("http://localhost:8000/v1", server.url)
    typed(user_folder, line, "--limit", "2", "--concurrency", "1")
    everything = json.loads((user_folder / "runs/mirrors/summary.json").read_text())["all"]
    assert everything["tools"] == {"mirror": 2, "give_answer": 2}
    assert everything["scores"]["structural"]["scored"] == 2
    shown = json.dumps(server.bodies[0]["tools"])
    assert '"mirror"' in shown
    assert "qwen_edit_image" in shown
