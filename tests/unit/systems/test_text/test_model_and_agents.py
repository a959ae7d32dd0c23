"""Models and agents of one call, against a real server that streams and fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.llm_backends import Generation, ScriptedBackend
from agentfly.errors import BackendError, ConfigError
from agentfly.systems import BackendModel, BaseModel, BasicAgent, ContextAgent, MultiCallSystem, VLLMModel
from tests.unit.agents.conftest import ChatServer, delta, failure, stream
from tests.unit.systems.test_text.conftest import drop, prompt_of, say

USER = [{"role": "user", "content": "hi"}]


@pytest.mark.slow
def test_the_documented_import_is_light() -> None:
    code = (
        "from agentfly.systems import BasicAgent, ContextAgent, ChainOfAgents, MultiCallSystem, VLLMModel\n"
        "import sys\n"
        "heavy = {'torch', 'cv2', 'openai', 'transformers', 'vllm', 'diffusers', 'skimage', 'datasets'}\n"
        "sys.exit(str(heavy & {name.partition('.')[0] for name in sys.modules} or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() in ("", "set()"), done.stderr


async def test_pieces_come_while_the_server_still_speaks_and_thoughts_are_kept(
    server: ChatServer, model: VLLMModel
) -> None:
    server.say(say("<think>", "hm", "</think>", "Yes.", gap=0.1))
    pieces, times = [], []
    async for piece in model.call_stream(USER):
        pieces.append(piece)
        times.append(time.monotonic())
    assert "".join(pieces) == "<think>hm</think>Yes."
    assert times[-1] - times[0] > 0.2


async def test_thoughts_that_the_server_sends_apart_are_kept_in_text_and_file(
    server: ChatServer, model: VLLMModel, tmp_path: Path
) -> None:
    server.say(stream(delta(reasoning_content="hm"), delta(content="Yes."), delta("stop")))
    assert await BasicAgent("a", model).run("hi", output_path=tmp_path / "out.txt") == "<think>hm</think>Yes."
    assert (tmp_path / "out.txt").read_text() == "<think>hm</think>Yes."


async def test_content_as_parts_and_errors_in_status_200_are_read(server: ChatServer, model: VLLMModel) -> None:
    parts = ({"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"})
    server.say(stream(*(delta(content=[part]) for part in parts), delta("stop")))
    assert await BasicAgent("a", model).run("Is it?") == "<think>hm</think>yes"
    server.say(stream('{"error": {"message": "pay", "code": 402}}'))
    with pytest.raises(BackendError, match="answered 402: pay"):
        await BasicAgent("a", model).run("Is it?")
    assert len(server.bodies) == 2


async def test_an_answer_that_the_server_breaks_off_is_begun_anew(server: ChatServer, model: VLLMModel) -> None:
    server.say(stream(delta(content="half"), delta("error")), say("who", "le"))
    assert await BasicAgent("a", model).run("Is it?") == "whole"


async def test_options_of_a_call_go_before_those_of_the_model(server: ChatServer) -> None:
    model = VLLMModel("m", f"{server.url}/chat/completions", max_tokens=50, temperature=0.5, extra_body={"top_k": 9})
    server.say(say("a"), say("b"))
    agent = BasicAgent("a", model, system_prompt="Be short.")
    assert await agent.run("hi") + await agent.run("hi", temperature=0.1, max_tokens=7, repetition_penalty=1.1) == "ab"
    await model.close_client()
    first, second = server.bodies
    assert (first["temperature"], first["max_completion_tokens"], first["top_k"]) == (0.5, 50, 9)
    assert (second["temperature"], second["max_completion_tokens"], second["repetition_penalty"]) == (0.1, 7, 1.1)
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert first["stream"] is True
    assert server.keys[0] == "Bearer EMPTY"


async def test_a_slow_first_token_is_waited_for_and_no_longer_than_the_timeout(server: ChatServer) -> None:
    def slow(body: dict[str, object]) -> object:
        time.sleep(0.5)
        return say("late")(body)

    server.say(slow, slow)  # type: ignore[arg-type]
    patient, hasty = VLLMModel("m", server.url, timeout=5), VLLMModel("m", server.url, timeout=0.2, max_retries=0)
    assert await BasicAgent("a", patient).run("hi") == "late"
    with pytest.raises(BackendError, match=r"within 0.2 s"):
        await BasicAgent("a", hasty).run("hi")
    await asyncio.gather(patient.close_client(), hasty.close_client())


async def test_a_dropped_connection_is_begun_anew_and_the_file_has_the_whole_answer_once(
    server: ChatServer, model: VLLMModel, tmp_path: Path
) -> None:
    server.say(drop("one ", "two "), say("whole ", "answer"))
    file = tmp_path / "deep" / "out.txt"
    assert await BasicAgent("a", model).run("hi", output_path=file) == "whole answer"
    assert file.read_text() == "whole answer"
    assert len(server.bodies) == 2
    assert [path.name for path in file.parent.iterdir()] == ["out.txt"]


async def test_an_answer_that_never_ends_well_is_left_as_partial(server: ChatServer, tmp_path: Path) -> None:
    model = VLLMModel("m", server.url, max_retries=1)
    server.say(drop("first "), drop("second "))
    with pytest.raises(BackendError) as fault:
        await BasicAgent("a", model).run("hi", output_path=tmp_path / "out.txt")
    await model.close_client()
    assert fault.value.retryable
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.txt.partial": "second "}


async def test_whoever_reads_the_stream_is_not_told_its_beginning_twice(server: ChatServer, model: VLLMModel) -> None:
    server.say(drop("one "), say("whole"))
    stream_ = model.call_stream(USER)
    assert await anext(stream_) == "one "
    with pytest.raises(BackendError):
        await anext(stream_)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("status", "requests", "words"),
    [(404, 1, "check the model name"), (401, 1, "check api_key"), (400, 1, "answered 400"), (500, 2, "answered 500")],
)
async def test_only_faults_that_may_pass_are_tried_again(
    server: ChatServer, status: int, requests: int, words: str
) -> None:
    model = VLLMModel("no-such-model", server.url, "sk-9", max_retries=1)
    server.say(*[failure(status, "no model sk-9", headers={"retry-after": "0"})] * 2)
    with pytest.raises(BackendError, match=words) as fault:
        await BasicAgent("a", model).run("hi")
    await model.close_client()
    assert len(server.bodies) == requests
    assert "sk-9" not in str(fault.value)


async def test_rate_limits_pass(server: ChatServer, model: VLLMModel) -> None:
    server.say(failure(429, headers={"retry-after": "0"}), say("fine"))
    assert await BasicAgent("a", model).run("hi") == "fine"


async def test_leaving_the_stream_ends_the_request() -> None:
    ended = asyncio.Event()

    async def endless(_: object) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    model = BackendModel(ScriptedBackend(endless))
    async with aclosing(model.call_stream(USER)) as stream_:
        waiting = asyncio.ensure_future(anext(stream_))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    await asyncio.wait_for(ended.wait(), 5)


async def test_any_backend_will_do_and_one_that_does_not_stream_too() -> None:
    class Mute:
        codec = None

        async def generate(self, request: object, on_delta: object = None) -> Generation:
            return Generation("at once")

        async def close(self) -> None: ...

    assert await BasicAgent("a", Mute()).run("hi") == "at once"
    assert await BasicAgent("a", ScriptedBackend(["by word"])).run("hi") == "by word"


async def test_context_comes_before_the_prompt(server: ChatServer, model: VLLMModel) -> None:
    server.say(say("ok"))
    await ContextAgent("c", model, "Plates are glass.\n").run("What are plates?")
    assert prompt_of(server.bodies[0]) == "Context:\nPlates are glass.\n\nWhat are plates?"


async def test_a_cut_answer_is_told(server: ChatServer, model: VLLMModel, caplog: pytest.LogCaptureFixture) -> None:
    server.say(stream(delta(content="half"), delta("length")))
    assert await BasicAgent("a", model).run("hi", max_tokens=1) == "half"
    assert "max_tokens=1" in caplog.text


async def test_images_and_bad_messages_are_refused(model: VLLMModel) -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}
    for messages in ([image], [{"role": "clown", "content": "hi"}]):
        with pytest.raises(ConfigError):
            await anext(model.call_stream(messages))


async def test_a_file_that_cannot_be_written_is_told(model: VLLMModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="give another"):
        await BasicAgent("a", model).run("hi", output_path=tmp_path / "file" / "out.txt")


async def test_a_model_needs_call_stream_and_nothing_else(tmp_path: Path) -> None:
    class Echo(BaseModel):
        async def call_stream(self, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> AsyncGenerator[str, None]:
            for word in str(messages[-1]["content"]).split():
                yield f"{word} "

    model = Echo()
    assert await BasicAgent("a", model).run("one two") == "one two "
    answers = await MultiCallSystem("d", model).run("three", 2, str(tmp_path), "page")
    assert [Path(path).read_text() for path in answers.values()] == ["three ", "three "]
    await model.close_client()
