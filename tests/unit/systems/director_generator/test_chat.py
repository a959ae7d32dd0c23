"""Chat over the wire: what passes is tried again, what does not is told; streamed or not; LiteLLM or our own client.

Replies are read in the forms that models give them.
"""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import openai
import pytest

from agentfly.agents.llm_backends import ClientBackend
from agentfly.errors import ConfigError, MissingExtraError
from agentfly.evaluators.judge.replies import BrokenReply
from agentfly.systems.director_generator import DirectorGenerator, Request, RunRecord, load_studio
from agentfly.systems.director_generator.chat import make_backend, read_critique, read_prompt
from tests.fuzz.growth import growth
from tests.unit.agents.conftest import delta, failure, stream
from tests.unit.systems.director_generator.conftest import Configure, StudioServer, broken_off, said, shown

NOW = {"retry-after": "0"}


async def run(configure: Configure, env: dict[str, str] | None = None, **changes: Any) -> RunRecord:
    system = DirectorGenerator(load_studio(configure(**changes), {"OPENAI_API_KEY": "sk-1", **(env or {})}))
    try:
        return await system.run(Request("a red boat"))
    finally:
        await system.close()


async def test_a_whole_run_over_the_wire(server: StudioServer, configure: Configure) -> None:
    record = await run(configure)
    assert record.status == "threshold"
    assert server.phases == {"brief": 1, "write": 2, "critique": 2}
    assert [shown(body) for body in server.chats] == [0, 0, 0, 1, 1]
    assert server.chats[0]["messages"][0]["role"] == "system"
    assert (server.chats[0]["model"], server.chats[0]["temperature"]) == ("qwen/Qwen2.5-VL-7B-Instruct", 0.7)
    assert set(server.keys) == {"Bearer sk-1"}
    assert record.counts()["prompt_tokens"] == 5 * 7
    assert {call.via for call in record.calls} == {"client"}


@pytest.mark.parametrize(
    "fault", [failure(429, "slow down", NOW), failure(500, "oops", NOW), broken_off('{"id": "c", "cho')]
)
async def test_what_passes_is_tried_again(server: StudioServer, configure: Configure, fault: Any) -> None:
    server.faults.append(fault)
    record = await run(configure)
    assert (record.status, record.counts()["failed_calls"], len(server.chats)) == ("threshold", 0, 6)


async def test_what_does_not_pass_ends_the_run_with_the_servers_words(
    server: StudioServer, configure: Configure
) -> None:
    server.faults.extend([failure(500, "still loading", NOW)] * 2)
    record = await run(configure)
    assert record.status == "failed"
    assert "still loading" in str(record.error)
    assert len(server.chats) == 2


async def test_a_wrong_model_id_is_told_at_once(server: StudioServer, configure: Configure) -> None:
    record = await run(configure, models={"qwen": {"model": "Qwen/qwen2.5-vl-7b-instruct"}})
    assert (record.status, len(server.chats)) == ("failed", 1)
    assert "Qwen/qwen2.5-vl-7b-instruct` does not exist" in str(record.error)
    assert "check the model name" in str(record.error)


async def test_streamed_replies(server: StudioServer, configure: Configure) -> None:
    record = await run(configure, stream=True)
    assert record.status == "threshold"
    assert all(body["stream"] for body in server.chats)
    assert record.calls[0].reply == "A red boat, whole, on calm water."


async def test_a_stream_that_breaks_off_half_way_is_asked_for_anew(server: StudioServer, configure: Configure) -> None:
    server.faults.append(stream(delta(content="A red"), done=False))
    record = await run(configure, stream=True)
    assert (record.status, len(server.chats)) == ("threshold", 6)
    assert record.calls[0].reply == "A red boat, whole, on calm water."


async def test_a_model_that_does_not_see_is_sent_no_image(server: StudioServer, configure: Configure) -> None:
    server.score = lambda _: 10
    blind = {"provider": "vllm", "model": "gpt-4o-mini", "sees_images": False}
    seeing = {"provider": "vllm", "model": "gpt-4o"}
    roles = {"director": "seeing", "generator": "blind"}
    await run(configure, models={"seeing": seeing, "blind": blind}, roles=roles, max_loops=2)
    refined = [body for body in server.chats if "Write a better prompt" in said(body)]
    assert [(body["model"], shown(body)) for body in refined] == [("gpt-4o-mini", 0)] * 2


def test_openai_needs_a_key(configure: Configure) -> None:
    path = configure(models={"qwen": {"provider": "openai", "model": "gpt-4o"}})
    studio = load_studio(path, {})
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
        make_backend(studio, studio.settings.models["qwen"])


def test_without_litellm_compatible_endpoints_get_our_own_client(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    studio = load_studio(configure(chat="auto"), {})
    assert type(make_backend(studio, studio.settings.models["qwen"])) is ClientBackend
    studio = load_studio(configure(chat="litellm"), {})
    with pytest.raises(MissingExtraError, match=r"extra \[litellm\]"):
        make_backend(studio, studio.settings.models["qwen"])


def test_other_vendors_need_litellm(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"qwen": {"provider": "anthropic", "model": "claude"}}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    studio = load_studio(configure(models=models, chat="auto"), {})
    with pytest.raises(MissingExtraError, match=r"extra \[litellm\]"):
        make_backend(studio, studio.settings.models["qwen"])
    studio = load_studio(configure(models=models, chat="client"), {})
    with pytest.raises(ConfigError, match="LiteLLM only"):
        make_backend(studio, studio.settings.models["qwen"])


@pytest.fixture
def litellm(server: StudioServer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A module that takes what LiteLLM takes and asks the server as it would; notes what it was given."""
    calls: list[dict[str, Any]] = []

    async def acompletion(**given: Any) -> Any:
        calls.append(dict(given))
        names = ("custom_llm_provider", "api_base", "api_key", "num_retries", "max_retries", "drop_params")
        own = {name: given.pop(name) for name in names}
        async with openai.AsyncOpenAI(base_url=own["api_base"] or server.v1, api_key=own["api_key"] or "x") as client:
            return await client.with_options(max_retries=0).chat.completions.create(**given)

    module = ModuleType("litellm")
    module.__spec__ = importlib.machinery.ModuleSpec("litellm", None)
    module.acompletion = acompletion  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm", module)
    return calls


async def test_chat_goes_through_litellm_where_it_is_installed(
    server: StudioServer, configure: Configure, litellm: list[dict[str, Any]]
) -> None:
    server.faults.append(failure(429, "slow down", NOW))
    record = await run(configure, chat="auto")
    assert (record.status, {call.via for call in record.calls}) == ("threshold", {"litellm"})
    assert len(litellm) == 6
    first = litellm[0]
    assert (first["custom_llm_provider"], first["api_base"], first["num_retries"]) == ("openai", server.v1, 0)
    assert first["model"] == "qwen/Qwen2.5-VL-7B-Instruct"


async def test_vendors_of_litellm_get_their_own_key_and_no_endpoint(
    server: StudioServer, configure: Configure, litellm: list[dict[str, Any]]
) -> None:
    models = {"qwen": {"provider": "anthropic", "model": "gpt-4o"}}
    record = await run(configure, {"ANTHROPIC_API_KEY": "sk-ant"}, models=models, chat="auto")
    assert record.status == "threshold"
    assert {(call["custom_llm_provider"], call["api_base"], call["api_key"]) for call in litellm} == {
        ("anthropic", None, "sk-ant")
    }


async def test_a_wrong_key_of_a_vendor_is_told_with_its_own_variable(
    server: StudioServer, configure: Configure, litellm: list[dict[str, Any]]
) -> None:
    server.faults.append(failure(401, "no sk-ant here"))
    models = {"qwen": {"provider": "anthropic", "model": "gpt-4o"}}
    record = await run(configure, {"ANTHROPIC_API_KEY": "sk-ant"}, models=models, chat="auto")
    assert "set ANTHROPIC_API_KEY" in str(record.error)
    assert "sk-ant" not in str(record.error)


@pytest.mark.slow
async def test_the_real_litellm_where_it_is_installed(server: StudioServer, configure: Configure) -> None:
    pytest.importorskip("litellm", reason="the extra [litellm] is not installed")
    server.faults.extend(
        [failure(429, "slow down", NOW), broken_off("data: {"), stream(delta(content="A"), done=False)]
    )
    record = await run(configure, chat="litellm", stream=True, retries=3)
    assert (record.status, {call.via for call in record.calls}) == ("threshold", {"litellm"})
    wrong = await run(configure, models={"qwen": {"model": "no/such"}}, chat="litellm")
    assert "check the model name" in str(wrong.error)


async def test_our_own_client_can_be_asked_for(configure: Configure, litellm: list[dict[str, Any]]) -> None:
    record = await run(configure, chat="client")
    assert (record.status, {call.via for call in record.calls}, litellm) == ("threshold", {"client"}, [])


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        ("A red boat.", "A red boat.", ""),
        ("A red boat,\non water.\nNegative prompt: text, frames", "A red boat, on water.", "text, frames"),
        ('**Prompt:** "A red boat"\n\n**Negative prompt:** text,\nframes', "A red boat", "text, frames"),
        ("```text\nA red boat\nnegative_prompt: text\n```", "A red boat", "text"),
        ("A sign that says 'prompt: go'", "A sign that says 'prompt: go'", ""),
    ],
)
def test_prompts(text: str, prompt: str, negative: str) -> None:
    assert read_prompt(text) == {"prompt": prompt, "negative_prompt": negative}


@pytest.mark.parametrize("piece", ["\n", " \n", "*", "negative prompt\n", "```\n"])
def test_a_long_reply_is_read_in_time_in_proportion_to_its_length(piece: str) -> None:
    assert growth(read_prompt, lambda length: "a boat" + piece * (length // len(piece)) + "x", length=4000) < 4


def test_a_prompt_of_negations_alone_is_none() -> None:
    with pytest.raises(BrokenReply, match="has no prompt"):
        read_prompt("Negative prompt: text")


def test_critique_in_a_wrapping() -> None:
    text = 'I see.\n```json\n{"feedback": "Too dark.", "score": "70/100"}\n```'
    assert read_critique(text) == {"score": 70.0, "feedback": "Too dark."}


@pytest.mark.parametrize("text", ["Great!", '{"feedback": "x", "score": 101}', '{"feedback": "x"}', '{"score": 7}'])
def test_a_critique_without_a_score_of_the_scale_is_broken(text: str) -> None:
    with pytest.raises(BrokenReply):
        read_critique(text)
