"""Every recipe composes and is accepted by verl's own checks; each training recipe takes one real step on a CPU.

The step runs the recipe as it is, with overrides only: a tiny checkpoint, tasks that need no network, small sizes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentfly.training.compose import compose
from agentfly.training.launch import TrainingOutcome, launch
from agentfly.training.prepare import prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RECIPES = Path(__file__).parents[2] / "recipes"
TRAINING = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in ("large", "eval", "sft_warm_start"))
# The other one takes its step in the chain from training to an edited picture (tests/unit/training/supervised).
STEPPING = [name for name in TRAINING if name != "quickstart"]
SMALL = (
    "device=cpu",
    "agentfly.template=compact-tool",
    "agentfly.system_prompt=",
    "agentfly.data={train: stickers, split: train, limit: 4, validation: null, validation_split: null}",
    "agentfly.engines=classical",
    "agentfly.client_nodes=[]",
    "agentfly.evaluator=reference",
    "agentfly.limits={max_turns: 3, max_tokens_per_turn: 32, max_images: 6, wall_clock: 120}",
    "agentfly.health={}",
    "agentfly.threads=1",
    "data.train_batch_size=2",
    "data.max_prompt_length=128",
    "data.max_response_length=192",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2048",
    "actor_rollout_ref.rollout.n=2",
    "trainer.total_training_steps=1",
    "trainer.save_freq=-1",
    "trainer.test_freq=-1",
    "trainer.logger=[console,file]",
)
# What a recipe needs beside the sizes: one accelerator cannot be split between trainer and rollout, and verl's engines
# for sending weights between two need GPUs; there is no second judge.
OWN: dict[str, tuple[str, ...]] = {
    "qwen2_5_vl_3b_ppo": (
        "trainer.critic_warmup=0",
        "agentfly.credit=end",
        "agentfly.audit={evaluator: structural, settings: {share: 1.0}}",
    ),
    "async": (
        "trainer.v1.trainer_mode=colocate_async",
        "actor_rollout_ref.rollout.nnodes=0",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=naive",
    ),
    "qwen2_5_vl_7b_grpo": ("agentfly.audit={evaluator: structural, settings: {share: 1.0}}",),
}


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_recipe_composes_as_it_is(name: str) -> None:
    config = compose(RECIPES / f"{name}.yaml")
    assert config.actor_rollout_ref.rollout.max_model_len >= config.data.max_prompt_length
    assert (RECIPES / f"{name}.sh").stat().st_mode & 0o100


def test_the_recipe_of_the_page_composes(tmp_path: Path) -> None:
    page = (RECIPES.parent / "docs" / "training.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "mine.yaml").write_text(found[1], encoding="utf-8")
    config = compose(tmp_path / "mine.yaml")
    assert config.agentfly.client_nodes == ["localhost:8000", "localhost:8001", "localhost:8002"]
    assert config.trainer.n_gpus_per_node == 8


def small(name: str, policy: Path, out: Path) -> tuple[str, ...]:
    return (*SMALL, f"agentfly.model={policy}", f"agentfly.out={out}", *OWN.get(name, ()))


@pytest.fixture(scope="module")
def launches(
    tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Path, Future[TrainingOutcome]]]]:
    """Two at a time: most of a launch is the imports of its processes, one after the other."""
    folders = {name: tmp_path_factory.mktemp(name) for name in STEPPING}
    with ThreadPoolExecutor(2) as pool:

        def start(name: str) -> Future[TrainingOutcome]:
            what = prepare(RECIPES / f"{name}.yaml", small(name, tiny_policy, folders[name]))
            return pool.submit(launch, what)

        yield {name: (folder, start(name)) for name, folder in folders.items()}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", STEPPING)
def test_a_training_recipe_takes_a_real_step(
    name: str, launches: dict[str, tuple[Path, Future[TrainingOutcome]]]
) -> None:
    folder, step = launches[name]
    outcome = step.result(timeout=800)
    metrics: dict[str, Any] = outcome.metrics[-1][1]
    assert outcome.steps == 1
    assert metrics["actor/grad_norm"] >= 0.0
    assert metrics["training/rollout_probs_diff_max"] < 1e-2
    assert outcome.metrics_file.parent == folder


def test_ppo_trains_a_critic_with_credit_by_turn(launches: dict[str, tuple[Path, Future[TrainingOutcome]]]) -> None:
    folder, step = launches["qwen2_5_vl_3b_ppo"]
    metrics = step.result(timeout=800).metrics[-1][1]
    assert metrics["critic/vf_loss"] > 0.0
    assert metrics["critic/grad_norm"] > 0.0
    assert metrics["audit/samples"] == 4
    chains = [json.loads(line)["trajectory"] for line in (folder / "trajectories.jsonl").read_text().splitlines()]
    assert sum(chain["reward"] for chain in chains) / 4 == pytest.approx(metrics["critic/rewards/mean"])


def test_verl_accepts_every_training_recipe(tiny_policy: Path) -> None:
    """One process for all of them: verl takes seconds to import. Only the model is another: it reads its processor."""
    script = (
        "import sys; from pathlib import Path; from agentfly.training.compose import compose\n"
        "from agentfly.training.verl_checks import accept\n"
        "for path in sys.argv[2:]: accept(compose(Path(path), [f'agentfly.model={sys.argv[1]}']))"
    )
    files = [str(RECIPES / f"{name}.yaml") for name in TRAINING]
    command = [sys.executable, "-c", script, str(tiny_policy), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
