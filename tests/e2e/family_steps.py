"""One step of verl for a model family, on a tiny checkpoint of its real class: `python -m tests.e2e.family_steps`.

A step takes minutes, most of it imports and starts, so the suite takes one for the newest family that is trained
(`test_family_step.py`). By hand: `python -m tests.e2e.family_steps qwen3_vl qwen3_vl_moe glm4v`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from agentfly.templates import load_template, template_names
from agentfly.templates.families import find_family
from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.prepare import prepare
from agentfly.training.recipe.compose import compose
from tests.tiny.families import build_family

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = (
    "device=cpu",
    "agentfly.system_prompt=",
    "agentfly.tools=[qwen_edit_image, give_answer]",
    "agentfly.data={train: stickers, split: train, limit: 4, validation: null, validation_split: null}",
    "agentfly.engines=classical",
    "agentfly.client_nodes=[]",
    "agentfly.evaluator='tests.e2e.scores:Drawn'",
    f"agentfly.environment={{PYTHONPATH: '{RECIPES.parent}'}}",
    "agentfly.limits={max_turns: 2, max_tokens_per_turn: 32, max_images: 4, wall_clock: 600}",
    "agentfly.health={}",
    "agentfly.threads=1",
    "data.train_batch_size=2",
    "data.max_prompt_length=3072",
    "data.max_response_length=512",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192",
    "actor_rollout_ref.rollout.n=2",
    "trainer.total_training_steps=1",
    "trainer.save_freq=-1",
    "trainer.test_freq=-1",
    "trainer.logger=[console,file]",
)
# vLLM's linear attention on a CPU is in bfloat16 (vllm/model_executor/layers/mamba/ops/cpu/gdn_attention.py:53). It
# caches prefixes only where prompts may be cut, which a seeded request does not survive there (agentfly's defaults).
LINEAR_ATTENTION = ("qwen3_5", "qwen3_5_moe")
ON_CPU = ("actor_rollout_ref.rollout.dtype=bfloat16", "actor_rollout_ref.rollout.enable_prefix_caching=false")


def take_step(model_type: str, folder: Path) -> TrainingOutcome:
    """Train a tiny checkpoint of a model type for one step, with the recipe of Qwen3.5 on eight GPUs made small.

    Args:
        model_type: of a family that is trained.
        folder: for the checkpoint and the run.
    """
    family = find_family(model_type)
    assert family is not None
    name = family.templates[0]
    quiet = f"{name}-no-thinking"
    policy = build_family(model_type, folder / "policy", load_template(name))
    given = [
        f"agentfly.model={policy}",
        f"agentfly.out={folder / 'run'}",
        f"agentfly.template={quiet if quiet in template_names() else name}",
        *(ON_CPU if model_type in LINEAR_ATTENTION else ()),
    ]
    return launch(prepare(compose(RECIPES / "qwen3_5_4b_grpo.yaml", [*SMALL, *given])))


def main() -> None:
    """Take a step for each model type that is named, and print its metrics."""
    for model_type in sys.argv[1:] or ["qwen3_5"]:
        with tempfile.TemporaryDirectory() as folder:
            outcome = take_step(model_type, Path(folder))
            metrics = outcome.metrics[-1][1] if outcome.metrics else {}
            names = ("actor/grad_norm", "training/rollout_probs_diff_max", "training/rollout_actor_probs_pearson_corr")
            found = ", ".join(f"{name} {metrics.get(name)}" for name in names)
            sys.stdout.write(f"{model_type}: {outcome.steps} step, {found}\n")


if __name__ == "__main__":
    main()
