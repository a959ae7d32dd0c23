"""A trial runs the chains that training would run, says all of them, and keeps them for the other commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.errors import ConfigError, TrainingError
from agentfly.evaluation.hub import HubExport, export_trajectories
from agentfly.evaluation.replay import read_recording
from agentfly.training.trial import run
from agentfly.training.trial.request import TrialRequest
from agentfly.training.trial.show import TrialConsole
from tests.unit.agents.conftest import ChatServer, completion, running_server, server
from tests.unit.tools.mcp.foreign import PROGRAM
from tests.unit.training.chains import good_edit, task_of

pytestmark = pytest.mark.slow

__all__ = ["running_server", "server"]  # fixtures

pytest.importorskip("verl")  # the recipes name its defaults

RECIPE = """
defaults:
  - stickers
  - _self_
agentfly:
  model: {model}
  out: {folder}/run
  data: {{train: stickers, split: heldout, limit: 8, options: {{families: [named]}}}}
"""
ANSWER = {"call": "give_answer", "arguments": {"final_image_id": "img_2"}}
DARKEN = {"call": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}
MINE = "tests.unit.training.trial.tools"


def written(folder: Path, script: object = None, model: object = "nobody/has-it") -> list[str]:
    """A recipe, and a script where one is given; returns the first arguments of the command."""
    (folder / "r.yaml").write_text(RECIPE.format(model=model, folder=folder))
    if script is None:
        return ["try", str(folder / "r.yaml")]
    (folder / "s.yaml").write_text(json.dumps(script))  # JSON is YAML
    return ["try", str(folder / "r.yaml"), "--scripted", str(folder / "s.yaml")]


def tried(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def test_every_turn_and_term_is_shown_and_the_chains_are_kept_for_other_commands(
    tmp_path: Path, warm_policy: Path
) -> None:
    script = {task_of(0).id: [good_edit(task_of(0)), ANSWER], "default": [DARKEN, ANSWER]}
    out = tmp_path / "out"
    found = tried(*written(tmp_path, script, warm_policy), "--tasks", 2, "--samples", 2, "--save", out)
    assert found.exit_code == 0, (found.output, found.exception)
    shown = found.output
    assert shown.count("→ auto_inpaint_image(image_id='img_1'") == 2
    assert shown.count("→ qwen_edit_image(image_id='img_1', prompt='darken')") == 2
    # The counts of the recipe's own tokenizer, against its limits.
    assert "turns 2 of 4, calls 2 of 32, images 2 of 6, prompt tokens" in shown
    assert "of 64, response tokens" in shown
    assert "reward/group/zero_variance" in shown
    assert "no variance, so that GRPO learns nothing from it" in shown
    trial = json.loads((out / "trial.json").read_text())
    assert trial["metrics"]["chains/stop/answered"] == 4.0
    assert trial["metrics"]["reward/group/count"] == 2.0
    assert trial["metrics"]["reward/max"] > 0.5 > trial["metrics"]["reward/min"]
    assert (out / "gallery.html").read_text().count("<article") == 4

    recording = read_recording(out)
    names = [name for index in range(2) for name in (task_of(index).id, f"{task_of(index).id}#2")]
    assert sorted(chain.id for chain in recording.chains) == sorted(names)
    assert all(chain.whole and chain.trajectory.tokens is not None for chain in recording.chains)
    again = tried("replay", out, "--evaluator", "reference", "--re-execute")
    assert again.exit_code == 0, (again.output, again.exception)
    scores = json.loads((out / "replay" / "summary.json").read_text())["all"]["scores"]["reference"]["score"]
    assert scores["mean"] == pytest.approx(100 * trial["metrics"]["reward/part/edit"], abs=0.1)
    assert export_trajectories(HubExport(out, tmp_path / "hub")).rows == {"train": 4}

    # A trial replaces a trial, and nothing else.
    assert tried(*written(tmp_path, [DARKEN, ANSWER], warm_policy), "--tasks", 1, "--save", out).exit_code == 0
    assert len(read_recording(out).chains) == 1
    other = tried(*written(tmp_path, [ANSWER]), "--save", tmp_path)
    assert "is no folder of a trial" in str(other.exception)
    assert (tmp_path / "r.yaml").is_file()


def test_own_tools_and_rewards_run_as_in_training(tmp_path: Path) -> None:
    calls = [{"call": "count_to", "arguments": {"number": number}} for number in (9, 3)]
    answer = {"call": "give_answer", "arguments": {"final_image_id": "img_1"}}
    own = [f"agentfly.tools=['{MINE}:count_to']", f"agentfly.reward='{MINE}:by_words'"]
    found = tried(*written(tmp_path, [*calls, answer]), *own, "--tasks", 1)
    assert found.exit_code == 0, (found.output, found.exception)
    assert "I can only count to 3: give a smaller number" in found.output
    assert "← 1 2 3" in found.output
    assert "words" in found.output
    # No model on this machine: the words are as they are, and their tokens are not counted.
    assert "tokens are not exact" in found.output
    assert "response tokens" not in found.output


def test_chains_of_a_task_are_scored_together_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Chains that wait for the others to be scored with must not keep them from running.
    monkeypatch.setattr(run, "_AT_ONCE", 2)
    words = [*written(tmp_path, [DARKEN, ANSWER]), f"agentfly.evaluator='{MINE}:Brightest'", "--tasks", 1]
    found = tried(*words, "--samples", 3, "--save", tmp_path / "out")
    assert found.exit_code == 0, (found.output, found.exception)
    assert found.output.count("score 0.0 by rank in its group") == 3
    metrics = json.loads((tmp_path / "out" / "trial.json").read_text())["metrics"]
    assert (metrics["reward/group/ranked"], metrics["reward/part/edit"]) == (1.0, 0.0)


def test_chains_that_training_would_lose_say_why(tmp_path: Path) -> None:
    own = [
        f"agentfly.reward='{MINE}:by_words'",
        "agentfly.health={answer_without_edit: {high: 0.1, action: stop, patience: 1}}",
    ]
    answer = {"call": "give_answer", "arguments": {"final_image_id": "img_1"}}
    found = tried(*written(tmp_path, [[DARKEN], ["No tools."], [answer]]), *own, "--tasks", 3)
    assert found.exit_code == 0, (found.output, found.exception)
    shown = " ".join(found.output.split())
    assert "lost: backend: chain step-0-row-0-0 is not trained on: turn 2 was asked for" in shown
    assert (
        "lost: not scored: chain step-0-row-1-0 is not scored: no reward: ValueError: there is no answer to count"
        in shown
    )
    assert "tools.py:" in shown  # the person's own file and line
    assert "training would not learn from such a step: 2 of 3 chains were lost" in shown
    assert "health: answer_without_edit is above 0.1: training stops the run at once" in shown
    nothing = tried(*written(tmp_path, ["No tools."]), own[0], "--tasks", 2)
    assert isinstance(nothing.exception, TrainingError)
    assert "no chain could be trained on" in str(nothing.exception)


def test_an_endpoint_is_tried_with_the_recipes_tools(tmp_path: Path, server: ChatServer) -> None:
    answer = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_1"}}</tool_call>'
    server.say(completion(answer), completion(answer))
    found = tried(*written(tmp_path), "--tasks", 2, "--base-url", server.url, "--model", "theirs")
    assert found.exit_code == 0, (found.output, found.exception)
    assert "theirs at" in found.output
    assert {body["model"] for body in server.bodies} == {"theirs"}
    assert "chains/stop/answered" in found.output


def test_a_trial_that_is_stopped_leaves_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: TrialConsole, chain: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrialConsole, "chain", stop)
    out = tmp_path / "out"
    found = tried(*written(tmp_path, [DARKEN, ANSWER]), "--save", out)
    assert found.exit_code == 130
    assert f"stopped; what was finished is in {out}" in " ".join(found.output.split())
    assert read_recording(out).chains[0].trajectory.answered


def test_wrong_requests_say_what_to_change(tmp_path: Path) -> None:
    missing = tried(*written(tmp_path), "--model", tmp_path / "nowhere")
    assert isinstance(missing.exception, ConfigError)
    assert "nowhere" in str(missing.exception)
    wrong = tried(*written(tmp_path, [ANSWER]), "agentfly.evaluatr=reference")
    assert "evaluator" in str(wrong.exception)
    lacking = tried(*written(tmp_path, [ANSWER]), f"agentfly.reward='{MINE}:by_wish'")
    assert isinstance(lacking.exception, ConfigError)
    assert "unknown argument of the reward function 'wanted'" in str(lacking.exception)
    with pytest.raises(ConfigError, match="leave --model and --base-url out"):
        TrialRequest(Path("r.yaml"), scripted=Path("s.yaml"), model="m")
    with pytest.raises(ConfigError, match="--api-key-env"):
        TrialRequest(Path("r.yaml"), api_key_env="KEY")


def test_tools_of_a_server_are_asked_for_and_the_server_ends_with_the_trial(tmp_path: Path) -> None:
    turns = [
        {"call": "add", "arguments": {"a": 20, "b": 22}},
        {"call": "give_answer", "arguments": {"final_image_id": "img_1"}},
    ]
    server = f"agentfly.tools=[edit, {{mcp: ['{sys.executable}', '{PROGRAM}'], start_timeout: 60}}]"
    found = tried(*written(tmp_path, turns), server, "--tasks", 1)
    assert found.exit_code == 0, (found.output, found.exception)
    assert "add, " in found.output.partition("reward")[0]
    assert "← 42" in found.output


def test_a_scripted_trial_loads_neither_verl_nor_ray_nor_torch(tmp_path: Path) -> None:
    words = written(tmp_path, [DARKEN, ANSWER])
    code = f"""
import sys
from agentfly.cli import main
try:
    main({words!r})
except SystemExit as ended:
    assert not ended.code
print(sorted({{"verl", "ray", "torch", "vllm", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("[]")
