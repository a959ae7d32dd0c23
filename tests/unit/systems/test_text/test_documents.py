"""The spellings of the documents on text agents: modules, scripts, and a class of one's own in one file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentfly.systems import BaseAgent, VLLMModel
from tests.unit.agents.conftest import ChatServer
from tests.unit.systems.test_text.conftest import prompt_of, say
from tests.unit.systems.test_text.test_recipes import NAMES

ROOT = Path(__file__).resolve().parents[4]
DOCUMENTS = ROOT / "recipes" / "documents"
TFRAMEX = """
from tframex.model import BaseModel, VLLMModel
from tframex.agents import BaseAgent, BasicAgent, ContextAgent
from tframex.systems import ChainOfAgents, MultiCallSystem
"""
MODULES = """
from model_logic import BaseModel, VLLMModel
from agent_logic import BaseAgent
from agents import BasicAgent, ContextAgent
from systems import ChainOfAgents, MultiCallSystem
"""
USE = """
import asyncio, os

model = VLLMModel(model_name="m", api_url=os.environ["URL"], api_key="sk-4")
assert isinstance(model, BaseModel)

async def main():
    agent = BasicAgent(agent_id="my_agent", model=model)
    assert isinstance(agent, BaseAgent)
    print(await agent.run("one", temperature=0.1, max_tokens=9))
    print(await ContextAgent(agent_id="c", model=model, context="Glass.").run("two"))
    chain = ChainOfAgents(system_id="s", model=model)
    print(await chain.run(initial_prompt="three", long_text="A long text."))
    calls = MultiCallSystem(system_id="m", model=model)
    print(await calls.run(prompt="four", num_calls=2, output_dir="out", base_filename="website"))
    messages = [{"role": "user", "content": "five"}]
    print([piece async for piece in model.call_stream(messages, temperature=0.2)])
    await model.close_client()

asyncio.run(main())
"""


def typed(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Type a command of a document in some folder, with the documents' modules on the path as the page says."""
    known = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = {**known, "PYTHONPATH": f"{DOCUMENTS}:{ROOT}", **variables}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.parametrize("imports", [TFRAMEX, MODULES], ids=["tframex", "model_logic"])
def test_the_documented_imports_and_classes(imports: str, server: ChatServer, tmp_path: Path) -> None:
    server.say(*[say("an ", "answer")] * 7)
    done = typed("-c", imports + USE, cwd=tmp_path, URL=server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *["an answer"] * 3,
        "{'call_1': 'out/website_1.txt', 'call_2': 'out/website_2.txt'}",
        "['an ', 'answer']",
    ]
    assert server.keys == ["Bearer sk-4"] * 7
    first = server.bodies[0]
    assert (first["temperature"], first["max_completion_tokens"], first["stream"]) == (0.1, 9, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "folder"),
    [("example.py", "run_outputs"), ("examples/example.py", "examples/example_outputs")],
)
def test_the_example_is_a_script(script: str, folder: str, server: ChatServer, tmp_path: Path) -> None:
    server.say(*[say("an answer")] * 20)
    settings = {"VLLM_API_URL": server.url, "VLLM_API_KEY": "sk-4", "MODEL_NAME": "m"}
    done = typed(str(DOCUMENTS / script), cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {str(path.relative_to(tmp_path / folder)) for path in (tmp_path / folder).rglob("*.txt")}
    assert names >= {
        "ex1_basic_agent_output.txt",
        "ex2_context_agent_output.txt",
        "ex3_chain_system_output.txt",
        *(f"ex4_multi_call_outputs/website_{number}.txt" for number in (1, 2, 3)),
    }
    assert (server.bodies[0]["max_completion_tokens"], server.bodies[0]["temperature"]) == (32000, 0.7)


@pytest.mark.slow
def test_the_website_builder_is_a_script(server: ChatServer, tmp_path: Path) -> None:
    server.say(say('{"index.html": "front"}'), say("<html>bread</html>"))
    script = str(DOCUMENTS / "examples/website_builder/html.py")
    done = typed(script, cwd=tmp_path, API_URL=server.url, MODEL_NAME="m")
    assert done.returncode == 0, done.stdout + done.stderr
    page = tmp_path / "examples/website_builder/generated_website/index.html"
    assert page.read_text() == "<html>bread</html>\n"


async def test_an_agent_of_ones_own_takes_the_documented_helper(server: ChatServer, model: VLLMModel) -> None:
    class Extractor(BaseAgent):
        async def run(self, prompt: str, **kwargs: object) -> str:
            return (await self._stream_and_aggregate(f"Dates in: {prompt}", **kwargs)).upper()  # type: ignore[arg-type]

    server.say(say("1 may"))
    assert await Extractor(agent_id="x", model=model).run("It was 1 May.", temperature=0.0) == "1 MAY"
    assert prompt_of(server.bodies[0]) == "Dates in: It was 1 May."
