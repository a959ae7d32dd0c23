"""A real run of `colocate_async` with slow tools, killed and resumed: chains overlap with updates, and none is lost.

Unlike with the synchronous trainer, the chains of a resumed run are not those of an undisturbed one: which weights a
turn is sampled with depends on the moment. What must hold is that every task is trained on once, and that the trainer
gets the tokens and probabilities that were sampled, also of turns that new weights interrupted.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.prepare import prepare
from agentfly.training.recipe.compose import compose, to_override
from tests.scripts import load_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
STEPS, KILLED, PROMPTS, SAMPLES = 4, 2, 2, 2


class Killed(BaseException):
    """As when the launcher gets a signal."""


@dataclass(frozen=True)
class Resumed:
    """A run that was killed after a step and went on; `trained` has the lines of verl's dump of each step."""

    out: Path
    outcome: TrainingOutcome
    trained: dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    out = tmp_path_factory.mktemp("async")
    benchmark = load_script("benchmarks/async_training.py")
    budget = benchmark.Budget(steps=STEPS, prompts=PROMPTS, samples=SAMPLES, test_tasks=5)
    values = benchmark.overrides(out, budget, "colocate_async", 1.0) | {
        "agentfly.out": out / "run",
        # The weights stay as good as equal: the probabilities of old ones are those of new ones.
        "actor_rollout_ref.actor.optim.lr": 1e-7,
        "agentfly.patience.ray": 900,  # of a machine that is busy with other tests
        "trainer.save_freq": 1,
        "trainer.test_freq": -1,
        "trainer.rollout_data_dir": out / "trained",
    }

    def kill(step: int, metrics: dict[str, float]) -> None:
        if step == KILLED:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        given = [*(to_override(key, value) for key, value in values.items()), *benchmark.MODES["colocate_async"]]

        def run(**hooks: Any) -> TrainingOutcome:
            return launch(prepare(compose(benchmark.RECIPE, given)), **hooks)

        with pytest.raises(Killed):
            run(on_step=kill)
        outcome = run()
    trained = {
        int(file.stem): [json.loads(line) for line in file.read_text().splitlines()]
        for file in (out / "trained").glob("*.jsonl")
    }
    return Resumed(out / "run", outcome, trained)


def test_every_step_is_there_once_and_every_task_is_trained_on_once(resumed: Resumed) -> None:
    steps = [json.loads(line)["step"] for line in (resumed.out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    # The launcher was killed while it reported a step, which it writes down afterwards.
    assert set(range(1, STEPS + 1)) - set(steps) <= {KILLED}
    assert sorted(resumed.trained) == list(range(1, STEPS + 1))
    uses: Counter[str] = Counter()
    for rows in resumed.trained.values():
        prompts = Counter(row["uid"].partition("_")[0] for row in rows)
        assert list(prompts.values()) == [SAMPLES] * PROMPTS
        uses.update(prompts.keys())
    assert set(uses.values()) == {1}


def test_tasks_in_work_when_it_was_killed_go_on(resumed: Resumed) -> None:
    log = resumed.outcome.log_file.read_text(encoding="utf-8", errors="replace")
    # The batch ahead, and nothing of the step that the checkpoint is of.
    assert f"Restored {PROMPTS} training prompt groups" in log
    assert "Skipping async warmup" in log


def test_chains_are_older_than_the_weights_and_their_probabilities_are_those_that_were_sampled(
    resumed: Resumed,
) -> None:
    steps = [json.loads(line)["data"] for line in (resumed.out / "metrics.jsonl").read_text().splitlines()]
    behind = [step["training/off_policy/trajectory_staleness_worst/max"] for step in steps]
    assert behind[0] == 0
    assert 1 <= max(behind) <= STEPS
    assert all(0.0 < step["training/rollout_probs_diff_max"] < 1e-2 for step in steps)
    assert all(step["chains/lost"] == 0 for step in steps)
