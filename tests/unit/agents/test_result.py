"""What a run gave, as figures, as a data set and as fine-tuning examples."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import ImageEditingAgent, RunResult, StopReason, Trajectory
from agentfly.agents.llm_backends import Generation, GenerationRequest, ScriptedBackend
from agentfly.templates import ChatCodec

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
WRONG = EDIT.replace("img_1", "img_8")
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'
SCRIPTS = {"0": [EDIT, ANSWER], "1": [WRONG, "no"], "2": ['<tool_call>{"name": 3}</tool_call>', "sorry"]}


def script(request: GenerationRequest) -> str | Generation:
    _, chain, turn = request.request_id.split("-")
    return Generation(SCRIPTS[chain][int(turn)], completion_tokens=10)


async def run(image: Image.Image, backend: ScriptedBackend | None = None, **metadata: Any) -> RunResult:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Darker."}]
    conversation = {"id": "t", "messages": [{"role": "user", "content": content}], **metadata}
    agent = ImageEditingAgent("s", backend=backend or ScriptedBackend(script))
    return await agent.run(conversation, num_chains=3)


async def test_figures(image: Image.Image) -> None:
    result = await run(image)
    result[0].reward, result[0].reward_parts = 1.0, {"success": 0.5}
    result[1].reward = 0.0
    figures = result.metrics
    assert figures["chains"] == 3
    assert figures["turns"] == 2
    assert figures["tool_calls"] == pytest.approx(4 / 3)
    assert figures["look_calls"] == 0
    assert figures["tool_errors"] == pytest.approx(2 / 3)
    assert figures["malformed_calls"] == pytest.approx(1 / 3)
    assert figures["tokens"] == 20
    assert figures["seconds"] > 0
    assert figures["reward"] == 0.5
    assert figures["reward/success"] == 0.5
    assert {name: value for name, value in figures.items() if name.startswith("stop/") and value} == {
        "stop/answered": 1,
        "stop/no_tool_call": 2,
    }
    assert {f"stop/{reason.value}" for reason in StopReason} <= figures.keys()


def test_no_chains_have_figures_too() -> None:
    assert RunResult().metrics["turns"] == 0
    assert "reward" not in RunResult().metrics


async def test_a_result_iterates_and_indexes(image: Image.Image) -> None:
    result = await run(image)
    assert [t.id for t in result] == ["t-0", "t-1", "t-2"]
    assert result[-1].id == "t-2"
    assert [t.id for t in result[:2]] == ["t-0", "t-1"]
    assert result.rewards == [None] * 3


async def test_examples_for_fine_tuning(image: Image.Image, tmp_path: Path) -> None:
    result = await run(image)
    path = tmp_path / "new" / "examples.jsonl"
    # The third has a call that could not be parsed: no example can hold it.
    assert result.to_openai_jsonl(path) == 2
    example = json.loads(path.read_text().splitlines()[0])
    assert [message["role"] for message in example["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "user",
        "assistant",
    ]
    image_part = next(p for p in example["messages"][1]["content"] if p["type"] == "image_url")
    kind, _, data = image_part["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as read:
        assert read.tobytes() == image.tobytes()
    call = example["messages"][2]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"image_id": "img_1", "prompt": "darken"}
    assert example["messages"][3]["tool_call_id"] == call["id"]
    assert {tool["function"]["name"] for tool in example["tools"]} >= {"qwen_edit_image", "give_answer"}
    assert result.to_openai_jsonl(path, only=lambda t: t.answered) == 1
    assert len(path.read_text().splitlines()) == 1


async def test_a_data_set_has_everything(image: Image.Image, tiny_policy: Path) -> None:
    codec = ChatCodec.from_pretrained(str(tiny_policy))
    exact = await run(image, ScriptedBackend([EDIT, ANSWER], codec=codec), target=image)
    rows = exact.to_dataset()
    assert rows.num_rows == 3
    row, trajectory = rows[0], exact[0]
    assert trajectory.tokens is not None
    assert row["prompt_ids"] == trajectory.tokens.prompt_ids
    assert row["logprobs"] == trajectory.tokens.logprobs
    assert [shown.size for shown in row["images"]] == [image.size, image.size]
    assert row["final_image"].tobytes() == exact.store.get(trajectory.final_image or "").tobytes()
    assert [message["role"] for message in row["messages"]] == [message.role for message in trajectory.messages]
    assert row["messages"][1]["content"][1] == {"type": "image", "text": None, "image": trajectory.images[0]}
    assert json.loads(row["messages"][2]["tool_calls"][0]["arguments"])["image_id"] == "img_1"
    assert json.loads(row["metadata"])["target"] == trajectory.images[0]
    assert row["stop_reason"] == "answered"


async def test_a_data_set_of_chat_chains_has_the_same_columns(image: Image.Image) -> None:
    rows = (await run(image)).to_dataset()
    assert rows[1]["prompt_ids"] is None
    assert rows[1]["final_image"] is None
    assert rows.features == RunResult((Trajectory("a", "a", []),)).to_dataset().features


HALF = "a \ud83d b"


async def test_half_of_a_surrogate_pair_in_what_was_sampled_ends_no_file(image: Image.Image, tmp_path: Path) -> None:
    result = await run(image, ScriptedBackend([f"{HALF} {EDIT}", f"{HALF} {ANSWER}"]), note=HALF)
    result[0].metadata[HALF] = [HALF]
    assert result.to_openai_jsonl(tmp_path / "examples.jsonl") == 3
    lines = (tmp_path / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    assert all("a ? b" in line and json.loads(line) for line in lines)
    assert not [path for path in tmp_path.iterdir() if path.name != "examples.jsonl"]
    row = result.to_dataset()[0]
    assert row["messages"][2]["content"][0]["text"].startswith("a ? b")
    assert json.loads(row["metadata"])["a ? b"] == ["a ? b"]
