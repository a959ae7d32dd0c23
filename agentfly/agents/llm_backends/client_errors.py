"""Faults between the client and its server: what they mean, whether to retry, and when.

Every fault becomes a `BackendError` without the key in it.
"""

from __future__ import annotations

import email.utils
import json
import logging
import random
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentfly.agents.llm_backends.configs import ClientConfig
from agentfly.aio import Sleep
from agentfly.errors import BackendError, short_paths

if TYPE_CHECKING:
    import openai
    from tenacity import AsyncRetrying, RetryCallState

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 120.0
_ADVICE = {
    401: "; check api_key, or set {variable}",
    403: "; check that api_key may use this model",
    404: "; check the model name, and that this address ends in /v1",
}
# vLLM without a parser, Ollama and OpenRouter with a model that has no tools, llama.cpp without --jinja.
_NO_TOOLS = re.compile(
    r"tool choice requires|tools param requires|"
    r"(?:no endpoints found that|not|n't) support(?: the)?:? ['\"`]?(?:tools?|functions?)\b|"
    r"\btools?['\"`]? (?:parameter )?(?:is|are) (?:not supported|unsupported)",
    re.IGNORECASE,
)


_SHORTEST_SECRET = 4  # letters


class TransientError(BackendError):
    """A fault that is worth another attempt; `wait` is what the server asked for, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message, retryable=True)
        self.wait = wait


class UnreachableError(TransientError):
    """Nobody answers at the address: the network or the server is at fault, not the model."""


class Faults:
    """Reads the SDK's exceptions for one server.

    Args:
        config: of the server.
        variable: where the environment has its key.
    """

    def __init__(self, config: ClientConfig, variable: str = "OPENAI_API_KEY") -> None:
        self._config, self._variable = config, variable

    def of(self, fault: Exception) -> BackendError:
        """What an exception of the SDK means."""
        import openai

        url = self._config.base_url
        if isinstance(fault, TimeoutError | openai.APITimeoutError):
            told = f"{url} did not answer within {self._config.timeout:g} s: raise the timeout of backend_config"
            return UnreachableError(told)
        if isinstance(fault, openai.APIConnectionError):
            cause = self._redact(fault.__cause__ or fault)
            return UnreachableError(f"cannot reach {url} ({cause}); check this address, and that the server runs")
        if isinstance(fault, openai.APIStatusError):
            return self._status(fault)
        if isinstance(fault, openai.APIResponseValidationError | json.JSONDecodeError):
            return self.malformed()
        return TransientError(f"{url} reported: {self._redact(fault)}")

    def malformed(self) -> BackendError:
        """The answer is no chat completion."""
        return BackendError(f"{self._config.base_url} sent no chat completion; check that this address ends in /v1")

    def _status(self, fault: openai.APIStatusError) -> BackendError:
        status = fault.status_code
        advice = _ADVICE.get(status, "").format(variable=self._variable)
        message = f"{self._config.base_url} answered {status}: {self._redact(fault)}{advice}"
        if not (status in (408, 429) or status >= 500) or fault.code == "insufficient_quota":
            return BackendError(message)
        wait = _retry_after(fault.response.headers)
        if wait is not None and wait > _LONGEST_WAIT:
            return BackendError(f"{message} (and asks to wait {wait:.0f} s)", retryable=True)
        return TransientError(message, wait)

    def _redact(self, fault: BaseException) -> str:
        text = str(fault)
        key = self._config.api_key.get_secret_value() if self._config.api_key is not None else ""
        # A shorter one ("x") protects nothing, and is part of every second word of the message.
        if len(key) >= _SHORTEST_SECRET:
            text = text.replace(key, "***")
        return short_paths(text)[:500]


def refuses_tools(fault: openai.APIStatusError) -> bool:
    """Whether a server says that it has no native tool calls."""
    return fault.status_code in (400, 404, 422, 500, 501) and _NO_TOOLS.search(str(fault)) is not None


def retrying(attempts: int, sleep: Sleep) -> AsyncRetrying:
    """Tries a call again after a `TransientError`, with backoff, or after the wait that the server asked for."""
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

    return AsyncRetrying(
        sleep=sleep,  # type: ignore[arg-type]
        stop=stop_after_attempt(attempts),
        wait=_wait,
        retry=retry_if_exception_type(TransientError),
        before_sleep=_log_retry,
        reraise=True,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _wait(state: RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    if isinstance(fault, TransientError) and fault.wait is not None:
        # Chains that were refused together must not come back together.
        return fault.wait * random.uniform(1.0, 1.1)
    return min(30.0, 0.5 * 2.0 ** (state.attempt_number - 1)) * random.uniform(0.5, 1.0)


def _log_retry(state: RetryCallState) -> None:
    fault = state.outcome.exception() if state.outcome else None
    logger.warning("attempt %d failed: %s; trying again", state.attempt_number, fault)
