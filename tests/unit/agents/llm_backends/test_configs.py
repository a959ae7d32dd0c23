"""Settings: documented usage, frozen, faults named, keys never shown."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agentfly.agents.llm_backends import AsyncVLLMConfig, ClientConfig
from agentfly.errors import ConfigError


def test_documented_usage() -> None:
    config = AsyncVLLMConfig(
        pipeline_parallel_size=4, gpu_memory_utilization=0.5, max_model_len=8192, trust_remote_code=True, dtype="auto"
    )
    assert config.given() == {
        "pipeline_parallel_size": 4,
        "gpu_memory_utilization": 0.5,
        "max_model_len": 8192,
        "trust_remote_code": True,
        "dtype": "auto",
    }
    assert ClientConfig(base_url="http://0.0.0.0:8000/v1").timeout == 60.0


def test_only_what_was_set_is_given_to_the_engine() -> None:
    assert AsyncVLLMConfig(start_timeout=5).given() == {}
    assert AsyncVLLMConfig(max_num_seqs=4, seed=3).given() == {"max_num_seqs": 4, "seed": 3}


def test_unknown_client_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'base_ulr'. Did you mean 'base_url'"):
        ClientConfig(base_ulr="http://x/v1")  # type: ignore[call-arg]


def test_unknown_engine_field_names_the_nearest() -> None:
    config = AsyncVLLMConfig(max_num_seq=4)
    with pytest.raises(ConfigError, match="Did you mean 'max_num_seqs'"):
        config.check_names({"max_num_seqs": None, "seed": None})


def test_the_model_is_no_engine_setting() -> None:
    with pytest.raises(ConfigError, match="model_name_or_path is served"):
        AsyncVLLMConfig(model="other").check_names({"model": None})


def test_exact_turns_need_the_tools_in_the_servers_prompt() -> None:
    with pytest.raises(ConfigError, match="set tools_as_text=False"):
        ClientConfig(return_token_ids=True, tools_as_text=True)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"timeout": 0}, "timeout"), ({"base_url": "localhost:8000"}, "base_url"), ({"max_retries": -1}, "max_retries")],
)
def test_wrong_value_names_the_field(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ClientConfig(**fields)


def test_frozen() -> None:
    config = ClientConfig()
    with pytest.raises(ValidationError):
        config.timeout = 1.0  # type: ignore[misc]


def test_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    config = ClientConfig()
    assert config.api_key is not None
    assert config.api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(config) + config.model_dump_json()
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert ClientConfig().api_key is None


def test_a_refused_key_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as fault:
        ClientConfig(api_key=["sk-secret"])
    assert "sk-secret" not in str(fault.value)
