"""An endpoint before its first generation: what is missing is named, and nothing is sent before that is known."""

from __future__ import annotations

import time

import pytest

from agentfly.agents.llm_backends.endpoint import endpoint_config, list_models, served_model
from agentfly.errors import BackendError, ConfigError
from tests.unit.agents.conftest import ChatServer


def test_openai_without_a_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="answers nobody without a key: export OPENAI_API_KEY with yours"):
        endpoint_config("https://api.openai.com/v1")
    with pytest.raises(ConfigError, match="export MY_KEY"):
        endpoint_config("https://api.openai.com/v1", "MY_KEY")
    assert endpoint_config("http://localhost:8000/v1").api_key is None


def test_the_key_is_that_of_the_variable_and_further_fields_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "geheim")
    config = endpoint_config("http://h/v1", "MY_KEY", {"timeout": 3})
    assert config.timeout == 3
    assert config.api_key is not None
    assert config.api_key.get_secret_value() == "geheim"
    assert "geheim" not in repr(config)


async def test_the_only_model_is_taken_and_one_that_was_named_is_kept(server: ChatServer) -> None:
    config = endpoint_config(server.url)
    assert await served_model(config, "mine") == "mine"
    server.models = ["only"]
    assert await served_model(config, None) == "only"
    server.models = ["b", "a"]
    with pytest.raises(ConfigError, match=f"^--model is missing: {server.url} serves a, b$"):
        await served_model(config, None)
    server.models = []
    assert await list_models(config) is None
    with pytest.raises(ConfigError, match=r"--model is missing: .* does not list its models"):
        await served_model(config, None)
    assert server.bodies == []


@pytest.mark.parametrize("listing", ["{", "[]", "null", '{"data": 7}', '{"data": [null]}', "9" * 5000, "[" * 300_000])
async def test_a_list_of_models_in_another_form_is_none(server: ChatServer, listing: str) -> None:
    server.listing = listing
    assert await list_models(endpoint_config(server.url)) is None


async def test_a_key_that_is_missing_or_wrong_is_named_by_its_variable(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.wanted = "right"
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(BackendError, match="wants a key: export MY_KEY with it"):
        await list_models(endpoint_config(server.url, "MY_KEY"), "MY_KEY")
    monkeypatch.setenv("MY_KEY", "wrong")
    with pytest.raises(BackendError, match="refuses the key in MY_KEY") as fault:
        await list_models(endpoint_config(server.url, "MY_KEY"), "MY_KEY")
    assert "wrong" not in str(fault.value)


async def test_no_message_about_an_endpoint_shows_a_secret_of_its_address(server: ChatServer) -> None:
    server.models = []
    away, there = (f"http://me:pa55word@{place}" for place in ("127.0.0.1:1/v1", server.url.removeprefix("http://")))
    with pytest.raises(BackendError, match=r"cannot reach http://\*\*\*@127.0.0.1:1/v1 \(") as unreachable:
        await list_models(endpoint_config(away))
    with pytest.raises(
        ConfigError, match=r"--model is missing: http://\*\*\*@127.0.0.1:\d+/v1 does not list"
    ) as unlisted:
        await served_model(endpoint_config(there), None)
    with pytest.raises(ConfigError, match=r"^https://api.openai.com/v1\?key=\*\*\* answers nobody") as keyless:
        endpoint_config("https://api.openai.com/v1?key=pa55word", "NO_SUCH_KEY")
    assert all("pa55word" not in str(fault.value) for fault in (unreachable, unlisted, keyless))


async def test_an_endpoint_that_is_away_is_told_in_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"^cannot reach http://127\.0\.0\.1:1/v1 .*that the server runs$"):
        await served_model(endpoint_config("http://127.0.0.1:1/v1"), "m")
    assert time.monotonic() - started < 10
