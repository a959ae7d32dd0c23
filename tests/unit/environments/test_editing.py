"""Episodes: the rollout's own loop, whose turns come from outside."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import ImageEditingAgent, StopReason, reward, task_conversation
from agentfly.agents.llm_backends import Generation, ScriptedBackend
from agentfly.agents.trajectory_file import read_trajectories
from agentfly.datasets import EditTask
from agentfly.environments import EditingEnvironment, EnvironmentSettings, Episode
from agentfly.errors import ConfigError
from agentfly.evaluation.replay import read_recording
from agentfly.messages import from_openai
from tests.unit.environments.scripted import answer, call, next_turn

FAMILIES = {"families": ("named",)}


def settings(**fields: Any) -> EnvironmentSettings:
    return EnvironmentSettings(**{"limit": 2, "data_options": FAMILIES, **fields})


@pytest.fixture
def task() -> EditTask:
    return settings().rows()[0].task()


@pytest.fixture
async def environment() -> AsyncIterator[EditingEnvironment]:
    made = settings().make_environment()
    yield made
    await made.close()


async def play(episode: Episode) -> Any:
    messages = list(episode.messages)
    while True:
        turn = next_turn(messages)
        result = await episode.step(turn)
        messages += [turn, *result.messages]
        if result.done:
            return result


async def test_an_episode_is_the_chain_that_our_own_rollout_makes_of_the_same_turns(
    environment: EditingEnvironment, task: EditTask
) -> None:
    episode = await environment.reset(task)
    result = await play(episode)

    def ours(request: Any) -> Generation:
        turns = [message for message in request.messages if message.role == "assistant"]
        edit = next_turn(list(episode.messages))
        message = from_openai(answer("img_2", 1) if turns else edit, lambda _: "")
        return Generation(message.text, tool_calls=message.tool_calls)

    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(ours))
    [trajectory] = await agent.run([task_conversation(task)])
    assert [m.to_dict() for m in episode.trajectory.messages] == [m.to_dict() for m in trajectory.messages]
    assert episode.trajectory.tools == trajectory.tools == episode.tools
    assert episode.trajectory.final_image == trajectory.final_image
    assert episode.trajectory.stop_reason is trajectory.stop_reason is StopReason.ANSWERED
    assert result.reward == episode.trajectory.reward
    assert result.info["score"] > 50
    assert result.info["score"] == pytest.approx(100 * result.info["reward_parts"]["edit"])


async def test_images_are_data_uris_of_the_pixels_in_first_messages_and_in_observations(
    environment: EditingEnvironment, task: EditTask
) -> None:
    def images(messages: Any) -> list[Image.Image]:
        parts = [
            p for m in messages if isinstance(m["content"], list) for p in m["content"] if p["type"] == "image_url"
        ]
        return [
            Image.open(BytesIO(b64decode(p["image_url"]["url"].removeprefix("data:image/png;base64,")))) for p in parts
        ]

    episode = await environment.reset(task)
    assert [message["role"] for message in episode.messages] == ["system", "user"]
    [source] = images(episode.messages)
    assert isinstance(task.images[0], Image.Image)
    assert source.tobytes() == task.images[0].tobytes()

    result = await episode.step(call("qwen_edit_image", image_id="img_1", prompt="brighten"))
    [observation] = result.messages
    assert (observation["role"], observation["tool_call_id"]) == ("tool", "call_0")
    [edited] = images([observation])
    assert sum(edited.tobytes()) > sum(source.tobytes())
    assert not result.done
    json.dumps([*episode.messages, *result.messages, dict(result.info)])


async def test_calls_in_the_text_are_parsed_and_text_without_a_call_ends_the_episode(
    environment: EditingEnvironment, task: EditTask
) -> None:
    episode = await environment.reset(task)
    text = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
    result = await episode.step(text)
    assert result.messages[0]["role"] == "tool"
    result = await episode.step("I am done.")
    assert result.done
    assert result.info["stop_reason"] == "no_tool_call"
    assert result.info["reward_parts"]["format"] < 0  # it has not answered


@pytest.mark.parametrize(
    ("limits", "turns", "reason"),
    [
        ({"max_turns": 1}, 1, "max_turns"),
        ({"max_tool_calls": 1}, 2, "max_tool_calls"),
        ({"max_images": 1}, 1, "context_full"),
    ],
)
async def test_the_limits_of_the_rollout_hold_and_the_episode_is_scored_as_it_stands(
    limits: dict[str, Any], turns: int, reason: str, task: EditTask
) -> None:
    environment = settings(limits=limits).make_environment()
    episode = await environment.reset(task)
    for _ in range(turns):
        result = await episode.step(call("qwen_edit_image", image_id="img_1", prompt="brighten"))
    assert result.done
    assert result.info["stop_reason"] == reason
    assert result.reward is not None
    await environment.close()


async def test_a_silent_policy_ends_its_episode_and_its_late_turn_is_not_carried_out(task: EditTask) -> None:
    environment = settings(limits={"wall_clock": 0.2}).make_environment()
    episode = await environment.reset(task)
    await asyncio.wait_for(episode._run, 10)
    result = await episode.step(answer("img_1"))
    assert result.done
    assert result.info["stop_reason"] == "wall_clock"
    assert result.info["turns"] == 0
    assert result.reward is not None
    await environment.close()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user", "content": "hello"}, "its role is assistant, not user"),
        ({"content": [{"type": "image", "image": "/etc/passwd"}]}, "sends none"),
        ({"content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}, "sends none"),
        ({"tool_calls": [{"id": "a"}]}, "needs the 'name'"),
        ({"tool_calls": "edit"}, "list of calls"),
        (["hello"], "a message is a mapping"),
    ],
)
async def test_a_message_that_is_no_turn_is_refused_and_changes_nothing(
    message: Any, words: str, environment: EditingEnvironment, task: EditTask
) -> None:
    episode = await environment.reset(task)
    with pytest.raises(ConfigError, match=words):
        await episode.step(message)
    assert (await play(episode)).info["stop_reason"] == "answered"


async def test_a_malformed_call_is_an_observation_and_is_counted(
    environment: EditingEnvironment, task: EditTask
) -> None:
    episode = await environment.reset(task)
    broken = call("qwen_edit_image")
    broken["tool_calls"][0]["function"]["arguments"] = '{"image_id": '
    result = await episode.step(broken)
    assert "Error" in str(result.messages[0]["content"])
    assert (await episode.step(answer("img_1"))).info["reward_parts"]["format"] == pytest.approx(-0.05)


async def test_an_episode_that_is_over_and_one_that_steps_take_no_turn(
    environment: EditingEnvironment, task: EditTask
) -> None:
    episode = await environment.reset(task)
    first = asyncio.create_task(episode.step(call("qwen_edit_image", image_id="img_1", prompt="blur")))
    await asyncio.sleep(0)
    with pytest.raises(ConfigError, match="under way"):
        await episode.step(answer("img_1"))
    await first
    await episode.step(answer("img_1"))
    with pytest.raises(ConfigError, match=r"over \(answered\)"):
        await episode.step(answer("img_1"))


async def test_episodes_at_once_do_not_see_each_others_turns(environment: EditingEnvironment) -> None:
    tasks = [row.task() for row in settings(limit=6).rows()]
    episodes = [await environment.reset(task) for task in tasks]
    results = await asyncio.gather(*(play(episode) for episode in episodes))
    assert {result.info["stop_reason"] for result in results} == {"answered"}
    assert [episode.trajectory.metadata["id"] for episode in episodes] == [task.id for task in tasks]
    assert len({episode.trajectory.id for episode in episodes}) == 6


async def test_two_running_episodes_cannot_have_one_id(environment: EditingEnvironment, task: EditTask) -> None:
    episode = await environment.reset(task, episode_id="mine")
    with pytest.raises(ConfigError, match="'mine' is running"):
        await environment.reset(task, episode_id="mine")
    await episode.close()
    assert (await environment.reset(task, episode_id="mine")).trajectory.id == "mine"


async def test_a_stopped_episode_can_be_scored_and_one_whose_policy_failed_cannot(
    environment: EditingEnvironment, task: EditTask
) -> None:
    stopped, failed = await environment.reset(task), await environment.reset(task)
    assert environment.evaluation is not None
    await stopped.step(call("qwen_edit_image", image_id="img_1", prompt="brighten"))
    await stopped.stop()
    await stopped.score(environment.evaluation)
    assert stopped.trajectory.reward is not None
    await failed.stop("the endpoint is gone")
    with pytest.raises(Exception, match="the endpoint is gone"):
        await failed.score(environment.evaluation)


async def test_a_step_that_is_cancelled_ends_its_episode_which_can_be_scored_as_it_stands(
    environment: EditingEnvironment, task: EditTask
) -> None:
    episode = await environment.reset(task)
    step = asyncio.create_task(episode.step(call("qwen_edit_image", image_id="img_1", prompt="blur")))
    await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert environment.evaluation is not None
    assert episode.trajectory.stop_reason is StopReason.STOPPED
    await episode.score(environment.evaluation)
    with pytest.raises(ConfigError, match=r"over \(stopped\)"):
        await episode.step(answer("img_1"))


class NoScore:
    """An evaluator that is out of order."""

    async def evaluate(self, sample: object) -> Any:
        from agentfly.errors import EvaluatorError

        raise EvaluatorError("the judge is gone")


@reward
def words(answer_words: int = 0, prediction: str = "") -> dict[str, float]:
    return {"reward": 0.25, "length": float(len(prediction))}


async def test_without_a_score_there_is_no_reward_and_a_reason(task: EditTask, tmp_path: Path) -> None:
    environment = settings(evaluator=f"{__name__}:NoScore", log_dir=tmp_path).make_environment()
    result = await play(await environment.reset(task))
    assert result.done
    assert result.reward is None
    assert result.info["not_scored"] == "the judge is gone"
    [(_, line)] = read_trajectories(tmp_path / "trajectories.jsonl")
    assert "the judge is gone" in str(line.scores)
    await environment.close()


async def test_a_reward_function_and_a_choice_of_tools_have_the_names_of_recipes(task: EditTask) -> None:
    environment = settings(reward=f"{__name__}:words", tools=("auto_inpaint_image",)).make_environment()
    episode = await environment.reset(task)
    assert [tool["function"]["name"] for tool in episode.tools] == ["auto_inpaint_image", "give_answer"]
    result = await play(episode)
    assert (result.reward, result.info["reward_parts"]) == (0.25, {"length": 4.0})
    await environment.close()


async def test_the_log_keeps_every_episode_for_replay_also_of_one_task(task: EditTask, tmp_path: Path) -> None:
    environment = settings(log_dir=tmp_path).make_environment()
    for _ in range(2):
        await play(await environment.reset(task))
    unfinished = await environment.reset(task)
    await unfinished.step(call("qwen_edit_image", image_id="img_1", prompt="brighten"))
    await environment.reset(task)  # nothing was done in it
    await environment.close()

    lines = [line for _, line in read_trajectories(tmp_path / "trajectories.jsonl")]
    assert [line.trajectory.stop_reason for line in lines] == ["answered", "answered", "cancelled"]
    recording = read_recording(tmp_path)
    assert len(recording.chains) == 3
    images = recording.store()
    assert all(handle in images for line in lines for handle in line.trajectory.handles)


def test_an_agent_with_a_policy_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="ExternalPolicy"):
        EditingEnvironment(ImageEditingAgent("scripted", backend=ScriptedBackend(["x"])))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": "sticker"}, "stickers"),
        ({"evaluator": "referense"}, "reference"),
        ({"tools": ("qwen_edit",)}, "qwen_edit_image"),
        ({"log": "runs"}, "log-dir"),
        ({"data_options": {"families": ("named",), "count": 0}}, "no tasks"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, Any], words: str) -> None:
    def make() -> None:
        chosen = settings(**fields)
        chosen.make_environment()
        chosen.rows()

    with pytest.raises(ConfigError, match=words):
        make()
