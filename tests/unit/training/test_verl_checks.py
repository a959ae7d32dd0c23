"""The checks that need verl and the policy: each finding in words, whoever made it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentfly.datasets import StickerWorld
from agentfly.training.compose import compose, write
from agentfly.training.rows import write_rows

pytest.importorskip("verl")
from agentfly.training.verl_checks import main

pytestmark = pytest.mark.filterwarnings("ignore:Disabled critic:UserWarning")

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
        return dict(json.loads(line))


@pytest.fixture
def checked(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Checked:
    return Checked(config, tmp_path, capsys)


def test_a_good_configuration_and_its_longest_prompt(checked: Checked, tmp_path: Path) -> None:
    told = checked()
    assert told["fault"] is None
    assert told["told"].startswith("verl accepts the configuration; grpo with the vanilla loss; tools detect_objects, ")
    assert "; no image servers; 4 of the first 4 tasks can be scored; prompts have " in told["told"]
    longest = int(told["told"].split("prompts have ")[1].split()[0])
    assert 20 < longest <= 64
    # The limit is exact: the longest prompt fits, one token less does not.
    assert checked(data__max_prompt_length=longest)["fault"] is None
    fault = checked(data__max_prompt_length=longest - 1)["fault"]
    assert f"has {longest} tokens, data.max_prompt_length is {longest - 1}: raise it" in fault


def test_a_file_of_rows_is_measured_too(checked: Checked, tmp_path: Path) -> None:
    rows = write_rows([StickerWorld().task(index, "train") for index in range(3)], tmp_path, "rows")
    told = checked(agentfly__data__train=str(rows))
    assert "of 64 tokens at most" in told["told"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"actor_rollout_ref__actor__loss_agg_mode": "mean"}, "verl: .*Invalid loss_agg_mode: mean"),
        # verl would look these up at the first update.
        ({"algorithm__adv_estimator": "grpoo"}, r"unknown algorithm\.adv_estimator 'grpoo'\. Did you mean 'grpo'"),
        (
            {"actor_rollout_ref__actor__policy_loss__loss_mode": "vanila"},
            r"unknown actor_rollout_ref\.actor\.policy_loss\.loss_mode 'vanila'\. Did you mean 'vanilla'",
        ),
    ],
)
def test_what_verl_would_refuse_is_told(checked: Checked, changes: dict[str, Any], fault: str) -> None:
    assert re.match(fault, checked(**changes)["fault"] or "")


def test_our_own_estimator_is_known(checked: Checked) -> None:
    told = checked(algorithm__adv_estimator="turn_grpo")
    assert told["fault"] is None
    assert "turn_grpo with the vanilla loss" in told["told"]


def test_a_policy_that_is_elsewhere_is_not_measured(checked: Checked) -> None:
    told = checked(agentfly__model="Qwen/Qwen2.5-VL-3B-Instruct")
    assert told["fault"] is None
    assert "Qwen/Qwen2.5-VL-3B-Instruct is not on this machine, so its prompts were not measured" in told["told"]
    assert "give agentfly.model=FOLDER" in told["told"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"agentfly__evaluator": "referense"}, "unknown evaluator 'referense'. Did you mean 'reference'"),
        ({"agentfly__audit": {"evaluator": "structurl"}}, "unknown evaluator 'structurl'. Did you mean 'structural'"),
        ({"agentfly__engines": "modles"}, "unknown engines 'modles'. Did you mean 'models'"),
        ({"agentfly__template": "compact-tol"}, "unknown template 'compact-tol'. Did you mean 'compact-tool'"),
        ({"agentfly__tools": ["detect_object"]}, "unknown tool 'detect_object'. Did you mean 'detect_objects'"),
        ({"agentfly__health": {"tool_cals": None}}, "unknown health metric 'tool_cals'. Did you mean 'tool_calls'"),
        ({"agentfly__data__train": "nothere.jsonl"}, "there is no file or folder nothere.jsonl"),
        ({"data__train_batch_size": 8}, "has 4 tasks, and a step takes data.train_batch_size=8: lower that and"),
        ({"agentfly__model": "runs/nowhere/policy"}, "agentfly.model=runs/nowhere/policy: there is no such folder"),
    ],
)
def test_what_a_run_would_find_out_late_is_told(checked: Checked, changes: dict[str, Any], fault: str) -> None:
    assert fault in (checked(**changes)["fault"] or "")


def test_tasks_without_what_the_evaluator_needs_are_told(checked: Checked, tmp_path: Path) -> None:
    tasks = [dataclasses.replace(StickerWorld().task(index, "train"), target=None) for index in range(3)]
    rows = write_rows(tasks, tmp_path, "rows")
    fault = checked(agentfly__data__train=str(rows))["fault"]
    assert "none of the first 3 tasks can be scored: the reference evaluator needs the target and the mask" in fault


def test_image_servers_that_are_silent_are_told(checked: Checked) -> None:
    told = checked(agentfly__client_nodes=["localhost:9"])
    assert told["fault"] is None
    assert "image servers that cannot be used yet: localhost:9 (cannot connect" in told["told"]
