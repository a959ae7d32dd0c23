"""verl's agent loop: our rollout on verl's server, with tokens, pictures and reward in verl's shape."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from agentfly.datasets import StickerWorld
from agentfly.errors import BackendError
from agentfly.templates import ChatCodec
from agentfly.training.rows import write_rows

pytest.importorskip("verl")

from agentfly.training.agent_loop import AgentFlyAgentLoop, LoopSettings

CALL = (
    '<tool_call>{"name": "auto_inpaint_image", "arguments": {"image_id": "img_1", "detect_prompt": "DETECT", '
    '"prompt": "", "box_threshold": 0.6, "auto_mask_dilate": 4}}</tool_call>'
)
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'


class Server:
    """Plays verl's rollout server with a list of texts."""

    def __init__(self, codec: ChatCodec, texts: list[str]) -> None:
        self._codec, self._texts = codec, list(texts)
        self.requests: list[dict[str, Any]] = []

    async def generate(self, **request: Any) -> Any:
        self.requests.append(request)
        end = self._codec.tokenizer.convert_tokens_to_ids("<|im_end|>")
        ids = [*self._codec.tokenizer(self._texts.pop(0))["input_ids"], end]
        fields = {"min_global_steps": 3, "max_global_steps": 2 + len(self.requests)}
        return SimpleNamespace(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields=fields)


@pytest.fixture
def codec(tiny_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(tiny_policy))


def loop(codec: ChatCodec, server: Server, response_length: int = 192, **settings: Any) -> AgentFlyAgentLoop:
    made = AgentFlyAgentLoop.__new__(AgentFlyAgentLoop)  # verl's own constructor wants a whole trainer configuration
    made.settings = LoopSettings(**settings)
    made.processor, made.server_manager = codec.processor, server
    made.rollout_config = SimpleNamespace(prompt_length=64, response_length=response_length)
    return made


def row(tmp_path: Path) -> tuple[dict[str, Any], str]:
    task = StickerWorld().task(0, "heldout", "named")
    write_rows([task], tmp_path, "t")
    extra = {"index": 0, "task_file": str((tmp_path / "t.tasks.parquet").resolve())}
    return {"extra_info": extra, "uid": "u", "session_id": 1, "global_steps": 3}, task.metadata["steps"][0]["detect"]


async def test_a_good_edit_is_rewarded_and_its_tokens_are_exact(codec: ChatCodec, tmp_path: Path) -> None:
    kwargs, words = row(tmp_path)
    server = Server(codec, [CALL.replace("DETECT", words), ANSWER])
    log = tmp_path / "log.jsonl"
    output = await loop(codec, server, trajectory_log=str(log)).run({"temperature": 1.0}, **kwargs)
    assert output.reward_score is not None
    assert output.reward_score > 0.8
    assert len(output.response_ids) == len(output.response_mask) == len(output.response_logprobs or [])
    assert len(output.multi_modal_data["images"]) == 2  # type: ignore[index]
    whole = output.prompt_ids + output.response_ids
    assert server.requests[1]["prompt_ids"] == whole[: len(server.requests[1]["prompt_ids"])]
    assert server.requests[0]["request_id"] == server.requests[1]["request_id"]
    assert output.extra_fields["max_global_steps"] == 4
    assert output.extra_fields["reward_extra_info"]["score"] > 80
    assert json.loads(log.read_text())["trajectory"]["reward"] == output.reward_score


async def test_the_response_fits_in_verls_length(codec: ChatCodec, tmp_path: Path) -> None:
    kwargs, words = row(tmp_path)
    server = Server(codec, [CALL.replace("DETECT", words), ANSWER])
    output = await loop(codec, server, response_length=40).run({}, **kwargs)
    assert len(output.response_ids) <= 40
    assert output.response_mask[-1] == 1


async def test_a_dead_server_is_an_error_that_names_the_chain(codec: ChatCodec, tmp_path: Path) -> None:
    class Dead:
        async def generate(self, **request: Any) -> Any:
            raise ConnectionError("gone")

    kwargs, _ = row(tmp_path)
    with pytest.raises(BackendError, match=r"u-1 sampled nothing.*gone"):
        await loop(codec, Dead()).run({}, **kwargs)  # type: ignore[arg-type]


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        LoopSettings(max_turn=3)  # type: ignore[call-arg]
