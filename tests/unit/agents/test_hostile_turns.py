"""Whatever a policy writes, its chain ends by a limit or by the policy, and can be written and read back."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RolloutLimits
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.trajectory_file import TrajectoryLine
from tests.fuzz.texts import texts


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(texts(2000), min_size=1, max_size=3))
async def test_no_turn_is_a_bug_of_the_chain(turns: list[str]) -> None:
    limits = RolloutLimits(max_turns=3, max_tool_calls=8)
    agent = ImageEditingAgent(
        "s", backend=ScriptedBackend([*turns, "I am done."]), settings=AgentSettings(limits=limits)
    )
    content = [{"type": "image", "image": Image.new("RGB", (16, 16), "white")}, {"type": "text", "text": "Edit."}]
    (trajectory,) = await agent.run([{"role": "user", "content": content}])
    assert trajectory.stop_reason is not None
    assert not trajectory.stop_reason.failed, trajectory.error
    written = json.loads(TrajectoryLine.of_chain(trajectory).to_json().encode("utf-8", "replace"))
    assert written["trajectory"]["stop_reason"] == trajectory.stop_reason.value
