"""The checks that need verl and the policy: each finding in words, whoever made it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentfly.datasets import StickerWorld
from agentfly.errors import ConfigError
from agentfly.evaluators import EditSample, Score
from agentfly.training.recipe.compose import compose, write
from agentfly.training.recipe.verl_dataset import write_rows
from tests.unit.serving.image_server.running import running

pytest.importorskip("verl")
from agentfly.training.verl.preflight import check_family, main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Disabled critic:UserWarning")]

RECIPE = """
defaults:
  - agentfly
  - _self_
  - device: cpu

agentfly:
  out: runs/one
  system_prompt: ""
  data:
    train: stickers
    limit: 4

data:
  max_prompt_length: 64
  max_response_length: 192
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Any:
    recipe = tmp_path_factory.mktemp("recipe") / "small.yaml"
    recipe.write_text(RECIPE)
    sizes = ["data.train_batch_size=2", "actor_rollout_ref.rollout.n=2"]
    return compose(recipe, [f"agentfly.model={tiny_policy}", *sizes])


class Checked:
    """Changes a good configuration and has it checked."""

    def __init__(self, config: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config, self._folder, self._capsys = config, folder, capsys

    def __call__(self, **changes: Any) -> dict[str, Any]:
        from omegaconf import OmegaConf

        changed = self._config.copy()
        for key, value in changes.items():
            OmegaConf.update(changed, key.replace("__", "."), value, force_add=True)
        main(write(changed, self._folder / "config.yaml"))
        line = self._capsys.readouterr().out.strip().splitlines()[-1]
        answer = json.loads(line)
        return {"fault": "\n".join(answer["faults"]) or None, "passed": "; ".join(answer["passed"])}


@pytest.fixture
def checked(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Checked:
    return Checked(config, tmp_path, capsys)


def test_a_good_configuration_and_its_longest_prompt(checked: Checked, tmp_path: Path) -> None:
    result = checked()
    assert result["fault"] is None
    assert result["passed"].startswith(
        "verl accepts the configuration; grpo with the vanilla loss; no rollout correction; "
    )
    assert "; agent image-editing with tools detect_objects, " in result["passed"]
    assert (
        "; agentfly.evaluator can score; no evaluator sleeps during updates; no audit; 4 of the first 4 tasks"
        in result["passed"]
    )
    longest = int(result["passed"].split("prompts have ")[1].split()[0])
    assert 20 < longest <= 64
    # The limit is exact: the longest prompt fits, one token less does not.
    assert checked(data__max_prompt_length=longest)["fault"] is None
    fault = checked(data__max_prompt_length=longest - 1)["fault"]
    assert f"has {longest} tokens, data.max_prompt_length is {longest - 1}: raise it" in fault


OWN = """
from PIL import Image, ImageOps
from agentfly.agents import ImageEditingAgent, reward
from agentfly.tools import tool

@tool
def mirror(image: Image.Image) -> Image.Image:
    \"\"\"Mirror.\"\"\"
    return ImageOps.mirror(image)

@tool
def broken() -> str:
    \"\"\"Fail.\"\"\"
    raise KeyError("gone")

class Own(ImageEditingAgent):
    default_system_prompt = "Edit."

@reward
def by_family(steps, trajectory) -> float:
    return 1.0

@reward
def by_colour(colour) -> float:
    return 1.0
"""


def test_agent_tools_and_reward_of_ones_own_are_tried(
    checked: Checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_run_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "own_run_of_a_test"
    changes: dict[str, Any] = {"agentfly__agent": f"{name}:Own", "agentfly__reward": f"{name}:by_family"}
    changes |= {"data__max_prompt_length": 200, "actor_rollout_ref__rollout__max_model_len": 400}
    good = checked(**changes, agentfly__tools=[f"{name}:mirror"])
    assert good["fault"] is None
    assert re.search(r"agent Own with tools .*, give_answer, mirror; mirror took \d\.\d+ s: img_2", good["passed"])
    assert f"{name}:by_family gives the reward, and asks for no evaluator" in good["passed"]
    bad = checked(**changes | {"agentfly__reward": f"{name}:by_colour"}, agentfly__tools=[f"{name}:broken"])
    assert f"tool 'broken' failed on {{}}: KeyError: 'gone' ({tmp_path}/own_run_of_a_test.py:14)" in bad["fault"]
    assert "unknown argument of the reward function 'colour'" in bad["fault"]
    unchecked = checked(**changes, agentfly__tools=[f"{name}:broken"], agentfly__check_tools=False)
    assert unchecked["fault"] is None


def test_a_file_of_rows_is_measured_too(checked: Checked, tmp_path: Path) -> None:
    rows = write_rows([StickerWorld().task(index, "train") for index in range(3)], tmp_path, "rows")
    result = checked(agentfly__data__train=str(rows))
    assert "of 64 tokens at most" in result["passed"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"actor_rollout_ref__actor__loss_agg_mode": "mean"}, "verl: .*Invalid loss_agg_mode: mean"),
        # verl would look these up at the first update.
        ({"algorithm__adv_estimator": "grpoo"}, r"unknown algorithm\.adv_estimator 'grpoo'\. Did you mean 'grpo'"),
        (
            {"algorithm__rollout_correction__rollout_is": "sequences"},
            r"algorithm\.rollout_correction: Invalid rollout_is: sequences\. Must be one of",
        ),
        (
            {"algorithm__rollout_correction__rollout_rs": "seq_mean_k1"},
            r"algorithm\.rollout_correction: rollout_rs_threshold must be explicitly provided",
        ),
        (
            {"algorithm__rollout_correction": {"bypass_mode": True, "loss_type": "reinforced"}},
            r"unknown algorithm\.rollout_correction\.loss_type 'reinforced'\. Did you mean 'reinforce'",
        ),
        (
            {"actor_rollout_ref__actor__policy_loss__loss_mode": "vanila"},
            r"unknown actor_rollout_ref\.actor\.policy_loss\.loss_mode 'vanila'\. Did you mean 'vanilla'",
        ),
    ],
)
def test_what_verl_would_refuse_is_reported(checked: Checked, changes: dict[str, Any], fault: str) -> None:
    assert re.match(fault, checked(**changes)["fault"] or "")


def test_our_own_estimator_is_known(checked: Checked) -> None:
    result = checked(algorithm__adv_estimator="turn_grpo")
    assert result["fault"] is None
    assert "turn_grpo with the vanilla loss" in result["passed"]


def test_a_correction_is_told_by_its_parts(checked: Checked) -> None:
    parts = {"rollout_is": "sequence", "rollout_rs": "seq_max_k2", "rollout_rs_threshold": 0.5}
    result = checked(algorithm__rollout_correction=parts)
    assert "rollout correction: weights sequence, rejection seq_max_k2; " in result["passed"]
    without = {"actor_rollout_ref__rollout__calculate_log_probs": False}
    fault = checked(algorithm__rollout_correction=parts, **without)["fault"]
    assert "leave out actor_rollout_ref.rollout.calculate_log_probs=false" in fault


def test_a_policy_that_is_elsewhere_is_not_measured(checked: Checked) -> None:
    result = checked(agentfly__model="Qwen/Qwen2.5-VL-3B-Instruct")
    assert result["fault"] is None
    assert "Qwen/Qwen2.5-VL-3B-Instruct is not on this machine, so its prompts were not measured" in result["passed"]
    assert "give agentfly.model=FOLDER" in result["passed"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"agentfly__evaluator": "referense"}, "unknown evaluator 'referense'. Did you mean 'reference'"),
        ({"agentfly__audit": {"evaluator": "structurl"}}, "unknown evaluator 'structurl'. Did you mean 'structural'"),
        (
            {"agentfly__audit": {"evaluator": "detector"}},
            "agentfly.audit: none of the first 4 tasks can be scored: the task names no checks",
        ),
        ({"agentfly__engines": "modles"}, "unknown engines 'modles'. Did you mean 'models'"),
        ({"agentfly__template": "compact-tol"}, "unknown template 'compact-tol'. Did you mean 'compact-tool'"),
        ({"agentfly__tools": ["detect_object"]}, "unknown tool 'detect_object'. Did you mean 'detect_objects'"),
        ({"agentfly__health": {"tool_cals": None}}, "unknown health metric 'tool_cals'. Did you mean 'tool_calls'"),
        ({"agentfly__data__train": "nothere.jsonl"}, "there is no file or folder nothere.jsonl"),
        ({"data__train_batch_size": 8}, "has 4 tasks, and a step takes data.train_batch_size=8: lower that and"),
        ({"agentfly__model": "runs/nowhere/policy"}, "agentfly.model=runs/nowhere/policy: there is no such folder"),
        (
            {"agentfly__evaluator": {"evaluator": "judge", "model": "m", "base_url": "http://127.0.0.1:9/v1"}},
            "agentfly.evaluator: the judge m at http://127.0.0.1:9/v1 did not answer",
        ),
        (
            {"agentfly__audit": {"evaluator": {"evaluator": "http", "base_url": "http://127.0.0.1:9"}}},
            "agentfly.audit.evaluator: the evaluator at http://127.0.0.1:9 does not answer",
        ),
        (
            {"custom_reward_function__path": "mine.py"},
            "custom_reward_function.path=mine.py would not be used: chains are scored by agentfly.evaluator",
        ),
        (
            {"actor_rollout_ref__rollout__max_model_len": 5000},
            "a chain may have 5000 tokens, and the model has positions for 4096 (max_position_embeddings): lower",
        ),
        (
            {"agentfly__client_nodes": ["localhost:9"]},
            "no image server can be used (http://localhost:9: cannot",
        ),
    ],
)
def test_what_a_run_would_find_out_late_is_reported(checked: Checked, changes: dict[str, Any], fault: str) -> None:
    assert fault in (checked(**changes)["fault"] or "")


def test_tasks_without_what_the_evaluator_needs_are_reported(checked: Checked, tmp_path: Path) -> None:
    tasks = [dataclasses.replace(StickerWorld().task(index, "train"), target=None) for index in range(3)]
    rows = write_rows(tasks, tmp_path, "rows")
    fault = checked(agentfly__data__train=str(rows))["fault"]
    assert "none of the first 3 tasks can be scored: the reference evaluator needs the target and the mask" in fault


def test_all_that_is_wrong_is_reported_together_and_once(checked: Checked) -> None:
    faults = checked(
        actor_rollout_ref__rollout__n=1,
        agentfly__evaluator="referense",
        agentfly__client_nodes=["localhost:9"],
        agentfly__template="compact-tol",
        agentfly__tools=["detect_object"],
        data__max_prompt_length=10,
    )["fault"]
    words = [
        "grpo compares samples of one prompt",
        "unknown template",
        "unknown tool",
        "no image server can be used",
        "unknown evaluator",
    ]
    # Prompts are not measured with a template that is not there.
    assert [line.startswith(word) for line, word in zip(faults.splitlines(), words, strict=True)] == [True] * 5


def test_an_image_server_that_is_silent_beside_one_that_answers_is_reported(checked: Checked) -> None:
    with running(model_type="classical", worker_slots=1) as server:
        result = checked(agentfly__client_nodes=[server.url.removeprefix("http://"), "localhost:9"])
    assert result["fault"] is None
    assert "image servers that cannot be used from here: http://localhost:9 (cannot connect" in result["passed"]


SILENT = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- for part in message.content -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}{{- '<|im_start|>assistant\\n' -}}"""


def test_a_template_that_ignores_the_tools_is_reported(checked: Checked, tmp_path: Path) -> None:
    (tmp_path / "silent.jinja").write_text(SILENT)
    sizes = {"data__max_prompt_length": 2000, "actor_rollout_ref__rollout__max_model_len": 2192}
    silent = {"agentfly__template": str(tmp_path / "silent.jinja"), **sizes}
    fault = checked(**silent)["fault"]
    assert f"the chat template ({tmp_path / 'silent.jinja'}) does not show the tools to the policy" in fault
    assert "give agentfly.template=qwen2.5-vl-system-tool or" in fault
    # Who names all of them by hand has another way to show them.
    names = "detect_objects inpaint_image auto_inpaint_image qwen_edit_image give_answer"
    assert checked(**silent, agentfly__system_prompt=names)["fault"] is None


def test_a_bug_in_an_evaluator_does_not_hide_the_other_problems(checked: Checked) -> None:
    faults = checked(agentfly__evaluator=f"{__name__}:Buggy", data__train_batch_size=8)["fault"]
    assert "ZeroDivisionError: a bug" in faults
    assert "a step takes data.train_batch_size=8" in faults


class Buggy:
    """Breaks when it is asked whether it is ready."""

    async def evaluate(self, sample: EditSample) -> Score:
        return Score(0.0)

    async def check_ready(self) -> None:
        raise ZeroDivisionError("a bug")


def test_a_family_that_verl_cannot_train_is_refused_with_the_reason(tmp_path: Path) -> None:
    def check(model_type: str | None) -> str:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type} if model_type else {}))
        return check_family(None, SimpleNamespace(model=str(tmp_path)))  # type: ignore[arg-type]

    assert check("qwen2_5_vl") == "verl trains Qwen2.5-VL (qwen2_5_vl)"
    assert "unknown: config.json is not in" in check(None)
    assert "of no family that was tried" in check("bert")
    with pytest.raises(ConfigError, match=r"Gemma 3 \(gemma3\) cannot be trained: .*tokenizer.py:236"):
        check("gemma3")
