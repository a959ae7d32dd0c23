"""The deploy command and the client backend against a real `vllm serve`: one tiny checkpoint on a CPU, started once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RolloutLimits, RunResult, StopReason
from agentfly.agents.llm_backends import ClientConfig, SamplingParams
from agentfly.templates import ChatCodec

pytestmark = pytest.mark.slow

START_SECONDS = 300
TEMPLATE = "compact-tool"
WORDS = ("brighten", "darken", "blur")
CALL = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "%s"}}</tool_call>'
CALL_REGEX = (CALL % f"({'|'.join(WORDS)})").replace("{", r"\{").replace("}", r"\}")


@dataclass(frozen=True)
class Served:
    """A deploy command that is ready."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def served(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "agentfly.utils.deploy", "--model_name_or_path", str(tiny_policy)]
    command += ["--template", TEMPLATE, "--host", "127.0.0.1", "--port", str(port), "--start-timeout", "290"]
    # From here on vLLM's own flags, in both spellings.
    command += ["--served_model_name", "tiny", "--max-model-len", "1024", "--max-num-seqs=8"]
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=file, stderr=file)
    try:
        _wait(process, log)
        family = psutil.Process(process.pid).children(recursive=True)
        yield Served(f"http://127.0.0.1:{port}/v1", log, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-3000:]
        _, left = psutil.wait_procs(family, 10)
        assert left == []
    finally:
        process.kill()


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "deploy: ready" not in log.read_text():
        if process.poll() is not None:
            pytest.fail(f"deploy ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        if time.monotonic() > deadline:
            pytest.fail(f"deploy was not ready in {START_SECONDS} s:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def make_agent(served: Served, *, template: str | None = None, turns: int = 1, **fields: Any) -> ImageEditingAgent:
    limits = RolloutLimits(max_turns=turns, max_tokens_per_turn=200, max_context_tokens=1000)
    config = ClientConfig(base_url=served.url, timeout=120, **fields)
    settings = AgentSettings(system_prompt=None, limits=limits, sampling=SamplingParams(seed=3))
    return ImageEditingAgent("tiny", template=template, backend="client", backend_config=config, settings=settings)


async def run(agent: ImageEditingAgent, image: Image.Image, **how: Any) -> RunResult:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Change it."}]
    # A fixed id fixes the seeds of all chains and turns.
    result = await agent.run({"id": "fixed", "messages": [{"role": "user", "content": content}]}, **how)
    await agent.close()
    return result


def test_deploy_says_what_it_serves_and_where(served: Served) -> None:
    ready = next(line for line in served.log.read_text().splitlines() if line.startswith("deploy: ready"))
    assert ready.endswith(f"at {served.url}, serving tiny")
    assert httpx.get(served.url.replace("/v1", "/health")).status_code == 200


async def test_a_forced_call_reaches_the_tool(served: Served, image: Image.Image) -> None:
    choice = {"type": "function", "function": {"name": "give_answer"}}
    (trajectory,) = await run(make_agent(served, extra_body={"tool_choice": choice}, temperature=0.0), image)
    assert trajectory.error is None
    assert [record.name for record in trajectory.tool_records] == ["give_answer"]
    assert trajectory.tokens is None


async def test_calls_that_the_server_reads_reach_the_tool_and_its_image_comes_back(
    served: Served, image: Image.Image
) -> None:
    agent = make_agent(served, turns=2, extra_body={"structured_outputs": {"regex": CALL_REGEX}})
    (trajectory,) = await run(agent, image)
    assert (trajectory.error, trajectory.stop_reason) == (None, StopReason.MAX_TURNS)
    assert [(record.name, record.error) for record in trajectory.tool_records] == [("qwen_edit_image", None)] * 2
    # The server's parser took the calls out of the text.
    assert [turn.text for turn in trajectory.turns] == ["", ""]
    assert len(trajectory.images) == 2


async def test_text_streams_as_it_comes(served: Served, image: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    agent = ImageEditingAgent(
        "tiny",
        backend="client",
        backend_config={"base_url": served.url, "timeout": 120},
        streaming="console",
        settings=AgentSettings(system_prompt=None, limits=RolloutLimits(max_turns=1, max_tokens_per_turn=16)),
    )
    await run(agent, image, enable_streaming=True)
    assert "turn 1" in capsys.readouterr().out


def only_calls(codec: ChatCodec) -> dict[str, Any]:
    """Fields under which an untrained policy says calls, in the tokens into which they are tokenised."""
    texts = [CALL % word for word in WORDS]
    ids = {i for text in texts for i in codec.tokenizer(text, add_special_tokens=False)["input_ids"]}
    return {
        "structured_outputs": {"regex": CALL_REGEX},
        "allowed_token_ids": sorted(ids | codec.eos_ids),
    }


@pytest.mark.parametrize("streaming", [False, True])
async def test_turns_with_images_are_token_exact(
    served: Served, tiny_policy: Path, image: Image.Image, streaming: bool
) -> None:
    codec = ChatCodec.from_pretrained(str(tiny_policy), TEMPLATE)
    agent = make_agent(
        served,
        template=TEMPLATE,
        turns=3,
        return_token_ids=True,
        checkpoint=str(tiny_policy),
        extra_body=only_calls(codec),
    )
    agent.streaming = "console" if streaming else None
    result = await run(agent, image, num_chains=1 if streaming else 4, enable_streaming=streaming)
    assert [trajectory.error for trajectory in result] == [None] * len(result)
    for trajectory in result:
        trajectory.check(codec, agent.store.get)
        assert trajectory.stop_reason is StopReason.MAX_TURNS
        assert [record.error for record in trajectory.tool_records] == [None] * 3
        tokens = trajectory.tokens
        assert tokens is not None
        assert len(codec.image_runs(tokens.ids)) >= 2
        sampled = [value for value, mask in zip(tokens.logprobs, tokens.mask, strict=True) if mask]
        assert max(sampled) <= 0.0
        assert min(sampled) < 0.0
    if not streaming:
        assert len({tuple(trajectory.tokens.response_ids) for trajectory in result if trajectory.tokens}) > 1


async def test_what_cannot_be_exact_says_so(served: Served, tiny_policy: Path, image: Image.Image) -> None:
    fields: dict[str, Any] = {"return_token_ids": True, "checkpoint": str(tiny_policy)}
    agent = make_agent(served, template="qwen2.5-vl", **fields)
    (other_template,) = await run(agent, image)
    assert other_template.stop_reason is StopReason.BACKEND_ERROR
    assert "--template" in str(other_template.error)
    # Without a bound on its tokens an untrained policy spells words in its own way.
    free = make_agent(
        served, template=TEMPLATE, turns=2, extra_body={"structured_outputs": {"regex": CALL_REGEX}}, **fields
    )
    (other_tokens,) = await run(free, image)
    assert other_tokens.stop_reason is StopReason.BACKEND_ERROR
    assert "Both are the same text" in str(other_tokens.error)
    assert len(other_tokens.turns) == 1


def test_the_answer_of_the_server_is_what_the_sdk_is_told(served: Served) -> None:
    """Names of vLLM's own fields, which the client reads: they are no part of OpenAI's API and may change."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 3,
        "logprobs": True,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{served.url}/chat/completions", json=body, timeout=120).json()
    assert json.dumps(answer["prompt_token_ids"]).startswith("[")
    (choice,) = answer["choices"]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"])
