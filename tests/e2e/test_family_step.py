"""verl trains the newest family for a step: from the chat template to the gradient, with weights sent to vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.family_steps import take_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_qwen3_5_takes_a_real_step(tmp_path: Path) -> None:
    outcome = take_step("qwen3_5", tmp_path)
    metrics = outcome.metrics[-1][1]
    assert outcome.steps == 1
    assert metrics["actor/grad_norm"] > 0.0
    # Rollouts in bfloat16, training in float32.
    assert 0.0 < metrics["training/rollout_probs_diff_max"] < 1e-2
