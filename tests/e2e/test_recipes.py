"""Every recipe composes and is accepted by verl's own checks, and every path through the trainer takes a real step.

A launch takes a minute, most of it imports, so recipes that differ in names and sizes alone share one; that is asserted
on the composed configurations. The step runs the recipe as it is, with overrides only: a tiny checkpoint, tasks that
need no network, small sizes.
"""

from __future__ import annotations

import functools
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.log_reader import SAMPLED
from agentfly.training.launch.prepare import prepare
from agentfly.training.recipe.compose import compose
from tests.unit.training.reward_server import RewardServer, reward_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TRAINING = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in ("large", "eval", "sft_warm_start"))
LAUNCHED = ("async", "lora_single_gpu", "qwen2_5_vl_3b_ppo", "qwen3_vl_4b_grpo")
# Its evaluator server sleeps except during the rollout.
ASLEEP = "qwen3_vl_4b_grpo"
# It takes its step as its page says (test_walks_train.py).
LAUNCHED_ELSEWHERE = "laptop"
SMALL = (
    "device=cpu",
    "agentfly.template=compact-tool",
    "agentfly.system_prompt=",
    "agentfly.data={train: stickers, split: train, limit: 4, validation: null, validation_split: null}",
    "agentfly.engines=classical",
    "agentfly.client_nodes=[]",
    "agentfly.evaluator='tests.e2e.scores:Drawn'",
    f"agentfly.environment={{PYTHONPATH: '{RECIPES.parent}'}}",
    "agentfly.limits={max_turns: 3, max_tokens_per_turn: 32, max_images: 6, wall_clock: 120}",
    "agentfly.health={}",
    "agentfly.threads=1",
    "data.train_batch_size=2",
    "data.max_prompt_length=128",
    "data.max_response_length=192",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2048",
    "actor_rollout_ref.rollout.n=4",
    "trainer.total_training_steps=1",
    "trainer.save_freq=-1",
    "trainer.test_freq=-1",
    "trainer.logger=[console,file]",
)
# Changes besides the sizes: there is no second judge.
OWN: dict[str, tuple[str, ...]] = {
    "qwen2_5_vl_3b_ppo": (
        "trainer.critic_warmup=0",
        "agentfly.credit=end",
        "agentfly.audit={evaluator: structural, settings: {share: 1.0}}",
    ),
    "qwen3_vl_4b_grpo": (
        "trainer.logger=[console,file,wandb,trackio,tensorboard]",
        # Also where somebody is logged in.
        "agentfly.environment.WANDB_MODE=offline",
    ),
    "lora_single_gpu": (
        "agentfly.evaluator={evaluator: 'tests.e2e.scores:DrawnLater', without: 8, alike: 4}",
        "agentfly.lost_chains={pause: 0}",
        "agentfly.refill=true",
        "agentfly.curriculum=true",
        # Equal scores are equal rewards.
        "agentfly.reward={format_weight: 0, failed_call_cost: 0, tool_cost: 0, overlong_cost: 0}",
        "trainer.save_freq=1",
    ),
    "async": (
        "agentfly.evaluator='tests.e2e.scores:Dealt'",
        # Two updates a step: the second one gets the log-probs of the weights before the first.
        "actor_rollout_ref.actor.ppo_mini_batch_size=1",
        "trainer.v1.separate_async.parameter_sync_step=2",
    ),
}


def small(name: str, policy: Path | str, out: Path) -> tuple[str, ...]:
    trackio = f"agentfly.environment.TRACKIO_DIR={out}/trackio"  # by default it is in the home folder
    return (*SMALL, f"agentfly.model={policy}", f"agentfly.out={out}", trackio, *OWN.get(name, ()))


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_recipe_composes_as_it_is(name: str) -> None:
    config = compose(RECIPES / f"{name}.yaml")
    assert config.actor_rollout_ref.rollout.max_model_len >= config.data.max_prompt_length
    assert (RECIPES / f"{name}.sh").stat().st_mode & 0o100


def test_a_small_gpu_is_one_gpu() -> None:
    config = compose(RECIPES / "laptop.yaml", ["device=cuda"])
    assert (config.agentfly.device, config.trainer.n_gpus_per_node, config.trainer.nnodes) == ("cuda", 1, 1)


def test_the_recipe_of_the_page_composes(tmp_path: Path) -> None:
    page = (RECIPES.parent / "docs" / "training.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "mine.yaml").write_text(found[1], encoding="utf-8")
    config = compose(tmp_path / "mine.yaml")
    assert config.agentfly.client_nodes == ["localhost:8000", "localhost:8001", "localhost:8002"]
    assert config.trainer.n_gpus_per_node == 8


def trainer_path(config: Any) -> tuple[Any, ...]:
    """Return the settings that decide together which code of the trainer a run takes."""
    algorithm, policy, trainer = config.algorithm, config.actor_rollout_ref, config.trainer.v1
    return (
        algorithm.adv_estimator,
        algorithm.use_kl_in_reward,
        algorithm.rollout_correction.rollout_is,
        trainer.trainer_mode != "sync",
        trainer.sampler.custom_sampler.name,
        policy.actor.strategy,
        policy.actor.use_kl_loss,
        policy.model.lora_rank > 0,
    )


def options(config: Any) -> set[str]:
    """Return the parts that a run may have, independent of its trainer."""
    node = config.agentfly
    return {name for name in ("credit", "audit") if node[name] is not None}


def test_a_launched_recipe_stands_for_each_that_is_not() -> None:
    """A recipe with a new estimator, trainer, sampler, adapter, correction, audit or credit needs a launch of its own.

    Image servers are part of a run in test_kills.py.
    """
    whole = {name: compose(RECIPES / f"{name}.yaml") for name in TRAINING}
    launched = [compose(RECIPES / f"{name}.yaml", small(name, "m", Path("out"))) for name in LAUNCHED]
    paths = {*map(trainer_path, launched), trainer_path(whole[LAUNCHED_ELSEWHERE])}
    known = set[str]().union(*map(options, launched))
    assert {name for name, config in whole.items() if trainer_path(config) not in paths} == set()
    assert {name for name, config in whole.items() if options(config) - known} == set()
    # No launch is made superfluous by another one.
    assert len(paths) == len(LAUNCHED) + 1


@pytest.fixture(scope="module")
def notices() -> dict[str, list[str]]:
    """Notices of the trainers, by recipe."""
    return {}


@pytest.fixture(scope="module")
def rewards() -> Iterator[RewardServer]:
    """A learned reward on a server, which one recipe has as its audit."""
    with reward_server() as server:
        yield server


@pytest.fixture(scope="module")
def stepped(
    warm_policy: Path,
    tmp_path_factory: pytest.TempPathFactory,
    notices: dict[str, list[str]],
    rewards: RewardServer,
) -> Callable[[str], tuple[Path, TrainingOutcome]]:
    """Take one step of a recipe, once; return the run's folder and its outcome."""

    @functools.cache
    def take(name: str) -> tuple[Path, TrainingOutcome]:
        out = tmp_path_factory.mktemp(name)
        audit = f"{{evaluator: {{evaluator: http, base_url: '{rewards.base_url}'}}, settings: {{share: 1.0}}}}"
        sleeps = (f"agentfly.audit={audit}", "agentfly.evaluator_sleep=true") if name == ASLEEP else ()
        run = prepare(compose(RECIPES / f"{name}.yaml", (*small(name, warm_policy, out), *sleeps)))
        return out, launch(run, on_notice=lambda text: notices.setdefault(name, []).append(text))

    return take


def chains_of(folder: Path) -> list[dict[str, Any]]:
    """Return the trajectories of a run."""
    lines = (folder / "trajectories.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["trajectory"] for line in lines]


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_training_recipe_takes_a_real_step(name: str, stepped: Callable[[str], tuple[Path, TrainingOutcome]]) -> None:
    folder, outcome = stepped(name)
    metrics: dict[str, Any] = outcome.metrics[-1][1]
    assert outcome.steps == 1
    # Rewards are random: a step without gradient has lost them on the way, or has nothing to train.
    assert metrics["critic/rewards/mean"] == pytest.approx(metrics["reward/mean"], abs=1e-6)
    assert metrics["actor/grad_norm"] > 0.0
    assert 0.0 < metrics["training/rollout_probs_diff_max"] < 1e-2
    assert outcome.metrics_file.parent == folder
    # The launcher's limits and its console depend on the log of the trainer's process.
    assert f"{SAMPLED} 1" in outcome.log_file.read_text(encoding="utf-8", errors="replace")


def test_a_step_that_its_evaluator_could_not_score_is_sampled_again(
    stepped: Callable[[str], tuple[Path, TrainingOutcome]], notices: dict[str, list[str]]
) -> None:
    folder, outcome = stepped("lora_single_gpu")
    metrics = outcome.metrics[-1][1]
    assert (metrics["chains/sampled_again"], metrics["chains/lost/not_scored"]) == (1, 8)
    [notice] = notices["lora_single_gpu"]
    assert notice.startswith("step 1 is sampled again in 0 s and not trained on: 8 of 8 chains were lost: 8 not scored")
    chains = chains_of(folder)
    assert [chain["reward"] is None for chain in chains].count(True) == 8
    kept = [chain["reward"] for chain in chains if chain["reward"] not in (None, 0.5)]
    assert sum(kept) / 8 == pytest.approx(metrics["critic/rewards/mean"])


def test_a_group_of_equal_rewards_is_replaced_in_a_real_step(
    stepped: Callable[[str], tuple[Path, TrainingOutcome]],
) -> None:
    folder, outcome = stepped("lora_single_gpu")
    metrics = outcome.metrics[-1][1]
    groups: dict[str, set[float]] = {}
    for chain in chains_of(folder):
        if chain["reward"] is not None:
            groups.setdefault(chain["group_id"], set()).add(chain["reward"])
    assert sorted(map(len, groups.values())) == [1, 4, 4]
    assert (metrics["refill/total_groups"], metrics["reward/group/zero_variance"]) == (1, 0)
    assert metrics["tools/total_calls"] > 0
    # Two tasks of the step that was lost, two of that in its place, and one for the group.
    state = torch.load(folder / "checkpoints" / "global_step_1" / "data.pt", weights_only=False)["dataset_state"]
    assert (state["draws"], state["step"]) == (5, 1)
    # What the lost chains were worth, nobody knows.
    assert metrics["curriculum/seen"] == pytest.approx(len({group.split("-again")[0] for group in groups}) / 4)


def test_ppo_trains_a_critic_with_credit_by_turn(stepped: Callable[[str], tuple[Path, TrainingOutcome]]) -> None:
    folder, outcome = stepped("qwen2_5_vl_3b_ppo")
    metrics = outcome.metrics[-1][1]
    assert metrics["critic/vf_loss"] > 0.0
    assert metrics["critic/grad_norm"] > 0.0
    assert metrics["audit/samples"] == 8
    chains = chains_of(folder)
    assert sum(chain["reward"] for chain in chains) / 8 == pytest.approx(metrics["critic/rewards/mean"])


def test_chains_of_a_prompt_are_scored_together_in_a_real_step(
    stepped: Callable[[str], tuple[Path, TrainingOutcome]],
) -> None:
    folder, outcome = stepped("async")
    metrics = outcome.metrics[-1][1]
    assert metrics["reward/group/ranked"] == 1.0
    chains = chains_of(folder)
    scores: dict[str, list[float]] = {}
    for chain in chains:
        scores.setdefault(chain["group_id"], []).append(chain["score"])
    assert all(sorted(group) == pytest.approx([0.0, 100 / 3, 200 / 3, 100.0]) for group in scores.values())


def test_an_evaluator_server_is_awake_for_the_rollout_alone(
    stepped: Callable[[str], tuple[Path, TrainingOutcome]], rewards: RewardServer
) -> None:
    metrics = stepped(ASLEEP)[1].metrics[-1][1]
    # Asleep while the engines start and during the update; in the end awake for others.
    assert rewards.paths == ["sleep", "wake", *["evaluate"] * 8, "sleep", "wake"]
    assert {status for _, status in rewards.calls} == {200}
    assert metrics["audit/samples"] == 8
    assert metrics["timing_s/evaluator_sleep"] > 0.0


def test_loggers_get_the_scalars_and_a_few_chains_of_a_real_step(
    stepped: Callable[[str], tuple[Path, TrainingOutcome]],
) -> None:
    folder, outcome = stepped("qwen3_vl_4b_grpo")
    log = outcome.log_file.read_text(encoding="utf-8", errors="replace")
    assert "training goes on" not in log
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert "reward/mean" in events.Tags()["scalars"]
    assert {"chain_images/best", "chain_images/worst"} <= set(events.Tags()["images"])
    [run] = (folder / "wandb").glob("offline-run-*")
    assert list(run.glob("files/media/images/chain_images/best_1_*.png"))
    [database] = (folder / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        metrics = {name for (row,) in connection.execute("select metrics from metrics") for name in json.loads(row)}
    assert {"reward/mean", "chain_images/best"} <= metrics
    assert list((folder / "trackio").rglob("*.png"))


def test_verl_accepts_every_training_recipe(tiny_policy: Path) -> None:
    """Check all in one process, because verl takes seconds to import. The model has a processor for verl to read."""
    script = (
        "import sys; from pathlib import Path; from agentfly.training.recipe.compose import compose\n"
        "from agentfly.training.verl.preflight import accept\n"
        "for path in sys.argv[2:]: accept(compose(Path(path), [f'agentfly.model={sys.argv[1]}']))"
    )
    files = [str(RECIPES / f"{name}.yaml") for name in TRAINING]
    command = [sys.executable, "-c", script, str(tiny_policy), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
