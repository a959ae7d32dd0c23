"""The system as an agent in tables: it does editing tasks, and its trajectories tell the truth."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from PIL import Image

from agentfly.agents.display.strip import steps
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.agents.tasks import EvaluationSetup, score_trajectory
from agentfly.agents.trajectory import StopReason, Trajectory
from agentfly.datasets.task import EditTask
from agentfly.errors import BackendError, ConfigError
from agentfly.evaluators import EditSample, Score
from agentfly.images import ImageStore, handle_of
from agentfly.systems.director_generator.task_agent import DirectorGeneratorTaskAgent
from tests.unit.systems.director_generator.conftest import Configure, StudioServer, said, shown
from tests.values import pixel

SOURCE = Image.new("RGB", (48, 48), (90, 60, 30))
TASK = EditTask("t1", "Make it brighter.", (SOURCE,), task_type="look", metadata={"seed": 3})


def editors(instruction: str = "brighten", score: int = 90, fails: str = "nothing") -> ScriptedBackend:
    def say(request: GenerationRequest) -> str:
        user = request.messages[-1].text
        if fails in user:
            raise BackendError("the line is dead")
        if "Write a brief" in user:
            return "Brighter."
        if "Answer with one JSON object" in user:
            return f'{{"feedback": "ok", "score": {score}}}'
        return instruction

    return ScriptedBackend(say)


async def attempt(configure: Configure, backend: ScriptedBackend, **settings: object) -> tuple[Trajectory, object]:
    agent = DirectorGeneratorTaskAgent(config=configure(), backend=backend, **settings)  # type: ignore[arg-type]
    trajectory = await agent.attempt(TASK)
    await agent.close()
    return trajectory, agent.store


async def test_a_task_is_done_by_the_editor_and_told_turn_by_turn(configure: Configure) -> None:
    agent = DirectorGeneratorTaskAgent(config=configure(), backend=editors())
    trajectory = await agent.attempt(TASK)
    assert (agent.name, trajectory.group_id, trajectory.stop_reason) == (
        "director-generator",
        "t1",
        StopReason.ANSWERED,
    )
    assert len(trajectory.turns) == 5
    assert [record.engine for record in trajectory.tool_records] == ["classical", "classical"]
    assert trajectory.final_image is not None
    assert trajectory.final_image != handle_of(SOURCE)
    assert trajectory.images[0] == trajectory.names["img_1"] == handle_of(SOURCE)
    assert trajectory.tokens is None
    assert trajectory.score is None
    assert trajectory.metadata["director-generator"]["directors_score"] == 90
    assert trajectory.metadata["task_type"] == "look"
    assert Trajectory.from_json(trajectory.to_json()) == trajectory
    shown_steps = steps(trajectory, agent.store)
    assert [re.sub(r"\(.*", "", step.caption) for step in shown_steps[:2]] == ["img_1: given", "img_2: make_image"]
    # Both generators said the same words, so there is one new image, under one name.
    assert set(trajectory.names) == {"img_1", "img_2"}


async def test_it_is_scored_like_any_agent(configure: Configure) -> None:
    class Brightness:
        async def evaluate(self, sample: EditSample) -> Score:
            assert sample.result is not None
            return Score(75.0 if pixel(sample.result, (0, 0)) > pixel(sample.source, (0, 0)) else 0.0)

    agent = DirectorGeneratorTaskAgent(config=configure(), backend=editors())
    trajectory = await agent.attempt(TASK)
    scored = await score_trajectory(trajectory, TASK, agent.store, EvaluationSetup(Brightness()))
    assert scored.score == 75.0


async def test_the_limit_of_rounds_is_told_as_a_limit(configure: Configure) -> None:
    trajectory, _ = await attempt(configure, editors(score=10), max_loops=2, threshold=50.0)
    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert trajectory.final_image is not None
    assert len(trajectory.turns) == 9


async def test_a_refusing_editor_is_a_failed_call_and_no_image_is_made_up(configure: Configure) -> None:
    trajectory, _ = await attempt(configure, editors("add a photorealistic dragon"))
    assert trajectory.stop_reason is StopReason.ERROR
    assert trajectory.final_image is None
    assert "no image could be made" in str(trajectory.error)
    assert all(record.error for record in trajectory.tool_records)
    assert trajectory.messages[-1].text.startswith("no image: ")


async def test_a_dead_line_is_a_fault_of_the_backend(configure: Configure) -> None:
    trajectory, _ = await attempt(configure, editors(fails="Write a brief"))
    assert (trajectory.stop_reason, trajectory.final_image) == (StopReason.BACKEND_ERROR, None)
    assert "the line is dead" in str(trajectory.error)
    assert [turn.finish_reason for turn in trajectory.turns] == ["abort"]


async def test_from_text_alone_images_are_marked_as_what_they_are(configure: Configure) -> None:
    trajectory, _ = await attempt(configure, editors(), engine="sdxl")
    assert [record.engine for record in trajectory.tool_records] == ["mock", "mock"]
    assert trajectory.metadata["director-generator"]["mock_images"] == 2


async def test_a_model_at_an_endpoint(server: StudioServer, configure: Configure) -> None:
    settings = {"model": "gpt-4o", "base_url": server.v1, "temperature": 0.0, "engine": "sdxl"}
    agent = DirectorGeneratorTaskAgent(config=configure(), **settings)  # type: ignore[arg-type]
    trajectory = await agent.attempt(TASK)
    await agent.close()
    assert trajectory.answered
    assert {(body["model"], body["temperature"]) for body in server.chats} == {("gpt-4o", 0.0)}
    # Everybody sees the task's image; who judges sees the result too.
    assert {shown(body) for body in server.chats if "Answer with one" in said(body)} == {2}
    assert shown(server.chats[0]) == 1
    assert trajectory.turns[0].prompt_tokens == 7


async def test_time_runs_out_and_what_was_done_is_kept(configure: Configure) -> None:
    async def never(request: GenerationRequest) -> str:
        user = request.messages[-1].text
        if "Write a better prompt" in user:
            await asyncio.sleep(60)
        if "Answer with one JSON object" in user:
            return '{"feedback": "ok", "score": 30}'
        return "brighten"

    trajectory, _ = await attempt(configure, ScriptedBackend(never), timeout=1.5, seed=5)
    assert trajectory.stop_reason is StopReason.WALL_CLOCK
    assert trajectory.final_image is not None
    assert [record.data["seed"] for record in trajectory.tool_records] == [5, 6]


async def test_agentfly_eval_makes_it_by_name(configure: Configure, tmp_path: Path) -> None:
    from agentfly.evaluation.settings import EvaluationSettings
    from agentfly.evaluation.task_agent import make_task_agent

    settings = EvaluationSettings(
        data="stickers",
        out=tmp_path,
        agent="director-generator",
        model="gpt-4o",
        base_url="http://127.0.0.1:9/v1",
        max_tokens=64,
        temperature=0.0,
        engine="classical",
        agent_options={"config": str(configure()), "max_loops": 2},
    )
    agent = make_task_agent(settings, ImageStore())
    trajectory = await agent.attempt(TASK)
    await agent.close()
    assert trajectory.stop_reason is StopReason.BACKEND_ERROR
    assert "cannot reach http://127.0.0.1:9/v1" in str(trajectory.error)


def test_the_recipes_configuration_is_the_default(server: StudioServer) -> None:
    assert DirectorGeneratorTaskAgent(backend=editors()).name == "director-generator"


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"base_url": "http://x/v1"}, "give model too"), ({"engine": "clasical"}, "'classical'"), ({"config": "n"}, "n")],
)
def test_wrong_settings_are_named(server: StudioServer, settings: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DirectorGeneratorTaskAgent(**settings)  # type: ignore[arg-type]
