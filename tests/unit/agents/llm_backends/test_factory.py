"""From the documented `backend=` argument to a backend."""

from __future__ import annotations

from typing import Any

import pytest

from agentfly.agents import AgentSettings, ImageEditingAgent, StopReason
from agentfly.agents.llm_backends import (
    ClientBackend,
    ClientConfig,
    GenerationRequest,
    SamplingParams,
    ScriptedBackend,
    ScriptedConfig,
    make_backend,
)
from agentfly.errors import ConfigError
from agentfly.messages import text_message
from tests.unit.agents.conftest import ChatServer

REQUEST = GenerationRequest("r", "s", [text_message("user", "hi")], [], SamplingParams())


@pytest.mark.parametrize(
    "config",
    [
        ["hello"],
        ("hello",),
        lambda request: "hello",
        {"script": ["hello"], "latency": 0.0},
        ScriptedConfig(script=["hello"], latency=lambda request: 0.0),
    ],
)
async def test_scripted_by_name(config: Any) -> None:
    backend = make_backend("scripted", "any", None, config)
    assert isinstance(backend, ScriptedBackend)
    assert (await backend.generate(REQUEST)).text == "hello"


async def test_an_agent_with_a_script() -> None:
    agent = ImageEditingAgent(
        "any", backend="scripted", backend_config=["Done."], settings=AgentSettings(system_prompt=None)
    )
    result = await agent.run([{"role": "user", "content": "hi"}])
    assert result[0].stop_reason is StopReason.NO_TOOL_CALL
    assert result[0].messages[-1].text == "Done."


@pytest.mark.parametrize("form", [ClientConfig, dict])
async def test_client_by_name_asks_that_server_for_that_model(form: Any, server: ChatServer) -> None:
    backend = make_backend("client", "m", "qwen3-vl", form(base_url=server.url, api_key="k"))
    assert (await backend.generate(REQUEST)).text == "ok"
    await backend.close()
    assert ([body["model"] for body in server.bodies], server.keys) == (["m"], ["Bearer k"])


def test_a_client_without_settings_is_openais() -> None:
    backend = make_backend("client", "m", None, None)
    assert isinstance(backend, ClientBackend)
    assert backend._config.base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("backend", "config", "message"),
    [
        ("clinet", None, "Did you mean 'client'"),
        ("client", ScriptedConfig(script=["x"]), "takes a ClientConfig or a dict, got ScriptedConfig"),
        ("client", ["x"], "takes a ClientConfig or a dict, got list"),
        ("client", {"base_ulr": "http://x/v1"}, "Did you mean 'base_url'"),
        ("scripted", None, "script: Field required"),
        ("scripted", "hello", "takes a ScriptedConfig or a dict, got str"),
        ("scripted", {"script": ["x"], "latencies": 1}, "Did you mean 'latency'"),
        (ScriptedBackend(["x"]), {"script": ["y"]}, "is an object already"),
    ],
)
def test_what_does_not_fit_is_named(backend: Any, config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_backend(backend, "m", None, config)
