"""Systems of several calls: the chain that reads a long text, and many answers at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.errors import BackendError, ConfigError
from agentfly.systems import ChainOfAgents, MultiCallSystem, VLLMModel
from tests.unit.agents.conftest import ChatServer, failure
from tests.unit.systems.test_text.conftest import drop, prompt_of, say

TEXT = " ".join(f"fact{number}." for number in range(60))


async def test_the_chain_hands_its_summary_on_and_answers_from_it(server: ChatServer, model: VLLMModel) -> None:
    server.say(say("<think>so</think>", "S1"), say("S2"), say("S3"), say("S4"), say("The answer."))
    chain = ChainOfAgents("c", model, chunk_size=50, chunk_overlap=5, summary_tokens=33)
    assert await chain.run("What?", TEXT, temperature=0.0, max_tokens=99) == "The answer."
    prompts = [prompt_of(body) for body in server.bodies]
    assert len(prompts) == len(chain.steps) == 5
    assert "nothing yet" in prompts[0]
    # Reasoning is kept with the step, and not handed on.
    assert (chain.steps[0].reply, chain.steps[0].text) == ("<think>so</think>S1", "S1")
    assert "\nS1\n" in prompts[1]
    assert "<think>" not in prompts[1]
    assert "\nS4\n" in prompts[4]
    assert "fact" not in prompts[4]
    assert all("What?" in prompt for prompt in prompts)
    assert [body["max_completion_tokens"] for body in server.bodies] == [33, 33, 33, 33, 99]
    chunks = [step.chunk for step in chain.steps[:-1]]
    assert all(chunk is not None and chunk.text in prompt for chunk, prompt in zip(chunks, prompts, strict=False))
    assert chain.steps[-1].chunk is None


async def test_steps_before_a_failure_are_kept_and_in_files(
    server: ChatServer, model: VLLMModel, tmp_path: Path
) -> None:
    server.say(say("S1"), failure(404, "gone"))
    chain = ChainOfAgents("c", model, chunk_size=50, chunk_overlap=5)
    with pytest.raises(BackendError, match=r"c, part 2 of 4: .*gone"):
        await chain.run("What?", TEXT, output_dir=tmp_path)
    assert [step.text for step in chain.steps] == ["S1"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"part_1.txt": "S1"}


@pytest.mark.parametrize("thoughts", ["<think>only this</think>", "<think>a limit cut this off"])
async def test_a_summary_of_thoughts_alone_does_not_wipe_out_what_is_known(thoughts: str) -> None:
    asked: list[str] = []

    def script(request: GenerationRequest) -> str:
        asked.append(request.messages[-1].text)
        return ("KNOWN", thoughts, "end", "end", "end")[len(asked) - 1]

    await ChainOfAgents("c", ScriptedBackend(script), chunk_size=50, chunk_overlap=5).run("What?", TEXT)
    assert "KNOWN" in asked[2]
    assert thoughts not in asked[2]


async def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="long_text is empty"):
        await ChainOfAgents("c", ScriptedBackend([])).run("What?", " \n")


async def test_many_calls_each_in_its_file(server: ChatServer, model: VLLMModel, tmp_path: Path) -> None:
    server.say(*(say(f"page {number}") for number in range(4)))
    done = await MultiCallSystem("m", model).run("Write.", 4, tmp_path / "out", "website", seed=5, temperature=0.9)
    assert done == {f"call_{number}": str(tmp_path / "out" / f"website_{number}.txt") for number in range(1, 5)}
    assert sorted(Path(path).read_text() for path in done.values()) == [f"page {number}" for number in range(4)]
    # Equal seeds would give one answer four times.
    assert sorted(body["seed"] for body in server.bodies) == [5, 6, 7, 8]


async def test_a_failed_call_costs_the_others_nothing(server: ChatServer, tmp_path: Path) -> None:
    model = VLLMModel("m", server.url, max_retries=0)
    system = MultiCallSystem("m", model, max_concurrency=1)
    server.say(say("one"), failure(404, "no such model"), drop("half"), say("four"))
    done = await system.run("Write.", 4, tmp_path, "r", extension=".html")
    await model.close_client()
    assert [done["call_1"], done["call_4"]] == [str(tmp_path / "r_1.html"), str(tmp_path / "r_4.html")]
    assert done["call_2"].startswith("error: ")
    assert "no such model" in done["call_2"]
    assert done["call_3"].endswith(f"what came is in {tmp_path / 'r_3.html.partial'}")
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert files == {"r_1.html": "one", "r_3.html.partial": "half", "r_4.html": "four"}


async def test_no_more_calls_at_once_than_allowed_and_files_grow_as_the_text_comes(tmp_path: Path) -> None:
    running, most, gate = 0, 0, asyncio.Event()

    class Backend:
        codec = None

        async def generate(self, request: GenerationRequest, on_delta: Any = None) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await on_delta("begin ")
            await gate.wait()
            running -= 1
            return None

        async def close(self) -> None: ...

    task = asyncio.ensure_future(MultiCallSystem("m", Backend(), max_concurrency=3).run("x", 5, tmp_path, "r"))
    while sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * len("begin "):
        await asyncio.sleep(0.005)
    assert most == 3
    gate.set()
    # The backend above ends its answers with a bug, which is an error of its call and of no other.
    assert all(outcome.startswith("error: AttributeError") for outcome in (await task).values())
    assert most == 3


async def test_a_cancelled_run_leaves_partial_files(tmp_path: Path) -> None:
    started = asyncio.Event()

    class Backend:
        codec = None

        async def generate(self, request: GenerationRequest, on_delta: Any = None) -> Any:
            await on_delta("begin")
            started.set()
            await asyncio.Event().wait()

        async def close(self) -> None: ...

    task = asyncio.ensure_future(MultiCallSystem("m", Backend()).run("x", 1, tmp_path, "r"))
    await started.wait()
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait({task})
    assert [path.name for path in tmp_path.iterdir()] == ["r_1.txt.partial"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0, "out", "r"), "num_calls=0"), ((1, "out", "../r"), "no file name"), ((1, "file/out", "r"), "give another")],
)
async def test_what_cannot_be_is_told(arguments: tuple[int, str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    calls, folder, name = arguments
    with pytest.raises(ConfigError, match=words):
        await MultiCallSystem("m", ScriptedBackend([])).run("x", calls, tmp_path / folder, name)


def test_no_calls_at_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_concurrency=0"):
        MultiCallSystem("m", ScriptedBackend([]), max_concurrency=0)
