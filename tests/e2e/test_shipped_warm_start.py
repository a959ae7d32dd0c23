"""The shipped warm start is the one that the code makes: settings, tokenizer, shapes and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from agentfly.agents.policy_config import PolicyConfig
from agentfly.training.launch.subprocess_phase import run_phase
from agentfly.training.quickstart.evaluation import EvaluationPlan, evaluate_policy, read_evaluation
from agentfly.training.quickstart.warm_start import (
    _CORPUS,
    FIGURES,
    SHIPPED,
    WarmStartConfig,
    _prepare,
    shipped_warm_start,
)

CONFIG = WarmStartConfig()
REBUILD = "run `python data/build_warm_start.py` and commit data/warm_start"


def test_it_has_the_settings_of_the_code() -> None:
    assert shipped_warm_start(CONFIG) == SHIPPED, REBUILD
    assert PolicyConfig.read(str(SHIPPED)) == CONFIG.card
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 5_000_000


def shapes(folder: Path) -> dict[str, list[int]]:
    with safe_open(folder / "model.safetensors", "numpy") as weights:
        return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118


@pytest.mark.slow
def test_it_has_the_tokenizer_and_the_shapes_of_the_code(tmp_path: Path) -> None:
    """The tokenizer is trained on demonstrations: other demonstrations would give another one."""
    _prepare(CONFIG.model_copy(update={"demonstrations": _CORPUS, "looks": 0}), tmp_path, lambda *_: None)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (SHIPPED / name).read_text(), REBUILD
    assert shapes(tmp_path) == shapes(SHIPPED)


@pytest.mark.slow
def test_it_does_on_held_out_tasks_what_its_record_says(tmp_path: Path) -> None:
    """With other engines, another evaluator or another world, the figures would be of another task."""
    plan = EvaluationPlan(tasks_per_family=20, kept_per_family=0)
    arguments = {"policy": SHIPPED, "out": tmp_path, "plan": plan}
    run_phase(evaluate_policy, arguments, log=tmp_path / "log")
    record = json.loads((SHIPPED / FIGURES).read_text())
    for name in ("greedy", "sampled"):
        found = read_evaluation(tmp_path / f"{name}.jsonl").summary()
        assert overlap(found["score"], record[name]["score"]), (found["score"], REBUILD)
        for family in plan.families:
            assert overlap(found["score_by_family"][family], record[name]["score_by_family"][family]), family


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["low"] <= other["high"] and other["low"] <= one["high"])
