"""Settings of the backends: frozen, checked when they are made, and cheap to import.

A wrong setting is a `ConfigError` that names the field and the nearest valid one. No message ever contains a key.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field, SecretStr, model_validator

from agentfly.errors import ConfigError
from agentfly.redaction import ApiKey, read_key
from agentfly.settings import BaseUrl, Settings


class AsyncVLLMConfig(Settings):
    """Settings of the in-process vLLM engine.

    Any further field of vLLM's `AsyncEngineArgs` is accepted and passed on; its name is checked when the engine starts,
    so that making a configuration needs no vLLM. Fields that are not given keep vLLM's defaults, except for those
    listed in `agentfly.agents.llm_backends.async_vllm.engine_arguments`.

    Attributes:
        pipeline_parallel_size: stages that the layers are spread over, one GPU each.
        tensor_parallel_size: GPUs that share each layer.
        gpu_memory_utilization: share of each GPU's memory that the engine may take; None is vLLM's default.
        max_model_len: prompt and answer together, in tokens; None takes it from the checkpoint.
        trust_remote_code: run code that comes with the checkpoint.
        dtype: of weights and activations, e.g. "bfloat16"; "auto" takes it from the checkpoint.
        start_timeout: seconds until a start counts as failed.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    pipeline_parallel_size: int = Field(1, ge=1)
    tensor_parallel_size: int = Field(1, ge=1)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    max_model_len: int | None = Field(None, ge=1)
    trust_remote_code: bool = False
    dtype: str = "auto"
    start_timeout: float = Field(900.0, gt=0)

    def given(self) -> dict[str, object]:
        """Return the engine arguments that were set on purpose, by name."""
        fields = self.model_dump(exclude_unset=True, exclude={"start_timeout"})
        return {name: value for name, value in fields.items() if value is not None}

    def check_names(self, valid: Mapping[str, object]) -> None:
        """Check the passed-on fields against those that the engine has.

        Args:
            valid: the engine's fields by name.

        Raises:
            ConfigError: the engine has no such field; the message offers the nearest.
        """
        for name in self.model_extra or {}:
            if name == "model":
                raise ConfigError("AsyncVLLMConfig has no field 'model': the agent's model_name_or_path is served")
            if name not in valid:
                close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ConfigError(
                    f"unknown AsyncVLLMConfig field {name!r}.{hint} Any field of vLLM's AsyncEngineArgs is accepted."
                )


class ClientConfig(Settings):
    """Settings of an OpenAI-compatible server, local or in the cloud.

    Attributes:
        base_url: address up to and including `/v1`.
        api_key: None for a server that needs none; defaults to OPENAI_API_KEY of the environment.
        timeout: seconds that one attempt may take; when streaming, seconds between two chunks.
        max_requests_per_minute: requests are spaced so that no minute sees more; None for no limit.
        max_retries: further attempts after a rate limit, a server fault, a time-out or a lost connection.
        max_new_tokens: tokens of a turn at most, in place of the rollout's own limit.
        temperature: in place of the rollout's own.
        extra_body: further fields of every request body, e.g. {"top_k": 20} for a vLLM server.
        tools_as_text: describe the tools in the system message and read calls from the text, for a server that takes
            native tools but does not show them to its model. For a server that refuses them this is done anyway.
        return_token_ids: exact token ids and log-probs from a vLLM server, which must serve `checkpoint` with the
            agent's template; the server's prompt is checked.
        checkpoint: folder or hub name of the checkpoint that is served, for `return_token_ids`; None if the model's
            name on the server is that already.
    """

    base_url: BaseUrl = "https://api.openai.com/v1"
    api_key: ApiKey | None = Field(
        default_factory=lambda: SecretStr(key) if (key := read_key("OPENAI_API_KEY")) else None
    )
    timeout: float = Field(60.0, gt=0)
    max_requests_per_minute: int | None = Field(None, ge=1)
    max_retries: int = Field(4, ge=0)
    max_new_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    extra_body: Mapping[str, object] = Field(default_factory=dict)
    tools_as_text: bool = False
    return_token_ids: bool = False
    checkpoint: str | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> ClientConfig:
        if self.return_token_ids and self.tools_as_text:
            raise ValueError("return_token_ids needs the tools in the server's own prompt; set tools_as_text=False")
        return self


class ScriptedConfig(Settings):
    """Settings of the scripted backend; a list or a function alone may stand for them.

    Attributes:
        script: texts, or a function of the request; see `ScriptedBackend`.
        latency: seconds before a turn comes, or a function of the request that returns them.
    """

    script: Sequence[str] | Callable[..., Any]
    latency: float | Callable[..., float] = 0.0
